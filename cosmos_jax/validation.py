"""Loss on held-out clips at fixed noise, and what the control is worth.

The same clips, noise and noise levels are used at every step and in every run with the same data
and seed, so the numbers can be compared. The control gap is the loss with another clip's control
minus the loss with the true one, at the same noise: it is zero for a network that ignores its
control.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from cosmos_jax import sharding
from cosmos_jax.data import held_out, pipeline
from cosmos_jax.diffusion import flow
from cosmos_jax.encode import Encoder
from cosmos_jax.loop import Loop, ValidationConfig
from cosmos_jax.train import Trainer
from cosmos_jax.types import Batch, Clip, TrainState

NOISE = 0x7A11D  # folded into the run's seed
BANDS = ("0-25%", "25-50%", "50-75%", "75-100%")  # of the training distribution of noise levels


def make(trainer: Trainer, encoder: Encoder, data: pipeline.DataSet, loop: Loop) -> "Validation":
    """The validation of a run; reads its clips.

    Raises:
        ValueError: see `read_clips` and `check_best`.
    """
    cameras = [camera or "the view" for camera, _ in data.validation.cameras]
    check_best(loop.checkpoint.best, loop.validation, cameras)
    clips, others = read_clips(data, loop.validation, loop.rows)
    noises, per_frame = loop.validation.noises, loop.validation.per_frame
    given = (trainer, encoder, clips, others, loop.rows, loop.batch, noises, cameras, per_frame)
    return Validation(*given)


def check_best(best: str | None, config: ValidationConfig, cameras: Sequence[str]) -> None:
    """Raises a ValueError where `config.checkpoint.best` is no loss that validation gives.

    A control gap is none: the lowest is the worst.
    """
    bands = BANDS if config.clips * config.noises >= len(BANDS) else ()
    views = cameras if len(cameras) > 1 else ()
    parts = [*(f"view/{camera}" for camera in views), *(f"noise/{band}" for band in bands)]
    known = ["val/loss", *(f"val/loss/{part}" for part in parts)]
    if best is not None and best not in known:
        raise ValueError(f"config.checkpoint.best={best!r} is none of {', '.join(known)}")


def read_clips(
    data: pipeline.DataSet, config: ValidationConfig, rows: Sequence[int]
) -> tuple[list[Clip], list[Clip]]:
    """The fixed clips, and as many of other episodes whose control stands in for the true one.

    The others are training clips. Where one set of episodes serves both purposes, they are the same
    clips, half of them further on; where it holds a single clip, there are no others.

    Raises:
        ValueError: see `check_clips` and `held_out.validation_iterator`.
    """
    check_clips(data, config)

    def read(clips: pipeline.Clips) -> list[Clip]:
        iterator = held_out.validation_iterator(clips, config.clips, rows)
        try:
            return [next(iterator) for _ in range(config.clips // clips.config.batch_size)]
        finally:
            iterator.close()

    clips = read(data.validation)
    if clips[0].control is None:
        return clips, []
    if data.train.episodes != data.validation.episodes:
        return clips, read(data.train)
    if len(data.train) == 1:
        return clips, []
    half = len(clips) // 2
    return clips, [*clips[half:], *clips[:half]]


def check_clips(data: pipeline.DataSet, config: ValidationConfig) -> None:
    """Whether a data set has the clips that `read_clips` wants, without reading any.

    Raises:
        ValueError: too few in a split; or no other clip is there.
    """
    one_set = data.train.episodes == data.validation.episodes
    controlled = data.train.config.control is not None
    for split in (data.validation,) if one_set or not controlled else (data.validation, data.train):
        held_out.spread_windows(len(split), config.clips, split.config.starts == "random")
    batches = config.clips // data.train.config.batch_size
    if controlled and one_set and len(data.train) > 1 and batches < 2:
        raise ValueError(
            f"config.validation.clips={config.clips} must be at least two batches where the same "
            "episodes serve to train and to validate: the control gap swaps clips"
        )


class Validation:
    """Fixed (clip, noise) pairs, and the compiled function that scores them.

    Args:
        trainer: whose loss it is.
        encoder: clips to latents.
        clips: stacked clips, each this process's rows of one global batch.
        others: as many stacked clips of other episodes, whose control stands in for the true one;
            empty for a model without control.
        rows: which rows of a global batch each stack holds.
        batch: size of the global batch.
        noises: draws for each clip.
        cameras: names of the views.
        per_frame: whether the loss of each latent frame is told too.
    """

    def __init__(
        self,
        trainer: Trainer,
        encoder: Encoder,
        clips: Sequence[Clip],
        others: Sequence[Clip],
        rows: Sequence[int],
        batch: int,
        noises: int,
        cameras: Sequence[str],
        per_frame: bool = False,
    ):
        self.cameras, self.per_frame = cameras, per_frame
        self.encoder, self.clips, self.others = encoder, clips, others
        self.rows, self.batch, self.noises = rows, batch, noises
        total = len(clips) * batch * noises
        self._score = jax.jit(_scorer(trainer, total))

    def __call__(self, state: TrainState) -> dict[str, float]:
        """The mean loss and, with control, the control gap with its standard error.

        `val/loss/view/CAMERA` is the loss of each view where there are several, `val/loss/noise/`
        that of each quarter of the noise levels, from the lowest, where there are pairs enough, and
        `val/loss/frame/N` that of each latent frame, if it is asked for.
        """
        true, other = [], []
        per_noise = len(self.clips) * self.batch
        for i, clip in enumerate(self.clips):
            encoded = self.encoder(clip, self.rows, self.batch)
            swapped = encoded
            if self.others:
                control = self.others[i].control
                assert control is not None  # `read_clips` gives others only where there is control
                swapped = encoded.replace(
                    control=self.encoder.latents(control, self.rows, self.batch)
                )
            for j in range(self.noises):
                pairs = jnp.arange(self.batch) + j * per_noise + i * self.batch
                true.append(self._score(state, encoded, pairs))
                if self.others:
                    other.append(self._score(state, swapped, pairs)[0])
        parts = [np.concatenate([np.asarray(x) for x in part]) for part in zip(*true)]
        losses, errors, sigmas = parts
        metrics = {"val/loss": float(losses.mean())}
        if other:
            gap = np.concatenate([np.asarray(x) for x in other]) - losses
            metrics["val/control_gap"] = float(gap.mean())
            metrics["val/control_gap_stderr"] = float(gap.std(ddof=1) / np.sqrt(len(gap)))
        if len(self.cameras) > 1:
            named = zip(self.cameras, errors.mean(axis=(0, 2)), strict=True)
            metrics |= {f"val/loss/view/{camera}": float(loss) for camera, loss in named}
        if self.per_frame:
            frames = enumerate(errors.mean(axis=(0, 1)))
            metrics |= {f"val/loss/frame/{t:02d}": float(loss) for t, loss in frames}
        if len(losses) >= len(BANDS):
            quarters = np.array_split(losses[np.argsort(sigmas)], len(BANDS))
            named = zip(BANDS, quarters, strict=True)
            metrics |= {f"val/loss/noise/{band}": float(some.mean()) for band, some in named}
        return metrics


Scores = tuple[Array, Array, Array]


def _scorer(trainer: Trainer, total: int) -> Callable[[TrainState, Batch, Array], Scores]:
    """Of each sample, without given frames, at the noise of its pair number: the loss `[b]`, that
    of its views and latent frames `[b v t]` and the noise level `[b]`.

    Noise levels are the `total` mid-quantiles of the training distribution, one for each pair: the
    mean over all pairs is then an estimate of the training loss without the luck of the draw.
    """

    def score(state: TrainState, batch: Batch, pairs: Int[Array, "b"]) -> Scores:
        key = jax.random.fold_in(jax.random.key(trainer.seed), NOISE)
        epsilon = flow.training_noise(key, pairs, batch.latents.shape[1:]).epsilon
        normal = jax.scipy.special.ndtri((pairs + 0.5) / total)
        none_given = jnp.zeros(len(pairs), jnp.int32)
        losses, parts = trainer.loss_given(
            state.params, state, batch, none_given, batch.text, epsilon, normal
        )
        gather = sharding.gather
        return gather(losses), gather(parts.errors), gather(parts.sigma)

    return score

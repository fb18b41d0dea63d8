"""Validation: the same pairs on any batch and mesh; the gap says what the control is worth."""

import types

import clips_on_disk
import jax
import numpy as np
import pytest

from cosmos_jax import optim, sharding
from cosmos_jax.data import layouts, pipeline
from cosmos_jax.encode import Encoder
from cosmos_jax.loop import ValidationConfig
from cosmos_jax.models.dct_codec import DCTCodec
from cosmos_jax.models.hashed_text import HashedText
from cosmos_jax.train import Process, Trainer
from cosmos_jax.types import Clip, TrainState
from cosmos_jax.validation import Validation, check_best, check_clips, read_clips

pytestmark = pytest.mark.core

VIEWS, FRAMES, SIZE = 2, 5, (16, 32)


class Knowing:
    """A network that takes its control for the clean latents, or that says nothing at all."""

    config = types.SimpleNamespace(dtype="float32")

    def __init__(self, follows):
        self.follows = follows

    def apply(self, variables, x, timesteps, *, control, **others):
        if not self.follows:
            return 0 * x
        return (x - control) * 1000 / timesteps[..., None, None, None]


def clips(count, first=0):
    """Clips whose control is the video itself; a clip depends on its number alone."""
    made = []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (VIEWS, FRAMES, *SIZE, 3), np.uint8)
        made.append(
            Clip(
                video=pixels,
                control=pixels,
                captions=("words", ""),
                view_ids=np.arange(VIEWS, dtype=np.int32),
                fps=np.float32(10),
                index=np.int32(number),
                name=f"clip {number}",
            )
        )
    return made


def stacks(clips, batch):
    pairs = [clips[i : i + batch] for i in range(0, len(clips), batch)]
    return [pipeline.stack_clips([vars(clip) for clip in some]) for some in pairs]


def validation(net, batch=2, noises=3, others=True, mesh=None, count=4, per_frame=False):
    mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
    trainer = Trainer(
        net=net,
        process=Process(num_conditional_latents=(0.5, 0.5), text_dropout=0.5),
        optimizer=optim.optimizer(OPTIM, 1),
        learning_rate=optim.learning_rate(OPTIM, 1),
        trainable=".*",
        ema_rate=0.0,
        seed=3,
    )
    text = HashedText(3, 8)
    encoder = Encoder(DCTCodec(), {}, lambda caption: text.encode([caption])[0], mesh, "float32")
    others = stacks(clips(count, first=10), batch) if others else []
    held_out = stacks(clips(count), batch)
    given = (trainer, encoder, held_out, others, range(batch), batch, noises, ("left", "right"))
    return Validation(*given, per_frame)


OPTIM = optim.OptimConfig(
    lr=1.0, weight_decay=0.0, clip=1.0, warm_up_steps=0, cycle_length=1, f_max=1.0, f_min=1.0
)
STATE = TrainState(step=np.int32(0), params={}, frozen={}, constants={}, opt_state=None, ema=None)


def test_control_that_tells_everything_is_worth_its_difference():
    result = validation(Knowing(follows=True))(STATE)
    assert result["val/loss"] == pytest.approx(0, abs=1e-6)
    assert result["val/control_gap"] > 2 * result["val/control_gap_stderr"] > 0


def test_control_that_is_ignored_is_worth_nothing():
    result = validation(Knowing(follows=False))(STATE)
    assert result["val/control_gap"] == result["val/control_gap_stderr"] == 0
    # The velocity is noise - latents: without a prediction, its mean square.
    assert 1 < result["val/loss"] < 20


def test_the_gap_is_the_mean_over_all_pairs_and_its_error():
    few = validation(Knowing(follows=True), noises=3)
    scored = []
    score = few._score

    def kept(*arguments):
        parts = score(*arguments)
        scored.append(np.asarray(parts[0]))
        return parts

    few._score = kept
    result = few(STATE)
    assert len(scored) == 2 * 2 * 3  # (true, other) x stacks x noises
    gaps = np.concatenate(scored[1::2]) - np.concatenate(scored[::2])
    assert gaps.shape == (4 * 3,)
    assert len(set(gaps.tolist())) == 12  # no pair counts twice
    assert result["val/control_gap"] == pytest.approx(gaps.mean(), rel=1e-6)
    assert result["val/control_gap_stderr"] == pytest.approx(
        gaps.std(ddof=1) / np.sqrt(12), rel=1e-5
    )


def test_pairs_are_the_same_for_any_batch_and_mesh():
    want = validation(Knowing(follows=True), batch=1)(STATE)
    mesh = sharding.make_mesh(data=2, fsdp=2, context=2)
    with jax.set_mesh(mesh):
        have = validation(Knowing(follows=True), batch=4, mesh=mesh)(STATE)
        again = validation(Knowing(follows=True), batch=4, mesh=mesh)
        assert again(STATE) == again(STATE) == have
    assert have.keys() == want.keys()
    for key in want:
        np.testing.assert_allclose(have[key], want[key], rtol=1e-4, atol=1e-6)


def test_without_control_there_is_no_gap():
    result = validation(Knowing(follows=False), others=False)(STATE)
    assert not [name for name in result if "gap" in name]


def test_losses_of_views_and_of_noise_levels_have_the_loss_as_their_mean():
    result = validation(Knowing(follows=False), noises=4, per_frame=True)(STATE)
    for group, count in (("view", 2), ("noise", 4), ("frame", 2)):
        parts = [loss for name, loss in result.items() if name.startswith(f"val/loss/{group}/")]
        assert len(set(parts)) == count
        assert np.mean(parts) == pytest.approx(result["val/loss"], rel=1e-5)
    assert {"val/loss/view/left", "val/loss/view/right"} <= result.keys()
    few = validation(Knowing(follows=False), noises=1, count=2, others=False)(STATE)
    assert not [name for name in few if "noise" in name or "frame" in name]


def test_the_lowest_noise_levels_come_first():
    # A network that answers with its input is off by 2 latents - noise where there is no noise, and
    # by the latents alone where there is nothing else.
    class Echo(Knowing):
        def apply(self, variables, x, timesteps, **others):
            return x

    result = validation(Echo(follows=False), noises=8)(STATE)
    bands = [loss for name, loss in result.items() if "/noise/" in name]
    assert bands == sorted(bands, reverse=True)


@pytest.mark.parametrize(
    "changes", [dict(every=-1), dict(clips=0), dict(noises=0), dict(clips=1, noises=1)], ids=str
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=r"config\.validation: "):
        ValidationConfig(**changes)


def test_the_best_checkpoint_is_by_a_loss_that_there_is():
    def check(best, cameras=("left", "right"), **changes):
        check_best(best, ValidationConfig(**dict(clips=2, noises=2) | changes), cameras)

    result = validation(Knowing(follows=True), noises=2)(STATE)
    for name in result:
        if "gap" not in name:
            check(name)
    check(None)
    for wrong in ("val/los", "val/control_gap", "val/loss/view/front", "loss"):
        with pytest.raises(ValueError, match=rf"best='{wrong}' is none of val/loss, .*view/left"):
            check(wrong)
    with pytest.raises(ValueError, match=r"best='val/loss/view/one' is none of val/loss$"):
        check("val/loss/view/one", ("one",), clips=1)


# ---- Which clips.


def data_set(root, batch, control=True, **changes):
    clips_on_disk.write_clips(
        root, counts=(9, 9, 9, 10), control="control_input_edge" if control else None
    )
    config = layouts.DataConfig(
        **dict(
            root=str(root),
            num_frames=5,
            size=clips_on_disk.SIZE,
            batch_size=batch,
            control="auto" if control else None,
            fps=10,
            cache_dir=str(root.parent / "cache"),
        )
        | changes
    )
    return pipeline.open_dataset(config)


def names(stacks):
    return [name for stack in stacks for name in stack.name]


def test_clips_are_held_out_and_the_other_control_is_of_other_episodes(tmp_path):
    data = data_set(tmp_path / "data", batch=2)
    clips, others = read_clips(data, ValidationConfig(clips=4), range(2))
    assert names(clips) == ["ep_3:0", "ep_3:1", "ep_3:3", "ep_3:4"]
    assert [len(stack.video) for stack in clips] == [2, 2]
    assert not any(name.startswith("ep_3") for name in names(others))
    for stack, other in zip(clips, others, strict=True):
        assert stack.control.shape == other.control.shape
        assert (stack.control != other.control).any(axis=(1, 2, 3, 4, 5)).all()


def test_where_all_episodes_are_trained_on_control_comes_from_another_clip(tmp_path):
    data = data_set(tmp_path / "data", batch=2, validation_fraction=None)
    with pytest.raises(ValueError, match="clips=2 must be at least two batches"):
        read_clips(data, ValidationConfig(clips=2), range(2))
    held_out, others = read_clips(data, ValidationConfig(clips=4), range(2))
    true, other = (np.concatenate([s.control for s in stacks]) for stacks in (held_out, others))
    assert (true != other).any(axis=(1, 2, 3, 4, 5)).all()
    numbers = [sorted(control[:, 0, 0, 0, 0, 1].tolist()) for control in (true, other)]
    assert numbers[0] == numbers[1]  # the same clips


def test_without_a_control_folder_there_are_no_others(tmp_path):
    data = data_set(tmp_path / "data", batch=2, control=False)
    clips, others = read_clips(data, ValidationConfig(clips=2), range(2))
    assert clips[0].control is None and others == []


def test_a_count_that_the_split_or_the_batch_cannot_give_is_refused(tmp_path):
    data = data_set(tmp_path / "data", batch=2)
    with pytest.raises(ValueError, match=r"3 validation clips .*batch_size=2"):
        read_clips(data, ValidationConfig(clips=3), range(2))
    with pytest.raises(ValueError, match=r"8 clips are wanted .* holds 6"):
        read_clips(data, ValidationConfig(clips=8), range(2))


def test_clips_are_counted_as_they_are_read(tmp_path):
    """What is refused without reading a clip is what reading them refuses, and nothing else."""
    for number, changes in enumerate(
        (
            dict(),
            dict(control=False),
            dict(validation_fraction=None),
            dict(validation_fraction=None, starts="first"),
            dict(validation_fraction=None, starts="random"),
            dict(validation_fraction=None, starts="first", episodes=1),
        )
    ):
        data = data_set(tmp_path / str(number), batch=1, **changes)
        for count in (1, 2, 4, 5, 6, 7):
            config = ValidationConfig(clips=count)
            told = []
            for ask in (check_clips, lambda *given: read_clips(*given, range(1))):
                try:
                    ask(data, config)
                    told.append(None)
                except ValueError as error:
                    told.append(str(error))
            assert told[0] == told[1], (changes, count)

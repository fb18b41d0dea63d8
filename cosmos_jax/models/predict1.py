"""The diffusion transformer of Cosmos-Predict1: the blocks of `models.dit` under another entrance.

Source: cosmos-predict1, `GeneralDIT`, `MultiviewGeneralDIT`, `VideoExtendMultiviewGeneralDIT`. Its
blocks, time embedding and final layer are those of the 2.5 family. Its own are: an input channel
for given frames only where there are any, positions added before every block, rope angles from
exact exponents, a view embedding that knows whether a view's frames are repeated, and a head that
guesses how large the error is at a noise level.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cosmos_jax import sharding
from cosmos_jax.models import layers, rope
from cosmos_jax.models.attention import GRID
from cosmos_jax.models.dit import (
    DiTConfig,
    Final,
    Shared,
    TimeEmbedding,
    check_inputs,
    reject,
    stack,
)
from cosmos_jax.types import Params, round_to

XAVIER = nn.initializers.xavier_uniform()
FRESH: tuple[tuple[str, layers.Initializer], ...] = (
    (r"^time/(up|out)/kernel$", nn.initializers.normal(0.02)),
    (r"^blocks/\w+_modulation/up/kernel$", layers.ZEROS),  # a new block changes nothing
    (r"^logvar/out/kernel$", lambda key, s, dtype: layers.uniform(s[0] ** -0.5)(key, s, dtype)),
    (r"/kernel$", XAVIER),
)
"""How new parameters are made, where not as in the 2.5 family."""


@dataclasses.dataclass(frozen=True)
class Predict1Config(DiTConfig):
    """One variant of the network; a feature of size 0, () or False is absent.

    Of `DiTConfig`, these networks have no text projection, control branch, cross-view attention or
    modulation by view. `rope_fps` is always so: frame positions follow the frame rate.

    Attributes:
        masked: takes the mask of given frames as an input channel (Video2World).
        repeats: a view's embedding depends on whether its frames are repeated.
        repeated_views: ids of views whose frames count as repeated unless the caller says else.
        sincos: extrapolation ratios of fixed positions of frames, rows and columns.
        learned: rows of the tables of learned positions of frames, rows and columns.
        rope_precision: dtype in which the angles of the rope are computed. "bfloat16" is what the
            reference's cast of a whole model makes of them: some are off by 0.14 rad.
        uncertainty: random features of the head that `Predict1.log_variance` reads.
    """

    text_features: int = 0
    rope_ratios: tuple[float, float, float] = (2.0, 1.0, 1.0)
    timestep_scale: float = 1.0
    rope_fps: bool = True
    masked: bool = False  # type: ignore[misc]  # always so in the 2.5 family
    repeats: bool = False
    repeated_views: tuple[int, ...] = ()
    sincos: tuple[float, ...] = ()
    learned: tuple[int, ...] = ()
    rope_precision: str = "float32"
    uncertainty: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        lacking = ("text_features", "control_blocks", "neighbours", "view_modulation")
        fixed = {"joint_views": True, "rope_dtype": "float32", "rope_fps": True}
        given = [name for name in lacking if getattr(self, name)]
        given += [name for name, value in fixed.items() if getattr(self, name) != value]
        lengths = {len(self.sincos), len(self.learned)}
        faults = [
            (given, f"networks of Predict1 take no {', '.join(given)}"),
            (self.sincos and self.learned, "sincos and learned exclude each other"),
            (lengths - {0, 3}, "sincos and learned list frames, rows and columns: three numbers"),
            (self.repeats and not self.view_channels, "repeats needs view_channels"),
            (self.repeated_views and not self.repeats, "repeated_views need repeats"),
            (
                self.rope_precision not in ("float32", "bfloat16"),
                f"rope_precision {self.rope_precision!r} is neither float32 nor bfloat16",
            ),
        ]
        reject("Predict1Config", faults)

    @property
    def dtypes(self) -> layers.Dtypes:
        """As every layer takes them, with the initialisers of these networks."""
        return layers.Dtypes(self.dtype, self.param_dtype, FRESH)


def rope_angles(
    grid: tuple[int, int, int],
    head_width: int,
    ratios: tuple[float, float, float],
    fps: Float[Array, ""],
    precision: str,
) -> Float[Array, "t h w k"]:
    """Angles of every token, the same for every view, each result rounded to `precision`.

    Args:
        grid: numbers of latent frames, patch rows and patch columns.
        head_width: features of a head, two for each angle.
        ratios: extrapolation ratios of frames, rows and columns.
        fps: frame rate; positions of latent frames are in units of 1/24 s, their spacing is not.
        precision: "float32" or "bfloat16".
    """

    def table(positions: Array, width: int, ratio: float) -> Array:
        def rounded(x: Any) -> np.ndarray:
            return np.asarray(x).astype(jnp.dtype(precision)).astype(np.float64)

        exponents = rounded(np.arange(0, width, 2) / width)
        theta = rounded(10000.0 * ratio ** (width / (width - 2)))
        rates = rounded(1 / rounded(theta**exponents)).astype(np.float32)
        return round_to(positions[:, None] * rates, precision)

    t, h, w = (jnp.arange(n, dtype=jnp.float32) for n in grid)
    t = round_to(round_to(t / round_to(fps, precision), precision) * rope.BASE_FPS, precision)
    widths = rope.axis_widths(head_width)
    return spread([table(*row) for row in zip((t, h, w), widths, ratios)])


def sincos_table(count: int, width: int, ratio: float) -> Float[np.ndarray, "count width"]:
    """Fixed positions along one axis: sines, then cosines, of `width // 2` rates each."""
    rates = 10000.0 ** -(np.arange(width // 2) / (width // 2))
    angles = np.arange(count)[:, None] / ratio * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


def sincos_positions(
    grid: tuple[int, int, int], width: int, ratios: tuple[float, ...]
) -> Float[Array, "t h w d"]:
    """Fixed positions of every token of a view: features of the frame, the row and the column."""
    widths = rope.axis_widths(width)
    return spread([jnp.asarray(sincos_table(*row)) for row in zip(grid, widths, ratios)])


def spread(tables: list[Array]) -> Float[Array, "t h w k"]:
    """Features of frames `[t i]`, rows `[h j]` and columns `[w k]`, side by side at every token."""
    t, h, w = tables
    grid = (len(t), len(h), len(w))
    parts = (t[:, None, None], h[None, :, None], w[None, None, :])
    wide = [jnp.broadcast_to(part, (*grid, part.shape[-1])) for part in parts]
    return sharding.constrain(jnp.concatenate(wide, axis=-1), "t h w d")


class LearnedPositions(nn.Module):
    """The sum of a vector for the frame, the row and the column, with a root mean square of 1.

    Attributes:
        rows: of the tables of frames, rows and columns.
        width: of a token.
        dtypes: of activations and of new parameters.
    """

    rows: tuple[int, ...]
    width: int
    dtypes: layers.Dtypes

    @nn.compact
    def __call__(self, grid: tuple[int, int, int]) -> Float[Array, "t h w d"]:
        """Positions of every token of a view, float32.

        Raises:
            ValueError: more frames, rows or columns than a table has rows.
        """
        parts = []
        for axis, count, rows in zip("thw", grid, self.rows):
            if count > rows:
                raise ValueError(f"{count} positions along {axis}; the network has {rows}")
            table = layers.Embed(rows, self.width, self.dtypes, 0.02, name=axis)
            parts.append(table(jnp.arange(count)).astype(jnp.float32))
        t, h, w = parts
        y = sharding.constrain(t[:, None, None] + h[None, :, None] + w[None, None, :], "t h w d")
        return y / (jnp.sqrt(jnp.mean(y * y, axis=-1, keepdims=True)) + 1e-6)


class Uncertainty(nn.Module):
    """The logarithm of the error's variance at a noise level, from random Fourier features.

    Attributes:
        features: how many.
        dtypes: of activations and of new parameters.
    """

    features: int
    dtypes: layers.Dtypes

    @nn.compact
    def __call__(self, timesteps: Float[Array, "b 1 1"]) -> Float[Array, "b 1 1"]:
        """Reads the timesteps that the network receives; float32."""

        def drawn(draw: Any) -> Array:
            return 2 * np.pi * draw(self.make_rng("params"), (self.features,))

        freqs = self.variable("constants", "freqs", drawn, jax.random.normal).value
        phases = self.variable("constants", "phases", drawn, jax.random.uniform).value
        waves = np.sqrt(2) * jnp.cos(timesteps[..., None].astype(jnp.float32) * freqs + phases)
        return layers.Linear(1, "b v t d", self.dtypes, name="out")(waves)[..., 0]


class Predict1(nn.Module):
    """The network of Cosmos-Predict1, called as `models.dit.DiT` is.

    Parameters lie as in `DiT`, and `positions/`, `view_repeat/`, `logvar/` beside them. Collection
    `constants` holds the random features of the uncertainty head.

    Attributes:
        config: the variant, and how it computes.
    """

    config: Predict1Config

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "b v t h w c"],
        timesteps: Float[Array, "b #v #t"],
        text: Float[Array, "b v s e"],
        view_ids: Int[Array, "b v"],
        condition_mask: Float[Array, "b v t"],
        control: None = None,
        control_scale: Float[Array, ""] | Float[Array, "b"] | float = 1.0,
        padding_mask: Float[Array, "b y x"] | None = None,
        fps: Float[Array, "b"] | None = None,
        index: Int[Array, "b"] | None = None,
        frame_repeat: Float[Array, "b v"] | None = None,
    ) -> Float[Array, "b v t h w c"]:
        """Predicts what `diffusion.edm` preconditions, float32.

        Args:
            latents: noisy latents, scaled to the network (`edm.Scaling`).
            timesteps: a quarter of the logarithm of sigma, one a sample.
            text: embeddings of every view; a view attends to its own, padding rows included.
            view_ids: row of the view table for every view.
            condition_mask: 1 where a latent frame is given; read where `masked`.
            control: None, as is the scale 1: there is no control branch.
            control_scale: see `control`.
            padding_mask: 1 where pixels are padding; any size. None: nothing is padded.
            fps: frame rate; only the first is read, as in the reference.
            index: global sample indices, to train an adapter with dropout; needs an rng "dropout".
            frame_repeat: how far the frames of a view are repeated, 0..1; None: `repeated_views`.

        Raises:
            ValueError: sizes that the network cannot take; no fps; control, or repeated frames
                where the network does not know of them.
        """
        c = self.config
        check_inputs(c, latents, text, control, fps)
        if frame_repeat is not None and not c.repeats:
            raise ValueError("frame_repeat is given to a network without a repeat-frame embedding")
        grid = (latents.shape[2], latents.shape[3] // c.patch, latents.shape[4] // c.patch)
        time, shift = TimeEmbedding(c, name="time")(timesteps)
        shared = Shared(
            time=time,
            offsets=(shift, shift, shift),
            text=text.astype(c.dtype),
            turn=self._turn(grid, fps),
            neighbours=None,
            hints=None,
            hint_scale=jnp.asarray(control_scale),
            index=index,
            positions=self._positions(grid),
        )
        channels = [condition_mask[..., None, None, None]] if c.masked else []
        channels += self._channels(latents.shape, view_ids, padding_mask, frame_repeat)
        extra = [jnp.broadcast_to(y, (*latents.shape[:5], y.shape[-1])) for y in channels]
        joined = jnp.concatenate([y.astype(c.dtype) for y in (latents, *extra)], axis=-1)
        embed = layers.Linear(c.width, GRID, c.dtypes, name="embed")
        x = embed(layers.patchify(joined, c.patch))
        x, _ = stack(c, c.blocks)(x, jnp.full(c.blocks, -1), shared)
        if c.uncertainty and self.is_initializing():  # only `log_variance` computes it
            Uncertainty(c.uncertainty, c.dtypes, name="logvar")(jnp.zeros((1, 1, 1)))
        final = Final if c.remat == "none" else nn.remat(Final)
        return layers.unpatchify(final(c, name="final")(x, time, shift), c.patch)

    def log_variance(
        self, variables: Params, timesteps: Float[Array, "b 1 1"]
    ) -> Float[Array, "b 1 1"]:
        """What the uncertainty head says of a noise level, float32.

        Raises:
            ValueError: the network has no such head.
        """
        c = self.config
        if not c.uncertainty:
            raise ValueError("the network has no uncertainty head (config.model.uncertainty)")
        own = {kind: variables[kind]["logvar"] for kind in ("params", "constants")}
        return Uncertainty(c.uncertainty, c.dtypes, parent=None).apply(own, timesteps)

    def no_text(self, params: Params, features: int) -> Float[Array, "e"]:
        """A row that says nothing: zeros."""
        return jnp.zeros(features, self.config.dtype)

    def _turn(self, grid: tuple[int, int, int], fps: Any) -> rope.Rotation:
        c = self.config
        head = c.width // c.heads
        angles = rope_angles(grid, head, c.rope_ratios, fps[0], c.rope_precision)[:, :, :, None]
        return jnp.cos(angles), jnp.sin(angles)

    def _positions(self, grid: tuple[int, int, int]) -> Array | None:
        c = self.config
        if c.sincos:
            return sincos_positions(grid, c.width, c.sincos).astype(c.dtype)
        if c.learned:
            learned = LearnedPositions(c.learned, c.width, c.dtypes, name="positions")
            return learned(grid).astype(c.dtype)
        return None

    def _channels(
        self, shape: tuple[int, ...], view_ids: Array, padding: Array | None, repeat: Array | None
    ) -> list[Array]:
        """Channels that follow latents and mask: padding mask, view embedding."""
        c, channels = self.config, []
        b, _, _, h, w, _ = shape
        if c.pads:
            flat = jnp.zeros((b, h, w)) if padding is None else layers.resize_nearest(padding, h, w)
            channels.append(flat[:, None, None, :, :, None])
        if c.view_channels:
            view = layers.Embed(c.view_rows, c.view_channels, c.dtypes, 1.0, name="view")(view_ids)
            if c.repeats:
                if repeat is None:
                    repeat = jnp.isin(view_ids, jnp.array(c.repeated_views, jnp.int32))
                linear = layers.Linear(
                    c.view_channels, "b v c", c.dtypes, use_bias=True, name="view_repeat"
                )
                view = view + linear(repeat[..., None].astype(view.dtype))
            channels.append(view[:, :, None, None, None])
        return channels

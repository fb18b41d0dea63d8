"""The diffusion transformer of Cosmos-Predict2.5 and Cosmos-Transfer2.5, single- and multi-view.

One class; a variant is a row of `DiTConfig`. Source: cosmos-transfer2.5,
`MinimalV1LVGDiT`, `MultiViewDiT`, `MultiViewControlDiT`, `MultiViewCrossDiT`,
`MultiViewCrossControlDiT`.

Latents and activations are `b v t h w c` from end to end; a single view is v=1.
"""

import dataclasses
import functools
import importlib
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from cosmos_jax import sharding
from cosmos_jax.models import attention, layers, rope
from cosmos_jax.types import Params, round_to

GRID = attention.GRID


def _across() -> Any:
    """The attention that only variants with `neighbours` have."""
    return importlib.import_module("cosmos_jax.models.view_attention")


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """One variant of the network, and how it computes. A feature of size 0 or () is absent.

    Attributes:
        width: size of a token.
        blocks: number of transformer blocks.
        heads: number of attention heads.
        mlp_width: hidden size of the MLP.
        modulation_rank: bottleneck of the adaptive norms.
        text_width: size of a text token inside the network.
        text_features: size of a text token at the entrance; 0: text arrives with `text_width`.
        channels: latent channels, in and out.
        patch: rows and columns of latents in a token.
        pads: takes a padding mask as an input channel.
        timestep_scale: timesteps are multiplied by it.
        rope_ratios: extrapolation ratios of frames, rows and columns.
        rope_fps: frame positions follow the frame rate.
        rope_dtype: new rope ranges are rounded to it (published weights: "bfloat16").
        positions: largest number of frames, patch rows or patch columns.
        joint_views: self-attention is among the tokens of all views, not of each view alone.
        view_rows: rows of the view tables.
        view_channels: size of the view embedding that is concatenated to the latents.
        view_modulation: the view's vector is added to the modulation of every block.
        neighbours: for every view id, the ids that its cross-view attention looks at.
        control_blocks: the blocks that receive a hint; one control block makes each.
        control_channels: control latents are filled up with zeros to this many channels.
        hint_widths: widths of the layers between the embedded control and the control blocks.
        dtype: compute dtype, "bfloat16" or "float32".
        param_dtype: dtype in which new parameters are made.
        remat: what a block keeps for its backward pass, a key of `attention.REMAT`.
        attention: backend of self- and cross-view attention, one of `attention.BACKENDS`.
        text_attention: backend of attention to the text.
        adapter: `models.adapters.Adapter`, added to kernels of attention and MLPs, or None.

    Raises:
        ValueError: fields that contradict each other.
    """

    width: int
    blocks: int
    heads: int
    mlp_width: int
    modulation_rank: int
    text_width: int
    text_features: int
    rope_ratios: tuple[float, float, float]
    channels: int = 16
    patch: int = 2
    pads: bool = True
    timestep_scale: float = 0.001
    rope_fps: bool = False
    rope_dtype: str = "float32"
    positions: int = 128
    joint_views: bool = True
    view_rows: int = 0
    view_channels: int = 0
    view_modulation: bool = False
    neighbours: tuple[tuple[int, ...], ...] = ()
    control_blocks: tuple[int, ...] = ()
    control_channels: int = 0
    hint_widths: tuple[int, ...] = ()
    dtype: str = "bfloat16"
    param_dtype: str = "float32"
    remat: str = "attention"
    attention: str = "xla"
    text_attention: str = "xla"
    adapter: Any = None
    masked: ClassVar[bool] = True  # an input channel marks given frames

    def __post_init__(self) -> None:
        blocks, backends = self.control_blocks, (self.attention, self.text_attention)
        views = self.view_channels or self.view_modulation
        faults = [
            (self.width % self.heads, f"width {self.width} does not divide by heads {self.heads}"),
            (
                self.remat not in attention.REMAT,
                f"remat {self.remat!r} is none of {list(attention.REMAT)}",
            ),
            (
                bool(blocks) != bool(self.control_channels),
                "control_blocks and control_channels go together",
            ),
            (
                any(not 0 <= block < self.blocks for block in blocks),
                f"control_blocks {blocks} are not blocks 0..{self.blocks - 1}",
            ),
            (self.hint_widths and not blocks, "hint_widths need control_blocks"),
            (views and not self.view_rows, "view_channels and view_modulation need view_rows"),
            (
                set(backends) - set(attention.BACKENDS),
                f"backends {backends} are not all of {attention.BACKENDS}",
            ),
            (
                set(backends) - {"xla"} and self.dtype != "bfloat16",
                f'attention {backends} computes in bfloat16; set dtype="bfloat16"',
            ),
        ]
        reject("DiTConfig", faults)
        rope.axis_widths(self.width // self.heads)

    @property
    def dtypes(self) -> layers.Dtypes:
        """The two dtypes, as every layer takes them."""
        return layers.Dtypes(self.dtype, self.param_dtype)


def reject(what: str, faults: list[tuple[Any, str]]) -> None:
    """Raises a ValueError with the first message whose fault is present."""
    for present, message in faults:
        if present:
            raise ValueError(f"{what}: {message}")


@flax.struct.dataclass
class Shared:
    """What all blocks read.

    Attributes:
        time: normalised sinusoid of the timesteps `[b v|1 t|1 d]`, float32.
        offsets: added to the modulation of self-attention, text attention and MLP
            `[b v|1 t|1 3d]`, float32.
        text: projected text `[b v s e]`.
        turn: cosines and sines of the rope.
        neighbours: who looks at whom, or None.
        hints: one array `[i b v t h w d]` of hints, or None.
        hint_scale: control weight `[b|1 1 1 1 1 1]`.
        index: global sample indices `[b]`, or None; see `layers.Linear`.
        positions: added to the tokens before every block `[t h w d]`, or None.
    """

    time: Array
    offsets: tuple[Array, Array, Array]
    text: Array
    turn: rope.Rotation
    neighbours: Any
    hints: Array | None
    hint_scale: Array
    index: Array | None
    positions: Array | None = None


class Block(nn.Module):
    """Self-attention, cross-view attention (where there are neighbours), text attention, MLP.

    Attributes:
        config: the variant.
        emits_hint: a control block: returns a hint as well.
    """

    config: DiTConfig
    emits_hint: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b v t h w d"], hint_index: Int[Array, ""] | None, shared: Shared
    ) -> tuple[Array, Array | None]:
        """Returns the tokens and the hint; `hint_index` (-1: none) picks the hint to be added."""
        c, index = self.config, shared.index
        attend = functools.partial(attention.Attention, c.heads, dtypes=c.dtypes, adapter=c.adapter)

        def modulated(x: Array, name: str, offset: Array) -> tuple[Array, Array]:
            modulation = layers.Modulation(3, c.modulation_rank, c.dtypes, name=name)
            parts = modulation(shared.time, offset)
            shift, scale, gate = (part.astype(x.dtype) for part in parts)
            return layers.affine_norm(x, 1 + scale, shift), gate

        x = checkpoint_name(x, "block_input")
        if shared.positions is not None:
            x = x + shared.positions
        y, gate = modulated(x, "self_attn_modulation", shared.offsets[0])
        among = functools.partial(
            attention.self_attention, joint=c.joint_views, backend=c.attention
        )
        x = x + gate * attend(GRID, name="self_attn")(y, y, among, shared.turn, index)
        if shared.neighbours is not None:
            y = layers.LayerNorm(c.dtypes, name="view_norm")(x)
            across = functools.partial(
                _across().view_attention, neighbours=shared.neighbours, backend=c.attention
            )
            view_attn = attend(GRID, name="view_attn", out_init=layers.ZEROS)
            x = x + view_attn(y, y, across, index=index)
        y, gate = modulated(x, "text_attn_modulation", shared.offsets[1])
        to_text = functools.partial(attention.text_attention, backend=c.text_attention)
        x = x + gate * attend("b v s d", name="text_attn")(y, shared.text, to_text, index=index)
        y, gate = modulated(x, "mlp_modulation", shared.offsets[2])
        x = x + layers.Mlp(c.mlp_width, GRID, c.dtypes, c.adapter, name="mlp")(y, gate, index)
        if shared.hints is not None and hint_index is not None:
            weight = jnp.where(hint_index >= 0, shared.hint_scale, 0)
            hint = jax.lax.dynamic_index_in_dim(
                shared.hints, jnp.maximum(hint_index, 0), keepdims=False
            )
            x = x + weight * hint
        x = sharding.constrain(x, GRID)
        self.sow("intermediates", "output", x)
        if not self.emits_hint:
            return x, None
        linear = functools.partial(layers.Linear, use_bias=True, kernel_init=layers.ZEROS)
        return x, linear(c.width, GRID, c.dtypes, name="after")(x)


def stack(config: DiTConfig, length: int, emits_hint: bool = False) -> nn.Module:
    """`length` blocks as one scan over parameters `[n ...]`, each a region of rematerialisation."""
    block: Any = Block
    if config.remat != "none":
        policy = attention.REMAT[config.remat]
        block = nn.remat(Block, policy=policy, prevent_cse=False)
    scan = nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast),
        length=length,
    )
    return scan(config, emits_hint, name="blocks")


class ControlStem(nn.Module):
    """From control patches to the input of the first control block.

    Attributes:
        config: the variant.
    """

    config: DiTConfig

    @nn.compact
    def __call__(
        self, patches: Float[Array, "b v t h w p"], x: Float[Array, "b v t h w d"]
    ) -> Float[Array, "b v t h w d"]:
        """Embeds the patches, passes them through the hint layers and adds the noisy tokens x."""
        c = self.config
        linear = functools.partial(layers.Linear, axes=GRID, dtypes=c.dtypes)
        y = linear(c.width, name="embed")(patches)
        for i, width in enumerate(c.hint_widths):
            init = layers.fan_out_normal
            y = layers.silu(linear(width, use_bias=True, kernel_init=init, name=f"hint_{i}")(y))
        return x + linear(c.width, use_bias=True, kernel_init=layers.ZEROS, name="before")(y)


class Control(nn.Module):
    """The control branch: a few blocks of its own, each of which makes one hint.

    Attributes:
        config: the variant.
    """

    config: DiTConfig

    @nn.compact
    def __call__(self, patches: Array, x: Array, shared: Shared) -> Array:
        """Returns hints `[i b v t h w d]` from control patches and noisy tokens."""
        c = self.config
        stem = ControlStem if c.remat == "none" else nn.remat(ControlStem)
        y = stem(c, name="stem")(patches, x)
        _, hints = stack(c, len(c.control_blocks), emits_hint=True)(y, None, shared)
        return sharding.constrain(hints, "i " + GRID)


def sinusoid(times: Float[Array, "*axes"], width: int) -> Float[Array, "*axes {width}"]:
    """Cosines, then sines, of the times at `width // 2` rates from 1 down to nearly 1/10000."""
    half = width // 2
    rates = jnp.exp(-np.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = times.astype(jnp.float32)[..., None] * rates
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """Sinusoid of the timestep, and the modulation that all blocks share; float32.

    Attributes:
        config: the variant.
    """

    config: DiTConfig

    @nn.compact
    def __call__(self, timesteps: Float[Array, "b #v #t"]) -> tuple[Array, Array]:
        """Returns the normalised sinusoid `[... d]` and the shared modulation `[... 3d]`.

        The blocks are modulated by the sinusoid itself; the MLP makes only the shared part.
        """
        c = self.config
        waves = sinusoid(timesteps.astype(jnp.float32) * c.timestep_scale, c.width)
        linear = functools.partial(layers.Linear, axes="b v t d", dtypes=c.dtypes)
        y = jax.nn.silu(linear(c.width, name="up")(waves))
        y = linear(3 * c.width, name="out")(y)
        return layers.RMSNorm(c.dtypes, name="norm")(waves), y


class Final(nn.Module):
    """Modulated norm and the product back to patches; float32.

    Attributes:
        config: the variant.
    """

    config: DiTConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b v t h w d"], time: Array, offset: Array) -> Array:
        """Returns patches `[b v t h w p]`, channels fastest."""
        c = self.config
        modulation = layers.Modulation(2, c.modulation_rank, c.dtypes, name="modulation")
        shift, scale = modulation(time, offset[..., : 2 * c.width])
        x, scale, shift = layers.together(x, scale, shift)
        y = layers.affine_norm(x.astype(jnp.float32), 1 + scale, shift)
        return layers.Linear(c.patch**2 * c.channels, GRID, c.dtypes, name="out")(y)


def text_projection(config: DiTConfig) -> layers.Linear:
    """The product that text passes before the blocks; a GELU follows it."""
    init = layers.uniform(config.text_features**-0.5)
    return layers.Linear(
        config.text_width,
        "b v s d",
        config.dtypes,
        use_bias=True,
        kernel_init=init,
        bias_init=init,
        name="text_project",
    )


def check_inputs(c: DiTConfig, latents: Array, text: Array, control: Any, fps: Any) -> None:
    """Raises a ValueError that names the first of a network's inputs that does not fit it."""
    _, _, t, h, w, channels = latents.shape
    given, features = text.shape[-1], c.text_features or c.text_width
    longest = max(t, h // c.patch, w // c.patch)
    extra = 0 if control is None else control.shape[-1]
    faults = [
        (channels != c.channels, f"latents of {channels} channels; it takes {c.channels}"),
        (h % c.patch or w % c.patch, f"{h} x {w} latents do not divide by {c.patch}"),
        (longest > c.positions, f"{longest} patches along one axis; it takes {c.positions}"),
        (given not in (features, c.text_width), f"text of {given} features; it takes {features}"),
        (c.control_blocks and control is None, "its control latents are missing"),
        (control is not None and not c.control_blocks, "it has no control branch"),
        (extra > c.control_channels, f"control of {extra} channels; it takes {c.control_channels}"),
        (c.rope_fps and fps is None, "its frame positions follow fps (rope_fps), which is missing"),
    ]
    reject("the network does not fit its inputs", faults)


class DiT(nn.Module):
    """The network: velocity of the latents at a noise level, given text, views and control.

    Parameters: `blocks/...` and `control/blocks/...` are stacked `[n ...]`; everything that belongs
    to the control branch lies under `control/`. Collection `constants` holds the rope ranges.
    Collection `intermediates`, where asked for, receives the output of every block.

    Attributes:
        config: the variant, and how it computes.
    """

    config: DiTConfig

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "b v t h w c"],
        timesteps: Float[Array, "b #v #t"],
        text: Float[Array, "b v s e"],
        view_ids: Int[Array, "b v"],
        condition_mask: Float[Array, "b v t"],
        control: Float[Array, "b v t h w cc"] | None = None,
        control_scale: Float[Array, ""] | Float[Array, "b"] | float = 1.0,
        padding_mask: Float[Array, "b y x"] | None = None,
        fps: Float[Array, "b"] | None = None,
        index: Int[Array, "b"] | None = None,
    ) -> Float[Array, "b v t h w c"]:
        """Predicts the velocity, float32.

        Args:
            latents: noisy latents, given frames already in place.
            timesteps: 0..1000, one a sample, view or frame.
            text: text embeddings of every view, before the network's own projection; or after it
                (`text_projection` and GELU), which e = `text_width` shows.
            view_ids: row of the view tables for every view.
            condition_mask: 1 where a latent frame is given.
            control: control latents; modalities are concatenated in cc. None without control.
            control_scale: weight of the hints, one or one a sample.
            padding_mask: 1 where pixels are padding; any size. None: nothing is padded.
            fps: frame rate; read if `rope_fps`, and then only the first, as in the reference.
            index: global sample indices, to train an adapter with dropout; needs an rng "dropout".

        Raises:
            ValueError: sizes that the network cannot take; control missing, or given to a network
                without a control branch; no fps where it is read.
        """
        c = self.config
        check_inputs(c, latents, text, control, fps)
        time, shift = TimeEmbedding(c, name="time")(timesteps)
        shared = Shared(
            time=time,
            offsets=self._offsets(shift, view_ids),
            text=self._text(text),
            turn=self._turn(latents.shape, fps),
            neighbours=_across().find_neighbours(view_ids, c.neighbours) if c.neighbours else None,
            hints=None,
            hint_scale=jnp.asarray(control_scale, c.dtype).reshape(-1, 1, 1, 1, 1, 1),
            index=index,
        )
        extra = self._extra_channels(latents.shape, condition_mask, view_ids, padding_mask)
        patches = self._patches(latents, extra)
        x = layers.Linear(c.width, GRID, c.dtypes, name="embed")(patches)
        if control is not None:
            empty = c.control_channels - control.shape[-1]
            control = jnp.pad(control, [(0, 0)] * 5 + [(0, empty)])
            hints = Control(c, name="control")(self._patches(control, extra), x, shared)
            shared = dataclasses.replace(shared, hints=hints)
        hint_index = np.full(c.blocks, -1)
        hint_index[list(c.control_blocks)] = np.arange(len(c.control_blocks))
        x, _ = stack(c, c.blocks)(x, jnp.asarray(hint_index), shared)
        final = Final if c.remat == "none" else nn.remat(Final)
        return layers.unpatchify(final(c, name="final")(x, time, shift), c.patch)

    def no_text(self, params: Params, features: int) -> Float[Array, "e"]:
        """A row that says nothing, for text of so many features: zeros before the projection.

        To text that arrives projected, that is what the projection makes of zeros, not zeros.
        """
        c = self.config
        if features == (c.text_features or c.text_width):
            return jnp.zeros(features, c.dtype)
        return layers.gelu(round_to(params["text_project"]["bias"], c.dtype).astype(c.dtype))

    def _turn(self, shape: tuple[int, ...], fps: Array | None) -> rope.Rotation:
        c = self.config
        widths = rope.axis_widths(c.width // c.heads)
        make = functools.partial(self.variable, "constants")
        temporal = make("rope_temporal", rope.exact_range, widths[0], c.rope_dtype).value
        spatial = make("rope_spatial", rope.exact_range, widths[1], c.rope_dtype).value
        grid = (shape[2], shape[3] // c.patch, shape[4] // c.patch)
        rate = fps[0] if c.rope_fps and fps is not None else None
        return rope.rotation(grid, temporal, spatial, c.rope_ratios, rate)

    def _offsets(self, shift: Array, view_ids: Array) -> tuple[Array, Array, Array]:
        c = self.config
        if not c.view_modulation:
            return shift, shift, shift
        vectors = layers.Embed(c.view_rows, c.width, c.dtypes, 0.05, name="view_modulation")
        linear = functools.partial(layers.Linear, use_bias=True, kernel_init=layers.ZEROS)
        project = linear(9 * c.width, "b v t d", c.dtypes, name="view_project")
        y = project(vectors(view_ids)[:, :, None].astype(jnp.float32))
        first, second, third = (shift + part for part in jnp.split(y, 3, axis=-1))
        return first, second, third

    def _text(self, text: Array) -> Array:
        c = self.config
        text = text.astype(c.dtype)
        return text if text.shape[-1] != c.text_features else layers.gelu(text_projection(c)(text))

    def _extra_channels(
        self, shape: tuple[int, ...], mask: Array, view_ids: Array, padding: Array | None
    ) -> list[Array]:
        """Channels that follow the latents: condition mask, padding mask, view embedding."""
        c = self.config
        b, v, t, h, w, _ = shape
        extra = [mask[..., None, None, None]]
        if c.pads:
            flat = jnp.zeros((b, h, w)) if padding is None else layers.resize_nearest(padding, h, w)
            extra.append(flat[:, None, None, :, :, None])
        if c.view_channels:
            std = 0.02 if c.neighbours else 1.0
            table = layers.Embed(c.view_rows, c.view_channels, c.dtypes, std, name="view")
            extra.append(table(view_ids)[:, :, None, None, None])
        return [jnp.broadcast_to(x, (b, v, t, h, w, x.shape[-1])).astype(c.dtype) for x in extra]

    def _patches(self, latents: Array, extra: list[Array]) -> Array:
        joined = jnp.concatenate([latents.astype(self.config.dtype), *extra], axis=-1)
        return layers.patchify(joined, self.config.patch)

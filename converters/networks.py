"""Networks as weight files know them: recognised by their tensors, described as JSON."""

import dataclasses
import fnmatch
import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from converters import dit25, qwen, rules, wan_vae
from converters.rules import Table
from converters.stored import Stored
from cosmos_jax import build, sharding, train
from cosmos_jax.models.dit import DiT, DiTConfig
from cosmos_jax.models.qwen import QwenConfig, QwenTower
from cosmos_jax.models.wan_vae import WanVAE

Shapes = Mapping[str, tuple[int, ...]]
EXECUTION = ("dtype", "param_dtype", "remat", "attention", "text_attention", "adapter")
WAN_VAE, QWEN = "wan2.1_vae", "qwen2.5_vl_text"
NAMES = (*build.VARIANTS, WAN_VAE, QWEN)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network whose weights can be converted.

    Attributes:
        name: the published model, or one like it.
        options: its config as JSON; `from_options` makes the network again.
        table: reference names and ours.
        like: our tree of shapes.
        prefixed: its files name tensors `net.` and `net_ema.`.
    """

    name: str
    options: dict[str, Any]
    table: Table
    like: Any
    prefixed: bool


def dit(name: str, config: DiTConfig) -> Network:
    """A diffusion transformer of the 2.5 family, without adapters: files hold them merged."""
    config = dataclasses.replace(config, adapter=None)
    features = config.text_features or config.text_width
    frames = sharding.axis_size("context")  # of the mesh that is set, if any
    inputs = train.network_inputs(config.channels, features, bool(config.control_blocks), frames)
    like = jax.eval_shape(DiT(config).init, jax.random.key(0), **inputs)
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in EXECUTION}
    return Network(name, options, dit25.table(config), like, prefixed=True)


def vae(name: str, codec: WanVAE) -> Network:
    """A Wan2.1 autoencoder."""
    options = {k: v for k, v in dataclasses.asdict(codec).items() if k != "dtype"}
    like = {"params": jax.eval_shape(codec.init, jax.random.key(0))}
    return Network(name, options, wan_vae.table(codec), like, prefixed=False)


def text(name: str, config: QwenConfig) -> Network:
    """A Qwen2.5-VL language tower."""
    names = [field.name for field in dataclasses.fields(QwenConfig)]
    options = {k: getattr(config, k) for k in names if k not in EXECUTION}
    tokens = jnp.zeros((1, 1), jnp.int32)
    like = jax.eval_shape(QwenTower(config).init, jax.random.key(0), tokens)
    return Network(name, options, qwen.table(config), like, prefixed=False)


def from_options(name: str, options: Mapping[str, Any]) -> Network:
    """The network that `Network.name` and `.options` describe, as JSON keeps them."""
    fields = build.plain(options)
    if "text_width" in fields:
        return dit(name, DiTConfig(**fields))
    if "dim_mult" in fields:
        return vae(name, WanVAE(**fields))
    return text(name, QwenConfig(**fields))


def published(name: str) -> Network:
    """A published network by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name in build.VARIANTS:
        return dit(name, build.VARIANTS[name])
    if name == WAN_VAE:
        return vae(name, WanVAE())
    if name == QWEN:
        return text(name, QwenConfig())
    raise ValueError(f"--model={name} is none of {', '.join(NAMES)}")


def recognise(tensors: Mapping[str, Stored]) -> Network:
    """The network that a state dict is of: sizes by its shapes, the rest as the published models.

    Raises:
        ValueError: it is of no network that is known here.
    """
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    if "x_embedder.proj.1.weight" in shapes:
        return _dit(shapes)
    if "encoder.conv1.weight" in shapes and "conv2.weight" in shapes:
        return _vae(shapes)
    if "embed_tokens.weight" in shapes:
        return _text(shapes)
    raise ValueError(
        f"these {len(shapes)} tensors are of no network that is known here; the first are "
        f"{list(shapes)[:4]}. Known: {', '.join(NAMES)}"
    )


def _size(shapes: Shapes, key: str, axis: int) -> int:
    if key not in shapes or len(shapes[key]) <= axis:
        raise ValueError(f"the network is not recognised without {key}; name it with --model")
    return shapes[key][axis]


def _count(keys: Collection[str], pattern: str) -> int:
    return len(fnmatch.filter(keys, pattern))


def _dit(shapes: Shapes) -> Network:
    width, given = (_size(shapes, "x_embedder.proj.1.weight", axis) for axis in (0, 1))
    head = _size(shapes, "blocks.0.self_attn.q_norm.weight", 0)
    cross = "adaln_view_embedder.weight" in shapes
    views = cross or "view_embeddings.weight" in shapes
    controlled = "control_embedder.proj.1.weight" in shapes
    names = {
        (False, False): "predict25_2b",
        (True, False): "predict25_2b_auto_multiview",
        (True, True): "transfer25_2b_auto_multiview",
    }
    if cross:
        base = build.VARIANTS["agibot_2b_control" if controlled else "agibot_2b"]
    elif (views, controlled) in names:
        base = build.VARIANTS[names[views, controlled]]
    else:
        raise ValueError(
            "a control branch without views is of no published network: view_embeddings.weight is "
            "missing, or name the network with --model"
        )
    area = base.patch**2
    channels = _size(shapes, "final_layer.linear.weight", 0) // area
    view_channels = shapes["view_embeddings.weight"][1] if views and not cross else 0
    pads = given // area - channels - 1 - view_channels
    if given % area or pads not in (0, 1):
        raise ValueError(
            f"x_embedder.proj.1.weight takes {given} numbers a patch, which {channels} latent "
            f"channels, masks and {view_channels} view channels do not explain: tensors are "
            "missing (view_embeddings.weight?), or name the network with --model"
        )
    features = shapes["crossattn_proj.0.weight"][1] if "crossattn_proj.0.weight" in shapes else 0
    seqs = fnmatch.filter(shapes, "pos_embedder*.seq")
    table = "adaln_view_embedder.weight" if cross else "view_embeddings.weight"
    config = dataclasses.replace(
        base,
        width=width,
        blocks=_count(shapes, "blocks.*.mlp.layer1.weight"),
        heads=width // head,
        mlp_width=_size(shapes, "blocks.0.mlp.layer1.weight", 0),
        modulation_rank=_size(shapes, "blocks.0.adaln_modulation_self_attn.1.weight", 0),
        text_width=_size(shapes, "blocks.0.cross_attn.k_proj.weight", 1),
        text_features=features,
        channels=channels,
        pads=bool(pads),
        positions=_size(shapes, seqs[0], 0) if seqs else base.positions,
        view_rows=_size(shapes, table, 0) if views else 0,
        view_channels=view_channels,
        neighbours=_neighbours(base, shapes, table),
        **(_control(shapes, area, pads + view_channels + 1) if controlled else {}),
    )
    return dit(_named(config, base), config)


def _neighbours(base: DiTConfig, shapes: Shapes, table: str) -> tuple[tuple[int, ...], ...]:
    if "blocks.0.cross_view_attn.q_proj.weight" not in shapes:
        return ()
    if shapes[table][0] != len(base.neighbours):
        raise ValueError(
            f"cross-view attention among {shapes[table][0]} views: which sees which is not told by "
            "the tensors; name the network with --model"
        )
    return base.neighbours


def _control(shapes: Shapes, area: int, extra: int) -> dict[str, Any]:
    blocks = _count(shapes, "blocks.*.mlp.layer1.weight")
    count = _count(shapes, "control_blocks.*.after_proj.weight")
    every = 7 if math.ceil(blocks / 7) == count else math.ceil(blocks / max(count, 1))
    hints = _count(shapes, "input_hint_block.*.weight")
    keys = [f"input_hint_block.{2 * i}.weight" for i in range(hints)]
    return {
        "control_blocks": tuple(range(0, blocks, every)),
        "control_channels": _size(shapes, "control_embedder.proj.1.weight", 1) // area - extra,
        "hint_widths": tuple(_size(shapes, key, 0) for key in keys),
    }


def _named(config: DiTConfig, base: DiTConfig) -> str:
    for name, variant in build.VARIANTS.items():
        if config == variant:
            return name
    (name,) = (name for name, variant in build.VARIANTS.items() if variant == base)
    return f"{name}, other sizes"


def _vae(shapes: Shapes) -> Network:
    dim = _size(shapes, "encoder.conv1.weight", 0)
    channels: list[int] = []
    blocks, temporal = [0], list[bool]()
    while (i := sum(blocks) + len(temporal)) >= 0:
        layer = f"encoder.downsamples.{i}."
        if layer + "residual.6.weight" in shapes:
            blocks[-1] += 1
            if blocks[-1] == 1:
                channels.append(shapes[layer + "residual.6.weight"][0])
        elif layer + "resample.1.weight" in shapes:
            temporal.append(layer + "time_conv.weight" in shapes)
            blocks.append(0)
        else:
            break
    codec = WanVAE(
        dim=dim,
        latent_channels=_size(shapes, "conv2.weight", 0),
        dim_mult=tuple(c // dim for c in channels),
        num_res_blocks=blocks[0],
        temporal_downsample=tuple(temporal),
    )
    return vae(WAN_VAE if codec == WanVAE() else f"{WAN_VAE}, other sizes", codec)


def _text(shapes: Shapes) -> Network:
    config = qwen.config(shapes)
    return text(QWEN if config == QwenConfig() else f"{QWEN}, other sizes", config)


def bare(tensors: Mapping[str, Stored]) -> tuple[dict[str, dict[str, Stored]], dict[str, Stored]]:
    """The sets of weights of a file by name, without prefixes, and what belongs to none.

    The sets are "regular" (`net.`) and "ema" (`net_ema.`), or "" for names without a prefix.

    Raises:
        ValueError: tensors with and without a prefix.
    """
    if "embed_tokens.weight" in tensors or _count(tensors, "*.embed_tokens.weight"):
        names = qwen.bare(tensors)
        others = {k: v for k, v in tensors.items() if k not in set(names.values())}
        return {"": {ours: tensors[theirs] for ours, theirs in names.items()}}, others
    sets: dict[str, dict[str, Stored]] = {}
    for key, tensor in tensors.items():
        head, _, rest = key.partition(".")
        place = {"net": "regular", "net_ema": "ema"}[head] if head in ("net", "net_ema") else ""
        sets.setdefault(place, {})[rest if place else key] = tensor
    if "" in sets and len(sets) > 1:
        first = list(sets[""])[:4]
        raise ValueError(f"{len(sets[''])} tensors are neither of net. nor of net_ema.: {first}")
    return sets, {}


def read(network: Network, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Our arrays of one set of weights; see `rules.read`."""
    return rules.read(network.table, tensors, network.like)

"""Networks as weight files know them: recognised by their tensors, described as JSON."""

import dataclasses
import fnmatch
import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from converters import cv8x8x8, dit25, predict1, qwen, rules, t5, wan_vae
from converters.rules import Table
from converters.stored import Stored
from cosmos_jax import build, build_predict1, sharding, train
from cosmos_jax.models.cv8x8x8 import CV8x8x8
from cosmos_jax.models.dit import DiT, DiTConfig
from cosmos_jax.models.predict1 import Predict1, Predict1Config
from cosmos_jax.models.qwen import QwenConfig, QwenTower
from cosmos_jax.models.t5 import T5Config, T5Encoder
from cosmos_jax.models.wan_vae import WanVAE

Shapes = Mapping[str, tuple[int, ...]]
EXECUTION = (
    *("dtype", "param_dtype", "remat", "attention", "text_attention", "adapter"),
    *("rope_precision", "repeated_views"),
)
WAN_VAE, QWEN = "wan2.1_vae", "qwen2.5_vl_text"
TOKENIZER, T5 = "cv8x8x8_tokenizer", "t5_11b_encoder"
DITS: dict[str, DiTConfig] = {**build.VARIANTS, **build_predict1.VARIANTS}
NAMES = (*DITS, WAN_VAE, QWEN, TOKENIZER, T5)


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
    """A diffusion transformer, without adapters: files hold them merged."""
    config = dataclasses.replace(config, adapter=None)
    features = config.text_features or config.text_width
    frames = sharding.axis_size("context")  # of the mesh that is set, if any
    inputs = train.network_inputs(config.channels, features, bool(config.control_blocks), frames)
    net = Predict1(config) if isinstance(config, Predict1Config) else DiT(config)
    table = predict1.table(config) if isinstance(config, Predict1Config) else dit25.table(config)
    like = jax.eval_shape(net.init, jax.random.key(0), **inputs)
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in EXECUTION}
    return Network(name, options, table, like, prefixed=True)


def vae(name: str, codec: WanVAE | CV8x8x8) -> Network:
    """A video autoencoder: Wan2.1's, or Predict1's tokenizer."""
    options = {k: v for k, v in dataclasses.asdict(codec).items() if k != "dtype"}
    like = {"params": jax.eval_shape(codec.init, jax.random.key(0))}
    table = wan_vae.table(codec) if isinstance(codec, WanVAE) else cv8x8x8.table(codec)
    return Network(name, options, table, like, prefixed=False)


def text(name: str, config: QwenConfig | T5Config) -> Network:
    """A text encoder: a Qwen2.5-VL language tower, or a T5 encoder."""
    is_qwen, tokens = isinstance(config, QwenConfig), jnp.zeros((1, 1), jnp.int32)
    names = [field.name for field in dataclasses.fields(QwenConfig if is_qwen else T5Config)]
    options = {k: getattr(config, k) for k in names if k not in EXECUTION}
    if isinstance(config, QwenConfig):
        like = jax.eval_shape(QwenTower(config).init, jax.random.key(0), tokens)
        return Network(name, options, qwen.table(config), like, prefixed=False)
    like = jax.eval_shape(T5Encoder(config).init, jax.random.key(0), tokens, tokens == 0)
    return Network(name, options, t5.table(config), like, prefixed=False)


def from_options(name: str, options: Mapping[str, Any]) -> Network:
    """The network that `Network.name` and `.options` describe, as JSON keeps them."""
    fields = build.plain(options)
    if "masked" in fields:
        return dit(name, Predict1Config(**fields))
    if "text_width" in fields:
        return dit(name, DiTConfig(**fields))
    if "dim_mult" in fields:
        return vae(name, WanVAE(**fields))
    if "channels_mult" in fields:
        return vae(name, CV8x8x8(**fields))
    if "buckets" in fields:
        return text(name, T5Config(**fields))
    return text(name, QwenConfig(**fields))


def published(name: str) -> Network:
    """A published network by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name in DITS:
        return dit(name, DITS[name])
    if name == WAN_VAE:
        return vae(name, WanVAE())
    if name == QWEN:
        return text(name, QwenConfig())
    if name == TOKENIZER:
        return vae(name, CV8x8x8())
    if name == T5:
        return text(name, T5Config())
    raise ValueError(f"--model={name} is none of {', '.join(NAMES)}")


def recognise(tensors: Mapping[str, Stored]) -> Network:
    """The network that a state dict is of: sizes by its shapes, the rest as the published models.

    Raises:
        ValueError: it is of no network that is known here.
    """
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    if predict1.MARK in shapes:
        base = build_predict1.VARIANTS[predict1.nearest(shapes)]
        config = predict1.resized(base, shapes)
        return dit(_named(config, base), config)
    if "x_embedder.proj.1.weight" in shapes:
        return _dit(shapes)
    if "encoder.conv1.weight" in shapes and "conv2.weight" in shapes:
        return _vae(shapes)
    if "embed_tokens.weight" in shapes:
        return _text(shapes)
    if cv8x8x8.MARK in shapes:
        codec = cv8x8x8.config(shapes)
        whole = dataclasses.replace(codec, normalised=True) == CV8x8x8()
        return vae(TOKENIZER if whole else f"{TOKENIZER}, other sizes", codec)
    if t5.MARK in shapes:
        encoder = t5.config(shapes)
        return text(T5 if encoder == T5Config() else f"{T5}, other sizes", encoder)
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
    for name, variant in DITS.items():
        if config == variant:
            return name
    (name,) = (name for name, variant in DITS.items() if variant == base)
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


def is_beside(key: str) -> bool:
    """Whether a tensor lies beside its network, and so has no prefix in files."""
    return key.startswith(f"{predict1.BESIDE}.")


def bare(tensors: Mapping[str, Stored]) -> tuple[dict[str, dict[str, Stored]], dict[str, Stored]]:
    """The sets of weights of a file by name, without prefixes, and what belongs to none.

    The sets are "regular" (`net.`) and "ema" (`net_ema.`), or "" for names without a prefix. What
    Predict1 keeps beside its network belongs to its set.

    Raises:
        ValueError: tensors with and without a prefix.
    """
    qwen_tables = "embed_tokens.weight" in tensors or _count(tensors, "*.embed_tokens.weight")
    if t5.MARK in tensors or qwen_tables:
        names = t5.bare(tensors) if t5.MARK in tensors else qwen.bare(tensors)
        others = {k: v for k, v in tensors.items() if k not in set(names.values())}
        return {"": {ours: tensors[theirs] for ours, theirs in names.items()}}, others
    sets: dict[str, dict[str, Stored]] = {}
    for key, tensor in tensors.items():
        head, _, rest = key.partition(".")
        place = {"net": "regular", "net_ema": "ema"}[head] if head in ("net", "net_ema") else ""
        if is_beside(key):  # the regular network, where there are prefixes
            place, rest = "regular" if f"net.{predict1.MARK}" in tensors else "", key
        sets.setdefault(place, {})[rest if place else key] = tensor
    if "" in sets and len(sets) > 1:
        first = list(sets[""])[:4]
        raise ValueError(f"{len(sets[''])} tensors are neither of net. nor of net_ema.: {first}")
    return sets, {}


def read(network: Network, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Our arrays of one set of weights; see `rules.read`."""
    if cv8x8x8.MARK in tensors and "chunk" in network.options:
        tensors = cv8x8x8.cut(tensors, network.options["chunk"])
    return rules.read(network.table, tensors, network.like)

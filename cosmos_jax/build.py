"""Config sections to objects. The only file that names variants, and the last that sees a config.

Each section becomes the keyword arguments of one frozen dataclass, so a key that does not exist is an
error that names the nearest one that does.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from cosmos_jax import optim, sharding
from cosmos_jax.models.dct_codec import DCTCodec
from cosmos_jax.models.dit import DiT, DiTConfig
from cosmos_jax.models.hashed_text import HashedText
from cosmos_jax.models.wan_vae import WanVAE
from cosmos_jax.train import Process, Trainer

T = TypeVar("T")

PREDICT25_2B = DiTConfig(
    width=2048,
    blocks=28,
    heads=16,
    mlp_width=8192,
    modulation_rank=256,
    text_width=1024,
    text_features=100_352,
    rope_ratios=(1.0, 3.0, 3.0),
    rope_dtype="bfloat16",
)
MULTIVIEW = {"rope_ratios": (8 / 24, 3.0, 3.0), "view_rows": 7, "view_channels": 7}
AGIBOT = {
    "joint_views": False,
    "view_rows": 3,
    "view_modulation": True,
    "neighbours": ((1, 2), (0, 2), (0, 1)),
}
CONTROL_BLOCKS = (0, 7, 14, 21)

VARIANTS = {
    "predict25_2b": PREDICT25_2B,
    "predict25_14b": dataclasses.replace(
        PREDICT25_2B, width=5120, blocks=36, heads=40, mlp_width=20_480
    ),
    "predict25_2b_auto_multiview": dataclasses.replace(PREDICT25_2B, **MULTIVIEW),
    # 184 control channels: (16 + 7) x 8 modalities, the unused ones zero (spec 1.6).
    "transfer25_2b_auto_multiview": dataclasses.replace(
        PREDICT25_2B,
        **MULTIVIEW,
        control_blocks=CONTROL_BLOCKS,
        control_channels=184,
        hint_widths=(2048,) * 7,
    ),
    "agibot_2b": dataclasses.replace(PREDICT25_2B, **AGIBOT),
    "agibot_2b_control": dataclasses.replace(
        PREDICT25_2B, **AGIBOT, control_blocks=CONTROL_BLOCKS, control_channels=16
    ),
}
"""The published networks (sizes and options: the model cards and configs of cosmos-transfer2.5 and
cosmos-predict2.5)."""

SECTIONS = (
    "mesh model codec text process optimizer data validation checkpoint sample log".split()
)
SETTINGS = "seed steps dtype attention remat trainable ema_rate".split()


def check_keys(given: Any, known: Any, where: str) -> None:
    """Raises a ValueError for a key of `given` that is not `known`, with the nearest one that is."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), n=1)
            hint = f"did you mean {where}.{near[0]}?" if near else f"known keys: {sorted(known)}"
            raise ValueError(f"{where}.{key} is not a setting; {hint}")


def make(cls: type[T], section: Mapping[str, Any], where: str, **given: Any) -> T:
    """`cls(**section, **given)` for a dataclass.

    Raises:
        ValueError: a key that is not a field, or a field without default that is missing.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in given}  # type: ignore[arg-type]
    check_keys(section, fields, where)
    nothing = dataclasses.MISSING
    for name, field in fields.items():
        if name not in section and field.default is nothing and field.default_factory is nothing:
            raise ValueError(f"{where}.{name} is missing")
    return cls(**section, **given)


def plain(value: Any) -> Any:
    """A config as nested dicts and tuples."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return tuple(plain(v) for v in value) if isinstance(value, (list, tuple)) else value


def check_config(config: Any) -> dict[str, Any]:
    """The config as plain values.

    Raises:
        ValueError: a section or setting that does not exist, or one that is missing.
    """
    values = plain(config)
    check_keys(values, [*SECTIONS, *SETTINGS], "config")
    if missing := [name for name in [*SECTIONS, *SETTINGS] if name not in values]:
        raise ValueError(f"config.{missing[0]} is missing")
    if values["steps"] < 1:
        raise ValueError(f"config.steps={values['steps']} must be at least 1")
    return values


def attention_backend(name: str, dtype: str) -> str:
    """ "auto" is cuDNN where it runs (bfloat16 on NVIDIA GPUs since Ampere), else plain XLA.

    Raises:
        ValueError: a backend that does not exist, or not here.
    """
    gpu = jax.default_backend() == "gpu"
    if name == "auto":
        return "cudnn" if gpu and dtype == "bfloat16" else "xla"
    if name not in ("xla", "cudnn"):
        raise ValueError(f"config.attention={name!r} must be auto, xla or cudnn")
    if name == "cudnn" and not gpu:
        raise ValueError("config.attention='cudnn' needs an NVIDIA GPU; set auto or xla")
    return name


def network(values: Mapping[str, Any]) -> DiT:
    """The network: a published variant, changed by the other keys of `config.model`."""
    section = dict(values["model"])
    base = section.pop("base", None)
    if base not in VARIANTS:
        near = difflib.get_close_matches(str(base), VARIANTS, n=1)
        raise ValueError(
            f"config.model.base={base!r} is none of {sorted(VARIANTS)}"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    fields = {f.name for f in dataclasses.fields(DiTConfig)}
    check_keys(section, fields - {"dtype", "remat", "attention", "text_attention"}, "config.model")
    if values["dtype"] not in ("float32", "bfloat16"):
        raise ValueError(f"config.dtype={values['dtype']!r} must be float32 or bfloat16")
    backend = attention_backend(values["attention"], values["dtype"])
    config = dataclasses.replace(
        VARIANTS[base],
        **section,
        dtype=values["dtype"],
        remat=values["remat"],
        attention=backend,
        text_attention=backend,
    )
    return DiT(config)


def codec(values: Mapping[str, Any]) -> Any:
    """The video codec: {"kind": "dct"} or {"kind": "wan", ...}."""
    section = dict(values["codec"])
    kind = section.pop("kind", None)
    if kind == "dct":
        return make(DCTCodec, section, "config.codec")
    if kind == "wan":
        return make(WanVAE, section, "config.codec")
    raise ValueError(f"config.codec.kind={kind!r} must be dct or wan")


def text_encoder(values: Mapping[str, Any]) -> HashedText:
    """The text encoder: {"kind": "hashed", ...}."""
    section = dict(values["text"])
    kind = section.pop("kind", None)
    if kind == "hashed":
        return make(HashedText, section, "config.text")
    raise ValueError(f"config.text.kind={kind!r} must be hashed")


def mesh(values: Mapping[str, Any]) -> Mesh:
    """The device mesh."""
    check_keys(values["mesh"], sharding.AXES, "config.mesh")
    return sharding.make_mesh(**values["mesh"])


def trainer(values: Mapping[str, Any]) -> Trainer:
    """The pure part of training."""
    config = make(optim.OptimConfig, values["optimizer"], "config.optimizer")
    return Trainer(
        net=network(values),
        process=make(Process, values["process"], "config.process"),
        optimizer=optim.optimizer(config, values["steps"]),
        learning_rate=optim.learning_rate(config, values["steps"]),
        trainable=values["trainable"],
        ema_rate=values["ema_rate"],
        seed=values["seed"],
    )

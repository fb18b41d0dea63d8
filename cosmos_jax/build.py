"""Config sections to objects. The only file that names variants, and the last that sees a config.

Each section becomes the keyword arguments of one frozen dataclass, so a key that does not exist is
an error that names the nearest one that does.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cosmos_jax import cli, flops, optim, sharding, train
from cosmos_jax.data import pipeline
from cosmos_jax.data.layouts import DataConfig
from cosmos_jax.loop import CheckpointConfig, LogConfig, Loop, PreviewConfig, ValidationConfig
from cosmos_jax.models.attention import BACKENDS
from cosmos_jax.models.dit import DiT, DiTConfig
from cosmos_jax.train import Process, Trainer
from cosmos_jax.types import Batch, TrainState

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
MULTIVIEW: dict[str, Any] = {"rope_ratios": (8 / 24, 3.0, 3.0), "view_rows": 7, "view_channels": 7}
AGIBOT: dict[str, Any] = {
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
    # 184 control channels: (16 + 7) x 8 modalities, the unused ones zero.
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
    *("job", "mesh", "model", "adapter", "codec", "text", "process", "optimizer"),
    *("data", "scene", "validation", "checkpoint", "preview", "sample", "log"),
)
SETTINGS = (
    *("seed", "steps", "dtype", "attention", "remat", "trainable", "ema_rate"),
    *("init_from", "init_base", "init_control", "canary", "offload_optimizer", "accumulate"),
    *("unsound", "grad_limit"),
)
MAY_BE_NONE = ("init_base", "canary", "grad_limit")
FILES = {"codec": ("weights",), "text": ("weights", "cache"), "scene": (), "process": ()}
SYNTHETIC = "synthetic"  # the root of the data set that is rendered
DCT_CODEC = "cosmos_jax.models.dct_codec:DCTCodec"


def check_keys(given: Any, known: Any, where: str) -> None:
    """Raises a ValueError for a key of `given` that is not `known`; it names the nearest one."""
    for key in given:
        if key not in known:
            if (place := f"{where}.{key}".removeprefix("config.")) in cli.MOVED:
                raise ValueError(f"config.{place} is config.{cli.MOVED[place]} now")
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
        if name in section and section[name] is None and "None" not in str(field.type):
            raise ValueError(f"{where}.{name} must not be None")
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
    if unset := [name for name in SETTINGS if values[name] is None and name not in MAY_BE_NONE]:
        raise ValueError(f"config.{unset[0]} must not be None")
    if values["unsound"] not in ("stop", "skip"):
        raise ValueError(f"config.unsound={values['unsound']!r} must be stop or skip")
    if values["grad_limit"] is not None and values["unsound"] == "stop":
        raise ValueError('config.grad_limit needs config.unsound="skip"; optimizer.clip clips')
    if values["steps"] < 1:
        raise ValueError(f"config.steps={values['steps']} must be at least 1")
    return values


def attention_backend(name: str, dtype: str) -> str:
    """ "auto" is cuDNN where it runs (bfloat16 on NVIDIA GPUs since Ampere), else plain XLA.

    Where XLA is told to give the same bits every time, cuDNN goes by head: it would not fit else.

    Raises:
        ValueError: a backend that does not exist, or not here.
    """
    gpu = jax.default_backend() == "gpu"
    if name == "auto":
        name = "cudnn" if gpu and dtype == "bfloat16" else "xla"
    if name not in BACKENDS:
        raise ValueError(f"config.attention={name!r} must be auto or one of {BACKENDS}")
    if name != "xla" and not gpu:
        raise ValueError(f"config.attention={name!r} needs an NVIDIA GPU; set auto or xla")
    if name == "fa3" and jax.devices()[0].compute_capability != "9.0":
        raise ValueError("config.attention='fa3' needs a Hopper GPU; set auto")
    if name == "fa3" and not importlib.util.find_spec("dew_flash_attn"):
        raise ValueError(
            "config.attention='fa3' needs FlashAttention-3: pip install dew-flash-attn-cu13, "
            "or set auto"
        )
    exact = cli.EXACT_KERNELS in os.environ.get("XLA_FLAGS", "").split()
    return "cudnn_by_head" if name == "cudnn" and exact else name


def network(values: Mapping[str, Any]) -> Any:
    """The network: a published variant, changed by the other keys of `config.model`."""
    section = dict(values["model"])
    base, kind, variants = section.pop("base", None), DiT, VARIANTS
    if str(base).startswith("predict1"):
        kind, variants = load("cosmos_jax.build_predict1:NETWORKS", "config.model.base")
    if base not in variants:
        near = difflib.get_close_matches(str(base), variants, n=1)
        raise ValueError(
            f"config.model.base={base!r} is none of {sorted(variants)}"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    fields = {f.name for f in dataclasses.fields(variants[base])}
    elsewhere = {"dtype", "remat", "attention", "text_attention", "adapter"}
    check_keys(section, fields - elsewhere, "config.model")
    if values["dtype"] not in ("float32", "bfloat16"):
        raise ValueError(f"config.dtype={values['dtype']!r} must be float32 or bfloat16")
    backend = attention_backend(values["attention"], values["dtype"])
    config = dataclasses.replace(
        variants[base],
        **section,
        dtype=values["dtype"],
        remat=values["remat"],
        attention=backend,
        text_attention=backend,
        adapter=adapter(values),
    )
    return kind(config)


def adapter(values: Mapping[str, Any]) -> Any:
    """The adapter of the network's kernels (`models.adapters.Adapter`); rank 0: None."""
    section, kind = values["adapter"], load("cosmos_jax.models.adapters:Adapter", "config.adapter")
    off = "rank" in section and section["rank"] == 0
    found = make(kind, {**section, "rank": 1} if off else section, "config.adapter")
    return None if off else found


def load(name: Any, where: str) -> Any:
    """The object that a config names as "package.module:name", of ours or of the user's package.

    Named parts are imported when a config asks for them: a run reads no code but its own.

    Raises:
        ValueError: not of that form, or there is no such module or name.
    """
    module, _, attribute = str(name).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{where}={name!r} must be package.module:name, as in {DCT_CODEC!r} ({error})"
        ) from error


def part(values: Mapping[str, Any], section: str) -> Any:
    """An object of the class that `kind` names in a section, made of the section's other keys.

    Keys of `FILES` are no settings of the object: `build_weights` reads what they name.
    """
    settings = {k: v for k, v in values[section].items() if k not in FILES[section]}
    kind = load(settings.pop("kind", None), f"config.{section}.kind")
    return make(kind, settings, f"config.{section}")


def codec(values: Mapping[str, Any]) -> Any:
    """The video codec: `config.codec.kind` names its class (interface: `models.wan_vae.WanVAE`)."""
    return part(values, "codec")


def text_encoder(values: Mapping[str, Any]) -> Any:
    """The text encoder: `config.text.kind` names its class (`models.hashed_text.HashedText`)."""
    return part(values, "text")


def mesh(values: Mapping[str, Any]) -> Mesh:
    """The device mesh."""
    check_keys(values["mesh"], sharding.AXES, "config.mesh")
    return sharding.make_mesh(**values["mesh"])


def process(values: Mapping[str, Any]) -> Any:
    """The diffusion process: rectified flow, or the class that `config.process.kind` names."""
    section = dict(values["process"])
    named = section.pop("kind", None)
    kind = Process if named is None else load(named, "config.process.kind")
    return make(kind, section, "config.process")


def trainer(values: Mapping[str, Any]) -> Trainer:
    """The pure part of training."""
    config = make(optim.OptimConfig, values["optimizer"], "config.optimizer")
    net, trainable = network(values), values["trainable"]
    if net.config.adapter and trainable == ".*":
        trainable = optim.ADAPTERS
    return Trainer(
        net=net,
        process=process(values),
        optimizer=optim.optimizer(config, values["steps"]),
        learning_rate=optim.learning_rate(config, values["steps"]),
        trainable=trainable,
        ema_rate=values["ema_rate"],
        seed=values["seed"],
        offload=values["offload_optimizer"],
        accumulate=values["accumulate"],
        skip_unsound=values["unsound"] == "skip",
        grad_limit=values["grad_limit"],
    )


def loop(values: Mapping[str, Any], mesh: sharding.AnyMesh) -> Loop:
    """The loop's settings.

    Raises:
        ValueError: a batch that the mesh cannot split, or a setting out of range.
    """
    batch = values["data"]["batch_size"]
    validation = make(ValidationConfig, values["validation"], "config.validation")
    if validation.every and validation.clips % batch:
        raise ValueError(
            f"config.validation.clips={validation.clips} must be a multiple of "
            f"config.data.batch_size={batch}"
        )
    parts, ways = values["accumulate"], mesh.shape["data"] * mesh.shape["fsdp"]
    if parts < 1 or (parts > 1 and batch % (parts * ways)):
        raise ValueError(
            f"config.accumulate={parts} parts of a batch over data x fsdp = {ways} devices need a "
            f"config.data.batch_size that is a multiple of {max(parts, 1) * ways}, not {batch}"
        )
    return Loop(
        steps=values["steps"],
        batch=batch,
        rows=sharding.batch_rows(mesh, batch),
        canary=None if values["init_from"] == "random" else values["canary"],
        validation=validation,
        checkpoint=make(CheckpointConfig, values["checkpoint"], "config.checkpoint"),
        preview=make(PreviewConfig, values["preview"], "config.preview"),
        log=make(LogConfig, values["log"], "config.log"),
    )


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What follows from the config, before any data is seen.

    Attributes:
        network: the variant.
        state: the training state as shapes with shardings.
        latents: t, h, w, c of one view of one sample.
        text: s, e of one view's text, as it comes to the network.
        inputs: small inputs that initialise the network.
        model: description of the network, for checkpoints.
        defaults: of what checkpoints of earlier versions do not say of theirs.
    """

    network: DiTConfig
    state: TrainState
    latents: tuple[int, int, int, int]
    text: tuple[int, int]
    inputs: dict[str, Any]
    model: dict[str, Any]
    defaults: dict[str, Any]

    def tokens(self, views: int) -> int:
        """Tokens of one sample."""
        return flops.tokens(self.network, (views, *self.latents[:3]))

    def batch(self, size: int, views: int) -> Batch:
        """A batch as shapes, without memory."""

        def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((size, *shape), dtype)

        latents = array(views, *self.latents)
        return Batch(
            latents=latents,
            control=latents if self.network.control_blocks else None,
            text=array(views, *self.text, dtype=self.network.dtype),
            view_ids=array(views, dtype=jnp.int32),
            index=array(dtype=jnp.int32),
            fps=array(),
        )

    def flops(self, views: int) -> int | float:
        """Model FLOPs of one sample in one training step; products of adapters are left out."""
        network = self.network
        paths = [sharding.path_name(p) for p, _ in jax.tree.leaves_with_path(self.state.params)]
        kernels = [path for path in paths if "/lora_" not in path]
        if self.text[1] != network.text_features:  # projected before the run
            network = dataclasses.replace(network, text_features=0)
        return flops.training_step(
            network,
            (views, *self.latents[:3]),
            self.text[0],
            trunk_trained=not all(path.startswith("control/") for path in kernels),
            control_trained=any(path.startswith("control/") for path in kernels),
        )


def sizes(values: Mapping[str, Any], mesh: sharding.AnyMesh, trainer: Trainer) -> Sizes:
    """Counts and checks shapes, without memory.

    Raises:
        ValueError: frames, pixels, text or a mesh that the network or the codec cannot take.
    """
    data, config, text = values["data"], trainer.net.config, text_encoder(values)
    shape = latent_shape(codec(values), data["num_frames"], data["size"])
    if text.width != (config.text_features or config.text_width):
        raise ValueError(
            f"config.text.width={text.width}, and the network takes text of "
            f"{config.text_features or config.text_width} (config.model.text_features)"
        )
    sharding.context_letter(shape[0], shape[1] // config.patch, mesh.shape["context"])
    controlled = bool(config.control_blocks)
    inputs = train.network_inputs(shape[-1], text.width, controlled, mesh.shape["context"])
    # What may change between two starts of one run is left out.
    free = {"dtype", "param_dtype", "remat", "attention", "text_attention"}

    def told(fields: dict[str, Any]) -> dict[str, Any]:  # None: no adapter, as before there were
        absent = (None, dataclasses.MISSING)
        return {k: v for k, v in fields.items() if k not in free and v not in absent}

    network = told(dataclasses.asdict(config))
    return Sizes(
        config,
        trainer.abstract_state(inputs, mesh),
        shape,
        (text.tokens, text.width),
        inputs,
        {"network": network, "trainable": trainer.trainable, "codec": values["codec"]},
        {"network": told({f.name: f.default for f in dataclasses.fields(config)})},
    )


def latent_shape(codec: Any, frames: int, size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Shape t, h, w, c of the latents of one view.

    Raises:
        ValueError: frames or pixels that the codec cannot take; the message names what fits.
    """
    if len(size) != 2:
        raise ValueError(f"config.data.size={tuple(size)} must be (rows, columns)")
    (y, x), t = size, codec.latent_frames(frames)
    step = 2 * codec.spatial
    if y < step or x < step or y % step or x % step:
        raise ValueError(
            f"config.data.size=({y}, {x}) must be multiples of {step} (the codec's {codec.spatial} "
            f"pixels by 2 latents a token); near it is ({round(y / step) * step or step}, "
            f"{round(x / step) * step or step})"
        )
    return t, y // codec.spatial, x // codec.spatial, codec.latent_channels


def data(values: Mapping[str, Any], trainer: Trainer, folder: Path) -> pipeline.DataSet:
    """Opens the data set; root "synthetic" is rendered into `folder` first.

    Raises:
        ValueError: bad data (`pipeline.open_dataset`), control that the network and the data set do
            not agree on, or a view id outside the network's table.
    """
    config = make(DataConfig, values["data"], "config.data")
    network = trainer.net.config
    if config.root == SYNTHETIC:
        config = dataclasses.replace(config, root=str(part(values, "scene").write(folder)))
    if bool(network.control_blocks) != (config.control is not None):
        raise ValueError(
            "config.data.control: the network has a control branch and needs a control folder"
            if network.control_blocks
            else "config.data.control: the network has no control branch; set it to None"
        )
    if config.root.startswith("tfds://"):
        config = load("cosmos_jax.build_tfds:located", "config.data.root")(config)
    if cache := config.latents_folder:
        cached = load("cosmos_jax.build_latents:dataset", "config.data.latents")
        found = cached(values, config, cache)
    else:
        found = pipeline.open_dataset(config)
    if len(found.train.cameras) > max(network.view_rows, 1):
        raise ValueError(
            f"{config.root} has {len(found.train.cameras)} cameras, and the network knows "
            f"{max(network.view_rows, 1)}; choose with config.data.cameras"
        )
    for camera, view in found.train.cameras:
        if network.view_rows and not 0 <= view < network.view_rows:
            raise ValueError(
                f"camera {camera} has view id {view}, and the network knows ids 0 to "
                f"{network.view_rows - 1}; give ids in config.data.cameras"
            )
    return found


def alarm(loop: Loop, trainer: Trainer, state: TrainState, batch: Batch) -> str | None:
    """What the first-step canary (`canary.alarm`) has to say; None: it is off, or all is well."""
    if loop.canary is None:
        return None
    listen = load("cosmos_jax.canary:alarm", "config.canary")
    return listen(trainer, state, batch, loop.canary)


def validation(
    loop: Loop, trainer: Trainer, encoder: Any, data: pipeline.DataSet
) -> Callable[[TrainState], dict[str, float]] | None:
    """A function of a state to its `val/...` metrics (`validation`); None for a run without."""
    if not loop.validation.every:
        return None
    return load("cosmos_jax.validation:make", "config.validation")(trainer, encoder, data, loop)


def preview(values: Mapping[str, Any], *parts: Any) -> Callable[[TrainState, Path], None] | None:
    """A function that samples videos (`preview.make`); None for a run without."""
    if not values["preview"]["clips"]:
        return None
    return load("cosmos_jax.preview:make", "config.preview")(values, *parts)


def profile(window: str | None, *where: Any) -> Any:
    """The window of steps that is traced (`profiler.Window`); None: none is asked for."""
    return load("cosmos_jax.profiler:Window", "--profile")(window, *where) if window else None


def report(workdir: Path) -> None:
    """Writes WORKDIR/report.html, where this process is the one that writes."""
    if jax.process_index() != 0:
        return
    try:
        load("cosmos_jax.report:write_report", "report")(workdir)
    except Exception as error:  # whatever is wrong with a page, it is no reason to end a run
        print(f"report   not written: {type(error).__name__}: {error}", flush=True)

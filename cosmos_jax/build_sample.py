"""What samples, built of a config that flags have changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from cosmos_jax import build_weights, sharding
from cosmos_jax.build import SYNTHETIC, Sizes, codec, latent_shape, load, make
from cosmos_jax.diffusion import guiding
from cosmos_jax.encode import Text
from cosmos_jax.generate import Generator, SampleConfig
from cosmos_jax.train import Trainer


def sample_config(values: Mapping[str, Any], **changes: Any) -> SampleConfig:
    """`config.sample`, changed by keyword arguments.

    Raises:
        ValueError: a setting out of range; given frames that do not fill latent frames, or that are
            more than the clip's.
    """
    config = make(SampleConfig, {**values["sample"], **changes}, "config.sample")
    given, frames = config.num_conditional_frames, values["data"]["num_frames"]
    guiding.latent_frames(given, codec(values).temporal)
    if given > frames:
        raise ValueError(f"num_conditional_frames={given} exceeds the {frames} frames of a clip")
    return config


def solver(trainer: Trainer) -> Any:
    """What samples a process (`sample.FlowSolver`)."""
    return load(trainer.process.solver, "config.process.kind")(trainer.process, trainer.net.config)


def generator(values: Mapping[str, Any], mesh: Mesh, trainer: Trainer, **changes: Any) -> Generator:
    """The sampler of `config.sample`, changed by keyword arguments (see `sample_config`)."""
    config = sample_config(values, **changes)
    return Generator(trainer.net, codec(values), solver(trainer), config, mesh)


def text(
    values: Mapping[str, Any],
    mesh: Mesh,
    sizes: Sizes,
    folder: Path | None,
    captions: Sequence[str],
    cache: str | None,
) -> Text:
    """Text embeddings for sampling (`build_weights.text`): by default as the run had them.

    Args:
        values: the run's config.
        mesh: where the encoder's weights go.
        sizes: of the network.
        folder: the run's, in which rendered clips lie; None: the weights are no run's.
        captions: all that will be said.
        cache: folder of a cache, "auto", or "none"; None: the run's setting.
    """
    section, root = dict(values["text"]), values["data"]["root"]
    if cache is not None:
        section["cache"] = None if cache == "none" else cache
    if folder is not None and root == SYNTHETIC:
        root = folder / SYNTHETIC
    return build_weights.text({**values, "text": section}, mesh, sizes, root, sorted({*captions}))


def sampling_mesh(
    values: Mapping[str, Any],
    trainer: Trainer,
    text: str | None,
    guided: bool,
    sizes: Sequence[tuple[int, int]] = (),
) -> Mesh:
    """The mesh for sampling: as written, "data=2,context=4", or what suits the devices.

    With guidance an even number of devices is halved between the two branches (data=2); `context`
    takes the largest part of the rest that fits videos of the config's size and of other `sizes`.

    Raises:
        ValueError: the text is not of that form, or the mesh fits neither the devices nor a size.
    """
    section = values["data"]
    shapes = [
        latent_shape(codec(values), section["num_frames"], size)
        for size in (section["size"], *sizes)
    ]
    grids = [(t, h // trainer.net.config.patch) for t, h, *_ in shapes]
    if text is not None:
        parts = [part.partition("=") for part in text.split(",")]
        if not all(name in sharding.AXES and size.isdecimal() for name, _, size in parts):
            raise ValueError(f"--mesh={text}: write it as data=2,context=4 (axes {sharding.AXES})")
        axes = dict.fromkeys(sharding.AXES, 1) | {name: int(size) for name, _, size in parts}
        mesh = sharding.make_mesh(axes["data"], axes["fsdp"], axes["context"])
        for t, rows in grids:
            sharding.context_letter(t, rows, mesh.shape["context"])
        return mesh
    devices = jax.devices()
    data = 2 if guided and len(devices) % 2 == 0 else 1
    fits = [
        n
        for n in range(1, len(devices) // data + 1)
        if all(t % n == 0 or rows % n == 0 for t, rows in grids)
    ]
    return sharding.make_mesh(data, context=fits[-1], devices=devices[: data * fits[-1]])

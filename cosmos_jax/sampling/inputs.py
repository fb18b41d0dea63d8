"""What a run is to sample, from whichever form it is written in."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_jax.diffusion import guiding
from cosmos_jax.sampling import (
    spec_auto,
    spec_folder,
    spec_predict,
    spec_predict1,
    spec_predict_views,
)
from cosmos_jax.sampling.fields import Fields, read_objects
from cosmos_jax.sampling.model import Model
from cosmos_jax.sampling.requests import Request
from cosmos_jax.sampling.spec_predict import TEMPORAL

if TYPE_CHECKING:
    from cosmos_jax.sampling.run import Wanted

SPECIFICATIONS = (".json", ".jsonl")
FLAGS = {"overlap": "chunk_overlap", "pixels": "handover", "cross_fade": "cross_fade"}
FOLDERS_OWN = ("control", "size")


def read(wanted: "Wanted", model: Model) -> list[Request]:
    """The requests of a folder, or of specifications one after another.

    Raises:
        ValueError: a path that is neither, several folders, flags that have no meaning for what is
            read, or whatever is wrong in it.
    """
    return [lengthened(request, wanted, model) for request in _read(wanted, model)]


def lengthened(request: Request, wanted: "Wanted", model: Model) -> Request:
    """A request whose length and chunks are what flags say.

    Raises:
        ValueError: flags that contradict each other, have no end, or act on long videos alone.
    """
    if wanted.frames is not None:
        if "chunks" in wanted.long:
            raise ValueError("--num_frames and --num_chunks both say how long a video is; give one")
        request = dataclasses.replace(request, frames=wanted.frames)
    long = request.long
    if long.chunks == 1:
        long = dataclasses.replace(long, pixels=model.reference, whole=model.reference)
    long = dataclasses.replace(long, **wanted.long)
    if long.chunks is None and not model.controlled:
        raise ValueError("--num_chunks=all needs a model with control, whose videos have an end")
    if long.chunks == 1 and request.frames is None:
        if idle := [FLAGS[name] for name in wanted.long if name != "chunks"]:
            raise ValueError(
                f"--{idle[0]} is for long videos; say how long with --num_chunks or --num_frames"
            )
        return dataclasses.replace(request, long=long)
    if model.reference and model.controlled:
        request = dataclasses.replace(request, model_fps=spec_auto.RATE)
    return dataclasses.replace(request, long=long)


def _read(wanted: "Wanted", model: Model) -> list[Request]:
    paths = list(wanted.inputs)
    if all(path.suffix in SPECIFICATIONS and not path.is_dir() for path in paths):
        found = [r for path in paths for r in specified(path, wanted, model)]
        return found[: wanted.limit]
    if len(paths) != 1:
        raise ValueError(
            f"--input={','.join(map(str, paths))}: give one folder, or .json and .jsonl files"
        )
    return in_folder(paths[0], wanted, model)


def in_folder(path: Path, wanted: "Wanted", model: Model) -> list[Request]:
    """The requests of a folder of clips."""
    changes = dict(wanted.settings)
    if model.reference and model.text_guided and "guidance" in changes:
        changes["guidance"] -= model.guidance_excess
    if model.reference and model.controlled:
        changes = {"num_conditional_frames": 1} | changes  # the default there
    if model.reference and model.counts_latents and "num_conditional_frames" in changes:
        count = changes["num_conditional_frames"]
        changes["num_conditional_frames"] = reference_frames(count, is_long(wanted))
    return spec_folder.requests(
        spec_folder.Folder(
            root=path,
            model=model,
            settings=dataclasses.replace(model.settings, **changes),
            control=wanted.control,
            prompt=wanted.fields.get("prompt"),
            limit=wanted.limit,
            fps=wanted.fields.get("fps"),
            size=wanted.size,
        )
    )


def is_long(wanted: "Wanted") -> bool:
    """Whether flags ask for a video of several chunks."""
    return wanted.frames is not None or ("chunks" in wanted.long and wanted.long["chunks"] != 1)


def reference_frames(count: int, several: bool) -> int:
    """Pixel frames of the reference's `--num_conditional_frames` for a folder.

    [TRAP] There it counts latent frames; in long videos pixel frames, of which those that fill no
    latent frame are left out.

    Raises:
        ValueError: a negative number.
    """
    if count < 0:
        raise ValueError(f"--num_conditional_frames={count} must be at least 0")
    return guiding.pixel_frames(-(-count // TEMPORAL) if several else count, TEMPORAL)


def specified(path: Path, wanted: "Wanted", model: Model) -> Sequence[Request]:
    """The requests of one specification file; flags go before its fields."""
    for name in FOLDERS_OWN:
        if getattr(wanted, name) is not None:
            raise ValueError(f"--{name} has a meaning with a folder only, and {path} is none")
    if not path.is_file():
        raise ValueError(f"--input: there is no file {path}")
    ours = {"karras", "solver", "guidance_interval", "cache_threshold"}
    flags = {k: v for k, v in wanted.settings.items() if k not in ours}
    if (rate := wanted.fields.get("fps")) is not None and rate == int(rate):
        flags["fps"] = int(rate)
    elif rate is not None:
        raise ValueError(f"--fps={rate:g}: specifications have whole numbers")
    if "prompt" in wanted.fields:
        flags |= {"prompt": wanted.fields["prompt"], "prompt_path": None}
    settings = dataclasses.replace(
        model.settings, **{k: v for k, v in wanted.settings.items() if k in ours}
    )
    model = dataclasses.replace(model, settings=settings)
    several = {"enable_autoregressive": True} if is_long(wanted) else {}
    found: list[Request] = []
    objects = read_objects(path)
    for i, fields in enumerate(objects):
        found += each(fields, model, flags, "output" if len(objects) == 1 else str(i), several)
    return found


def each(
    fields: Fields,
    model: Model,
    flags: dict[str, Any],
    name: str,
    several: Mapping[str, bool] | None = None,
) -> list[Request]:
    """The requests of one JSON object: of one of Predict2.5's forms, of Predict1's, or of the
    auto-multiview guide's. In some it may be without a name."""
    if spec_predict_views.is_of(fields, model):
        return [spec_predict_views.request(fields, model, {**flags, **(several or {})}, name)]
    if fields.has("inference_type"):
        return spec_predict.requests(fields, model, flags)
    if spec_predict1.is_of(fields, model):
        return [spec_predict1.request(fields, model, flags, name)]
    return [spec_auto.request(fields, model, {**flags, **(several or {})})]

"""What a run is to sample, from whichever form it is written in."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_jax.sampling import spec_auto, spec_folder, spec_predict, spec_predict1
from cosmos_jax.sampling.fields import Fields, read_objects
from cosmos_jax.sampling.model import Model
from cosmos_jax.sampling.requests import Long, Request

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
        long = Long(pixels=model.reference, whole=model.reference)
    long = dataclasses.replace(long, **wanted.long)
    if long.chunks is None and not model.controlled:
        raise ValueError("--num_chunks=all needs a model with control, whose videos have an end")
    if long.chunks == 1 and request.frames is None:
        if idle := [FLAGS[name] for name in wanted.long if name != "chunks"]:
            raise ValueError(
                f"--{idle[0]} is for long videos; say how long with --num_chunks or --num_frames"
            )
        return request
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


def specified(path: Path, wanted: "Wanted", model: Model) -> Sequence[Request]:
    """The requests of one specification file; flags go before its fields."""
    for name in FOLDERS_OWN:
        if getattr(wanted, name) is not None:
            raise ValueError(f"--{name} has a meaning with a folder only, and {path} is none")
    if not path.is_file():
        raise ValueError(f"--input: there is no file {path}")
    ours = {"karras", "guidance_interval", "cache_threshold"}
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
    several = {}
    if "chunks" in wanted.long or wanted.frames is not None:
        long = wanted.frames is not None or wanted.long["chunks"] != 1
        several = {"enable_autoregressive": long}
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
    """The requests of one JSON object: of Predict2.5's form, Predict1's (in which it may be without
    a name), or the auto-multiview guide's."""
    if fields.has("inference_type"):
        return spec_predict.requests(fields, model, flags)
    if spec_predict1.is_of(fields, model):
        return [spec_predict1.request(fields, model, flags, name)]
    return [spec_auto.request(fields, model, {**flags, **(several or {})})]

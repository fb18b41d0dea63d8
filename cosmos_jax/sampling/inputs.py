"""What a run is to sample, from whichever form it is written in."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_jax.sampling import spec_auto, spec_folder, spec_predict, spec_predict1
from cosmos_jax.sampling.fields import Fields, read_objects
from cosmos_jax.sampling.model import Model
from cosmos_jax.sampling.requests import Long, Request

if TYPE_CHECKING:
    from cosmos_jax.sampling.run import Wanted

SPECIFICATIONS = (".json", ".jsonl")
LONG = {"chunks": "num_chunks", "overlap": "chunk_overlap"}
ENDLESS = {"chunks": None}  # --num_chunks=all
FOLDERS_OWN = ("control", "size")


def read(wanted: "Wanted", model: Model) -> list[Request]:
    """The requests of a folder, or of specifications one after another.

    Raises:
        ValueError: a path that is neither, several folders, flags that have no meaning for what is
            read, or whatever is wrong in it.
    """
    found = _read(wanted, model)
    if wanted.frames is None:
        return found
    if "chunks" in wanted.long:
        raise ValueError("--num_frames and --num_chunks both say how long a video is; give one")
    return [dataclasses.replace(request, frames=wanted.frames) for request in found]


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
    long = Long(pixels=model.reference, whole=model.reference)
    if not model.controlled and ENDLESS.items() <= wanted.long.items():
        raise ValueError("--num_chunks=all needs a model with control, whose videos have an end")
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
            long=dataclasses.replace(long, **wanted.long),
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
    flags |= {LONG[k]: v for k, v in wanted.long.items() if k in LONG and v is not None}
    settings = dataclasses.replace(
        model.settings, **{k: v for k, v in wanted.settings.items() if k in ours}
    )
    model = dataclasses.replace(model, settings=settings)
    found: list[Request] = []
    objects = read_objects(path)
    for i, fields in enumerate(objects):
        found += each(fields, model, flags, "output" if len(objects) == 1 else str(i))
    rest: dict[str, Any] = {k: v for k, v in wanted.long.items() if k not in LONG}
    if ENDLESS.items() <= wanted.long.items():
        rest |= ENDLESS
    return [
        dataclasses.replace(r, long=dataclasses.replace(r.long, **rest))
        if r.long.chunks != 1
        else r
        for r in found
    ]


def each(fields: Fields, model: Model, flags: dict[str, Any], name: str) -> list[Request]:
    """The requests of one JSON object: of Predict2.5's form, Predict1's (in which it may be without
    a name), or the auto-multiview guide's."""
    if fields.has("inference_type"):
        return spec_predict.requests(fields, model, flags)
    if spec_predict1.is_of(fields, model):
        return [spec_predict1.request(fields, model, flags, name)]
    if "num_chunks" in flags:
        flags = {"enable_autoregressive": flags["num_chunks"] != 1, **flags}
    return [spec_auto.request(fields, model, flags)]

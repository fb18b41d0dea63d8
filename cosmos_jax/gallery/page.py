"""An output folder of run_sample.py to one HTML file.

The page is made as a run's report is (`cosmos_jax.report.page`): names, prompts and settings stand
in it as JSON and are set as text, and it runs no script but its own.
"""

import datetime
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from cosmos_jax import rigs
from cosmos_jax.evaluate import folders, summary
from cosmos_jax.evaluate.folders import Sample
from cosmos_jax.gallery import metrics
from cosmos_jax.report import facts
from cosmos_jax.report import page as report

PAGE = "gallery.html"
WEB = resources.files("cosmos_jax.gallery") / "web"
SCRIPTS = ("stage.js", "gallery.js")
REPORT_SCRIPTS = ("chart.js", "clock.js")
OVERLAYS = ("control", "input")
SHOWN_APART = {"name", "prompt", "negative_prompt", "cameras", "files", "metrics", "chunks"}
"""Parts of a sidecar that have a place of their own on the page, or are for programs."""
LINKS = {
    "grid": "all views",
    "control_grid": "all controls",
    "input_grid": "all true views",
    "comparison": "comparison",
}

Found = dict[str, list[Sample]]
"""Samples with sidecars, by checkpoint."""


def find(folder: Path) -> Found:
    """The samples of an output folder; none where it is none.

    Raises:
        ValueError: no such folder, or a sidecar that cannot be read.
    """
    places = folders.checkpoints(folder)
    found = {name: folders.sidecars(place) for name, place in places.items()}
    return {name: samples for name, samples in found.items() if samples}


def is_output(folder: Path) -> bool:
    """Whether a folder holds samples with their sidecars, by checkpoint or not."""
    return bool(find(folder))


def write_gallery(folder: Path, output: Path | None = None) -> Path:
    """Writes the page of an output folder of run_sample.py, and returns its path.

    The file is replaced at once. Samples that are still being made are on the next page.

    Args:
        folder: OUT, with OUT/NAME.json, or OUT/CHECKPOINT/NAME.json of several checkpoints.
        output: the page; OUT/gallery.html by default. Its links to videos are relative.

    Raises:
        ValueError: no sample's sidecar, a damaged one or a damaged metrics.json, or `output` is a
            folder.
    """
    output = folder / PAGE if output is None else output
    if output.is_dir():
        raise ValueError(f"{output} is a folder: name a file for the page")
    web = resources.files("cosmos_jax.report") / "web"
    styles = [web / "page.css", WEB / "gallery.css"]
    scripts = [*(web / name for name in REPORT_SCRIPTS), *(WEB / name for name in SCRIPTS)]
    data = gallery_data(folder, output.parent)
    return report.write(output, report.fill(data, WEB / "gallery.html", styles, scripts))


def gallery_data(folder: Path, place: Path) -> dict[str, Any]:
    """All that the page shows, as JSON values; links are relative to `place`.

    Raises:
        ValueError: see `write_gallery`.
    """
    found = find(folder)
    if not found:
        raise ValueError(f"{folder} has no sample's NAME.json: not an output of run_sample.py")
    checkpoints = metrics.of_folder(folder, found)
    by_name: dict[str, dict[str, Sample]] = {}
    for checkpoint, samples in found.items():
        for sample in samples:
            by_name.setdefault(sample.name, {})[checkpoint] = sample
    now = datetime.datetime.now(datetime.UTC)
    return {
        "name": folder.resolve().name,
        "made": f"{now:%Y-%m-%d %H:%M} UTC",
        "checkpoints": [{"name": name, "step": folders.step_of(name)} for name in found],
        "samples": [
            sample_data(name, by_name[name], list(found), checkpoints, place)
            for name in sorted(by_name)
        ],
        "summary": metrics.table(checkpoints),
        "charts": metrics.charts(checkpoints) if len(found) > 1 else [],
    }


def sample_data(
    name: str,
    made: Mapping[str, Sample],
    order: Sequence[str],
    checkpoints: summary.Checkpoints,
    place: Path,
) -> dict[str, Any]:
    """One sample at every checkpoint; null in a list by checkpoint where it was not sampled."""
    first = next(iter(made.values()))
    rows, columns, cells = rigs.grid(list(first.views))
    values = {
        checkpoint: checkpoints[checkpoint].samples[name]
        for checkpoint in made
        if name in checkpoints[checkpoint].samples
    }
    held = dict(first.sidecar or {})
    return {
        "name": name,
        "facts": facts_of(held),
        "prompt": texts(held.get("prompt")),
        "negative": texts(held.get("negative_prompt")),
        "fps": held.get("fps"),
        "size": held.get("size"),
        "grid": {"rows": rows, "columns": columns, "cells": cells},
        "made": [_made(made[c], place) if c in made else None for c in order],
        "settings": settings([made[c] for c in order if c in made]),
        "metrics": metrics.sample_table(values, order),
    }


def texts(prompt: Any) -> list[list[str]]:
    """[camera, text] of a prompt, which is one for all cameras ("") or one for each."""
    if not isinstance(prompt, Mapping):
        return [["", str(prompt)]] if prompt and str(prompt).strip() else []
    if len(set(prompt.values())) == 1:
        return texts(next(iter(prompt.values())))
    told = [[str(camera), str(text)] for camera, text in prompt.items() if str(text).strip()]
    return told + ([["", "No text for the other cameras."]] if len(told) < len(prompt) else [])


def facts_of(sidecar: Mapping[str, Any]) -> list[str]:
    """The line below a sample's name: its size and the settings that are one word each."""
    said = []
    if isinstance(sidecar.get("size"), list):
        said.append("x".join(map(str, sidecar["size"])))
    said += [f"{sidecar[key]} {key}" for key in ("frames", "fps") if key in sidecar]
    said += [f"seed {sidecar['seed']}"] if "seed" in sidecar else []
    held = sidecar.get("settings")
    for key, value in held.items() if isinstance(held, Mapping) else ():
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if plain and key not in sidecar:
            said.append(f"{key.replace('_', ' ')} {value}")
    return said


def _made(sample: Sample, place: Path) -> dict[str, Any]:
    """Links of one sample at one checkpoint."""
    sidecar = sample.sidecar or {}
    folder = next(iter(sample.views.values()))
    files = sidecar["files"]
    camera = next(iter(files["views"]))
    root = Path(str(folder)[: -len(files["views"][camera])])  # of the sidecar

    def links(videos: Mapping[str, Path]) -> dict[str, str]:
        return {camera: report.link(path, place) for camera, path in videos.items()}

    image = files.get("image")
    return {
        "views": links(sample.views),
        "control": links(sample.control),
        "input": links(sample.input),
        "image": report.link(root / image, place) if image else None,
        "links": [
            [text, report.link(root / files[key], place)]
            for key, text in LINKS.items()
            if files.get(key)
        ],
    }


def settings(samples: Sequence[Sample]) -> list[list[Any]]:
    """[setting, [its value at each of these checkpoints]]; one value where all are equal."""
    flat = [
        dict(facts.flat({k: v for k, v in (one.sidecar or {}).items() if k not in SHOWN_APART}))
        for one in samples
    ]
    rows = []
    for key in dict.fromkeys(key for values in flat for key in values):
        values = [values.get(key, "") for values in flat]
        rows.append([key, values[:1] if len(set(values)) == 1 else values])
    return rows

"""A run's folder to one HTML file: numbers as JSON, drawn by the page's own script.

Texts of the run (names, config, captions) are data throughout: they stand in JSON without `<`, the
script sets them as text, and the page's policy runs no script but ours and loads only videos.
"""

import base64
import datetime
import hashlib
import html
import json
import os
import urllib.parse
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from cosmos_jax.report import facts, log, samples
from cosmos_jax.report.charts import charts, number

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.json"
WEB = resources.files("cosmos_jax.report") / "web"
SCRIPTS = ("chart.js", "clock.js", "player.js", "page.js")


def write_report(workdir: Path, output: Path | None = None) -> Path:
    """Writes the page of a run, which may still be going on, and returns its path.

    The file is replaced at once. Takes about a second for 50,000 lines of metrics.

    Args:
        workdir: of run_train.py; any part of it but config.json may be missing.
        output: the page; WORKDIR/report.html by default. Its links to videos are relative.

    Raises:
        ValueError: the folder is no workdir, its config.json is damaged, or `output` is a folder.
    """
    output = workdir / "report.html" if output is None else output
    if output.is_dir():
        raise ValueError(f"{output} is a folder: name a file for the page")
    return write(output, render(report_data(workdir, output.parent)))


def write(output: Path, text: str) -> Path:
    """Writes a page, whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_name(output.name + ".draft")
    draft.write_text(text, "utf-8")
    draft.replace(output)
    return output


def report_data(workdir: Path, folder: Path) -> dict[str, Any]:
    """All that the page shows, as JSON values; links are relative to `folder`.

    Raises:
        ValueError: see `write_report`.
    """
    kept = read_config(workdir)
    held = log.read(workdir / METRICS_FILE)
    cameras = [name or "view" for name, _ in kept["cameras"]]
    source = kept["config"].get("data", {})  # the player's hints; it does without
    now = datetime.datetime.now(datetime.UTC)
    return {
        "name": workdir.resolve().name,
        "made": f"{now:%Y-%m-%d %H:%M} UTC",
        "steps": kept["config"]["steps"],
        "starts": [[step, number(seconds)] for step, seconds in held.starts],
        "tiles": facts.tiles(held, kept["config"]),
        "notes": facts.notes(held),
        "charts": charts(held.curves),
        "read": facts.what_was_read(kept["config"]),
        "config": facts.flat(kept["config"]),
        "about": facts.flat({k: v for k, v in kept.items() if k != "config"}),
        "samples": sample_data(samples.find(workdir), cameras, folder),
        "fps": source.get("fps"),
        "size": source.get("size"),
    }


def read_config(workdir: Path) -> dict[str, Any]:
    """What a run keeps of itself: its `config`, its `cameras` and what else there is.

    Raises:
        ValueError: the folder is no workdir, or its config.json is damaged.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{workdir} has no {CONFIG_FILE}: it is not a workdir of run_train.py")
    try:
        kept = json.loads(path.read_bytes(), parse_constant=str)  # JSON of a page has no NaN
        if type(kept["config"]["steps"]) is not int:
            raise ValueError("config.steps is no number")
        if not all(isinstance(name, str) for name, _ in kept["cameras"]):
            raise ValueError("a camera has no name")
    except (ValueError, TypeError, LookupError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is not the config of a run of run_train.py: {what}") from error
    return kept


def sample_data(found: list[samples.Sample], cameras: list[str], folder: Path) -> dict[str, Any]:
    """What the player offers: `videos` by step, and clips and kinds in order."""
    together: dict[tuple[int, str], set[str]] = {}
    for one in found:
        together.setdefault((one.step, one.clip), set()).add(one.kind)
    steps: dict[int, list[dict[str, Any]]] = {}
    for one in found:
        cells = samples.labels(one.kind, together[one.step, one.clip], cameras)
        video = {"clip": one.clip, "kind": one.kind, "href": link(one.path, folder), "cells": cells}
        steps.setdefault(one.step, []).append(video)
    return {
        "videos": list(steps.items()),
        "clips": sorted({one.clip for one in found}),
        "kinds": samples.order({one.kind for one in found}, cameras),
        "cameras": cameras,
    }


def link(path: Path, folder: Path) -> str:
    """A relative URL, with whatever bytes a file's name holds."""
    if path.is_relative_to(folder):  # also where a part of the way is a symbolic link
        relative = path.relative_to(folder)
    else:
        relative = Path(os.path.relpath(path.resolve(), folder.resolve()))
    return urllib.parse.quote(os.fsencode(relative.as_posix()))


def render(data: dict[str, Any]) -> str:
    """The page of a run."""
    return fill(data, WEB / "page.html", [WEB / "page.css"], [WEB / name for name in SCRIPTS])


def fill(
    data: dict[str, Any],
    template: Traversable,
    styles: Sequence[Traversable],
    scripts: Sequence[Traversable],
) -> str:
    """A template with its `data`, which stands in it as JSON in the element `data`.

    Args:
        data: JSON values; `name` is the title's.
        template: HTML with @@name@@, @@policy@@ (of the only script), @@style@@, @@data@@ and
            @@script@@.
    """
    script = "\n".join(file.read_text("utf-8") for file in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    numbers = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":  # so that no text can end the element
        numbers = numbers.replace(character, f"\\u{ord(character):04x}")
    name = data["name"].encode("utf-8", "replace").decode()
    parts = {
        "name": html.escape(name),
        "policy": f"'sha256-{digest}'",
        "style": "\n".join(file.read_text("utf-8") for file in styles),
        "data": numbers,
        "script": script,
    }
    pieces = template.read_text("utf-8").split("@@")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))

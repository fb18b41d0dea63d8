"""Prints Markdown tables of what the other cases printed, one for each case.

    python -m cosmos_jax.bench report FILE.jsonl ...

Every file holds lines of `cosmos_jax.bench`; lines that do not begin with "{" are left out, so the
output of a whole shell session will do. A backward pass is the difference of two lines.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cosmos_jax import cli
from cosmos_jax.bench import reference

Line = dict[str, Any]
Row = dict[str, str]

NONE = "-"
EVERYTHING = ".*"
REFERENCE = "PyTorch reference (H200)"


def main(argv: list[str]) -> None:
    """Prints the tables of the files that are named."""
    if len(argv) < 2:
        cli.fail("name the files: bench report FILE.jsonl ...")
    with cli.user_errors():
        print(report([line for path in argv[1:] for line in read(Path(path))]))


def read(path: Path) -> list[Line]:
    """The lines of a file.

    Raises:
        ValueError: a line that is none of the benchmark's; the message names file and line.
    """
    lines = []
    for number, text in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not text.startswith("{"):
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number} is not JSON: {error}") from None
        if "case" not in line or line["case"] not in TABLES:
            raise ValueError(f"{path}:{number} is of none of the cases {', '.join(TABLES)}")
        lines.append(line)
    return lines


def report(lines: Sequence[Line]) -> str:
    """All tables.

    Raises:
        ValueError: there are no lines, or one lacks a figure.
    """
    parts = []
    for case, (title, rows) in TABLES.items():
        held = [line for line in lines if line["case"] == case]
        if held:
            try:
                parts += [f"## {title}", *machines(held), markdown(rows(held))]
            except KeyError as error:
                raise ValueError(f"a line of case {case} has no {error}") from None
    if not parts:
        raise ValueError("the files hold no lines of cosmos_jax.bench")
    return "\n\n".join(parts)


def machines(lines: Sequence[Line]) -> list[str]:
    """On what the lines were measured: one line of text, if they say so."""
    found: dict[str, None] = {}  # a set that keeps its order
    for line in lines:
        if "versions" in line:
            versions = ", ".join(f"{name} {v}" for name, v in line["versions"].items())
            found[f"{line['device']}, {versions}"] = None
    return ["; ".join(found)] if found else []


def markdown(rows: Sequence[Row]) -> str:
    """A table of rows that have the same keys; columns in which nothing stands are left out."""
    titles = [name for name in rows[0] if any(row[name] != NONE for row in rows)]
    lines = [titles, ["---"] * len(titles), *([row[name] for name in titles] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# ------------------------------------------------------------------------------
# Cells.


def figure(line: Line, name: str, form: str = "{}") -> str:
    """A figure of a line, if it has it: memory and FLOPs are not known of everything."""
    return form.format(line[name]) if name in line else NONE


def seconds(value: float) -> str:
    """Four digits of a time."""
    return f"{value:.4g} s"


def devices(line: Line) -> int:
    """How many devices a line's mesh has."""
    count = 1
    for size in line["mesh"].values():
        count *= size
    return count


def mesh(line: Line) -> str:
    """The axes of a mesh that are split."""
    split = [f"{axis}={size}" for axis, size in line["mesh"].items() if size > 1]
    return ", ".join(split) or "1 device"


def trained(line: Line) -> str:
    """What is trained, in words."""
    words = {EVERYTHING: "all parameters", "control/.*": "control branch"}
    return words[line["trainable"]] if line["trainable"] in words else f"`{line['trainable']}`"


def known(line: Line, table: dict[Any, Any], key: Any) -> Any:
    """The reference's figure for a line of the hardware that it was measured on."""
    return table[key] if reference.DEVICE in line["device"] and key in table else NONE


def cost(line: Line) -> Row:
    """The columns that everything compiled has."""
    return {
        "model TFLOP/s": figure(line, "model_tflops", "{:.4g}"),
        "of a product": figure(line, "share_of_ceiling", "{:.0%}"),
        "peak memory": figure(line, "peak_memory_gib", "{:.1f} GiB"),
        "temporary": f"{line['program_gib']['temp']:.1f} GiB" if "program_gib" in line else NONE,
        "compile": figure(line, "compile_seconds", "{:.0f} s"),
    }


def scaling(line: Line, lines: Sequence[Line]) -> str:
    """Samples a second and device as a share of those on the fastest single device."""
    keys = ("trainable", "tokens", "dtype")
    alone = [
        other["batch"] / other["seconds"]
        for other in lines
        if devices(other) == 1 and all(other[key] == line[key] for key in keys)
    ]
    if devices(line) == 1 or not alone:
        return NONE
    return f"{line['batch'] / line['seconds'] / devices(line) / max(alone):.0%}"


# ------------------------------------------------------------------------------
# Rows of each case.


def step_rows(lines: Sequence[Line]) -> list[Row]:
    """A row a line."""
    rows = []
    for line in lines:
        key = line["tokens"], devices(line)
        every = line["trainable"] == EVERYTHING and line["batch"] == 1
        rows.append(
            {
                "trained": trained(line),
                "views": str(line["views"]),
                "tokens": f"{line['tokens']:,}",
                "mesh": mesh(line),
                "samples": str(line["batch"]),
                "attention": line["attention"],
                "remat": line["remat"],
                REFERENCE: known(line, reference.STEP, key) if every else NONE,
                "step": seconds(line["seconds"]),
                "of linear scaling": scaling(line, lines),
                **cost(line),
            }
        )
    return rows


def sample_rows(lines: Sequence[Line]) -> list[Row]:
    """A row a line; seconds of a whole clip are those of denoising."""
    rows = []
    for line in lines:
        one = line["part"] == "forward" and line["branches"] == 1
        key = line["tokens"], devices(line)
        rows.append(
            {
                "what": line["part"],
                "views": str(line["views"]),
                "tokens": f"{line['tokens']:,}",
                "branches": str(line["branches"]),
                "evaluations": figure(line, "evaluations"),
                "mesh": mesh(line),
                "attention": line["attention"],
                REFERENCE: known(line, reference.FORWARD, key) if one else NONE,
                "time": seconds(line["seconds"]),
                "decoding": seconds(line["decode_seconds"]) if "decode_seconds" in line else NONE,
                **cost(line),
            }
        )
    return rows


def vae_rows(lines: Sequence[Line]) -> list[Row]:
    """A row a line."""
    rows = []
    for line in lines:
        one = line["views"] == 1 and devices(line) == 1
        key = line["part"], line["frames"], *line["size"]
        codec, chunk = line["codec"], f"{line['part']}_chunk"
        rows.append(
            {
                "": line["part"],
                "views": str(line["views"]),
                "frames": str(line["frames"]),
                "size": "x".join(map(str, line["size"])),
                "mesh": mesh(line),
                "chunk": figure(codec, chunk, "{} latent frames"),
                REFERENCE: known(line, reference.VAE, key) if one else NONE,
                "time": seconds(line["seconds"]),
                **cost(line),
            }
        )
    return rows


def attention_rows(lines: Sequence[Line]) -> list[Row]:
    """A row for each backend and size: TFLOP/s of forward and backward pass."""
    sizes = ("tokens", "keys", "heads", "head_width")
    groups: dict[tuple, dict[str, Line]] = {}
    for line in lines:
        key = (*(line[name] for name in sizes), line["attention"])
        groups.setdefault(key, {})[line["part"]] = line
    rows = []
    for (tokens, keys, heads, width, backend), parts in groups.items():
        forward, both = parts["forward"], parts["forward+backward"]
        apart = both["seconds"] - forward["seconds"]
        work = 8 * tokens * keys * heads * width / 1e12
        theirs = known(forward, reference.ATTENTION, (tokens, keys, heads, width))
        theirs = (NONE, NONE) if theirs == NONE else theirs
        rows.append(
            {
                "queries": f"{tokens:,}",
                "keys": f"{keys:,}",
                "heads": f"{heads} x {width}",
                "attention": backend,
                "forward": seconds(forward["seconds"]),
                "backward": seconds(apart) if apart > 0 else NONE,
                "forward TFLOP/s": f"{forward['model_tflops']:.4g}",
                f"forward, {REFERENCE}": theirs[0],
                "backward TFLOP/s": f"{work / apart:.4g}" if apart > 0 else NONE,
                f"backward, {REFERENCE}": theirs[1],
            }
        )
    return rows


def loader_rows(lines: Sequence[Line]) -> list[Row]:
    """A row a line."""
    return [
        {
            "videos a clip": str(line["videos"]),
            "frames": str(line["frames"]),
            "size": "x".join(map(str, line["size"])),
            "threads": str(line["threads"]),
            "workers": str(line["workers"]),
            "cores": str(line["cores"]),
            "clips/s": f"{line['clips_per_second']:.4g}",
            "frames/s": f"{line['frames_per_second']:.4g}",
            "MB/s of pixels": f"{line['megabytes_per_second']:.4g}",
            "step": figure(line, "step_seconds", "{:.4g} s"),
            "clips/s that it needs": figure(line, "needed_clips_per_second", "{:.4g}"),
            "hidden": {True: "yes", False: "no"}[line["hidden"]] if "hidden" in line else NONE,
        }
        for line in lines
    ]


def loop_rows(lines: Sequence[Line]) -> list[Row]:
    """A row a line."""
    return [
        {
            "views": str(line["views"]),
            "mesh": mesh(line),
            **{f"{name}, µs": f"{v:.0f}" for name, v in line["microseconds"].items()},
            "in all": f"{1e3 * line['seconds']:.3g} ms",
            "step": seconds(line["step_seconds"]),
            "of the step": f"{line['share_of_step']:.2%}",
            "save holds up": ", ".join(seconds(s) for s in line["save_seconds"]),
            "written after": ", ".join(seconds(s) for s in line["write_seconds"]),
            "of the steps between saves": f"{line['save_share']:.2%} of {line['save_every']}",
        }
        for line in lines
    ]


def profile_rows(lines: Sequence[Line]) -> list[Row]:
    """A row a line: seconds by class of kernel."""
    rows = []
    for line in lines:
        about = line["of"]
        words = [about[key] for key in ("case", "part", "trainable", "remat") if key in about]
        tokens = f", {about['tokens']:,} tokens" if "tokens" in about else ""
        rows.append(
            {
                "of": " ".join(words) + tokens,
                **{kind: f"{s:.3f} s" for kind, s in line["seconds_by_class"].items()},
                "all kernels": f"{line['kernel_seconds']:.3f} s",
                "first to last": f"{line['span_seconds']:.3f} s",
            }
        )
    return rows


TABLES: dict[str, tuple[str, Callable[[Sequence[Line]], list[Row]]]] = {
    "step": ("Training step", step_rows),
    "sample": ("Sampling", sample_rows),
    "vae": ("VAE", vae_rows),
    "attention": ("Attention", attention_rows),
    "loader": ("Loader", loader_rows),
    "loop": ("The loop's own time", loop_rows),
    "profile": ("Time by kernel", profile_rows),
}

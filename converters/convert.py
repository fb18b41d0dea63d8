"""Converts weights between published files, our checkpoints, and files that other tools load.

    python -m converters.convert --source=S --target=T [--model=NAME] [--which=ema|regular]
        [--dtype=bf16|fp32] [--format=orbax|guides|pt|safetensors|dcp|peft] [--audit] [--overwrite]

Sources: a `.pt` file, a folder of a distributed checkpoint (also `iter_*`), safetensors (a file, an
index, or their folder), `hf://OWNER/NAME[@REVISION]/FILE`, a workdir or a checkpoint of
run_train.py, or a weights folder.

The target's name says what is written, unless --format does: `.pt` and `.pth`, `.safetensors`,
`.dcp` or `iter_*` (a distributed checkpoint); any other name is a folder. From published weights it
becomes a weights folder of ours; from a checkpoint of ours it gets the guides' three files,
model.pt (regular bf16 and EMA fp32), model_ema_fp32.pt and model_ema_bf16.pt. Each of these names
stands for its layout as a target of its own, too. Of a network of Predict1 they are
iter_N_reg_model.pt (regular, bf16) and iter_N_ema_model.pt (EMA, fp32), N the step in nine digits,
and the names mean that layout likewise. Predict1's tokenizer, which is read from the
folder of its published files (encoder.jit, decoder.jit, mean_std.pt, image_mean_std.pt), becomes
model.pt and the two files of statistics in a folder with --format=guides.

Adapters (LoRA, DoRA) of a checkpoint are merged into its kernels. --format=peft writes them alone,
as a folder that PEFT loads.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from cosmos_jax import cli

SOURCE = flags.DEFINE_string("source", None, "Weights to read; see above.")
TARGET = flags.DEFINE_string("target", None, "What to write; without it, only --audit.")
MODEL = flags.DEFINE_string("model", None, "The network; default: recognised from the tensors.")
WHICH = flags.DEFINE_enum("which", None, ["ema", "regular"], "Set of weights; default: EMA if any.")
DTYPE = flags.DEFINE_enum("dtype", None, ["bf16", "fp32"], "Of floats; default: as in the source.")
FORMATS = ("orbax", "guides", "pt", "safetensors", "dcp", "peft")
FORMAT = flags.DEFINE_enum("format", None, FORMATS, "Of the target; default: by its name.")
AUDIT = flags.DEFINE_bool("audit", False, "Print the account: tensors, bytes, checksums.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a target that exists.")

Parts = tuple[tuple[str, str, str], ...]
"""Set, dtype and prefix of each part of a file."""

GUIDES: dict[str, Parts] = {
    "model.pt": (("regular", "bf16", "net."), ("ema", "fp32", "net_ema.")),
    "model_ema_fp32.pt": (("ema", "fp32", "net."),),
    "model_ema_bf16.pt": (("ema", "bf16", "net."),),
}
PREDICT1: dict[str, Parts] = {
    "reg": (("regular", "bf16", "net."),),
    "ema": (("ema", "fp32", "net."),),
}
"""Of Predict1's trainer, whose files are named after the iteration."""


def main(argv: list[str]) -> None:
    """Checks the flags, then converts."""
    cli.no_arguments(argv)
    if TARGET.value is None and not AUDIT.value:
        cli.fail("--target is missing (or --audit, to look only)")
    source = cli.needed(SOURCE)
    with cli.user_errors():
        convert(source, TARGET.value)


def convert(given: str, target: str | None) -> None:
    """Opens the source, writes the target, prints the account."""
    from converters import networks, weights

    network = networks.published(MODEL.value) if MODEL.value else None
    source = weights.open_source(given, network)
    which = source.choose(WHICH.value)
    sets = [name or "one without a name" for name in source.sets]
    print(f"{given}: {source.network.name}; sets of weights: {', '.join(sets)}", flush=True)
    if target is not None:
        path = Path(target)
        written = write(source, which, path, FORMAT.value or kind_of(path, source.is_ours))
        print(f"wrote {written}", flush=True)
    if AUDIT.value:
        print("\n".join(account(source, which)), flush=True)


def kind_of(target: Path, ours: bool) -> str:
    """What a target's name stands for."""
    if target.suffix in (".pt", ".pth"):
        return "pt"
    if target.suffix in (".safetensors", ".dcp"):
        return target.suffix[1:]
    if target.name.startswith("iter_") or target.parent.name.startswith("iter_"):
        return "dcp"
    return "guides" if ours else "orbax"


def write(source: Any, which: str, target: Path, kind: str) -> str:
    """Writes the target whole, or not at all; returns what was written."""
    from converters import adapters, dcp, safetensors_files, stored, torch_files, weights

    def put(path: Path, nbytes: int, how: Callable[[Path], None]) -> str:
        with stored.replaced(path, nbytes, OVERWRITE.value) as draft:
            how(draft)
        return f"{path} ({nbytes / 2**30:.2f} GiB)"

    def size(tensors: Mapping[str, Any]) -> int:
        return sum(tensor.nbytes for tensor in tensors.values())

    if kind == "orbax":
        arrays = weights.to_dtype(source, which, DTYPE.value)
        return put(target, size(arrays), lambda p: weights.save(p, source, which, arrays))
    if kind == "guides":
        nbytes, how = guide_files(source, which)
        return put(target, nbytes, how)
    if kind == "peft":
        about, tensors = adapters.to_peft(source.adapted, which, source.network.table)
        if DTYPE.value == "bf16":  # they are float32
            tensors = {key: stored.cast(x, stored.BFLOAT16) for key, x in tensors.items()}

        def pair(folder: Path) -> None:
            folder.mkdir()
            (folder / adapters.CONFIG).write_text(json.dumps(about, indent=2), "utf-8")
            safetensors_files.write_safetensors(
                folder / adapters.WEIGHTS, tensors, {"format": "pt"}
            )

        return put(target, size(tensors), pair)
    both = len(source.sets) > 1 and WHICH.value is DTYPE.value is None and not is_predict1(source)
    if kind == "pt" and (parts := named_parts(source, target.name)):
        tensors = layout(source, target.name, parts)
    elif kind == "dcp" and both:
        tensors = layout(source, "model.pt", GUIDES["model.pt"])
    else:
        tensors = weights.to_reference(source, which, DTYPE.value, "net.")
    if kind == "pt":
        return put(target, size(tensors), lambda p: torch_files.write_torch(p, tensors))
    if kind == "safetensors":
        about = {"format": "pt", "network": source.network.name}
        return put(
            target,
            size(tensors),
            lambda p: safetensors_files.write_safetensors(p, tensors, about),
        )
    folder = target / "model" if target.name.startswith("iter_") else target
    return put(folder, size(tensors), lambda p: dcp.write_dcp(p, tensors))


def guide_files(source: Any, which: str) -> tuple[int, Callable[[Path], None]]:
    """Bytes of the folder that the guides have for a network, and what writes it."""
    from converters import cv8x8x8, torch_files, weights

    if source.network.options.keys() >= {"channels_mult"}:  # of the tokenizer
        tensors = weights.to_reference(source, which, DTYPE.value, "")
        nbytes = sum(tensor.nbytes for tensor in tensors.values())
        return nbytes, lambda folder: cv8x8x8.write_folder(folder, tensors)
    wanted = GUIDES
    if is_predict1(source):
        wanted = {f"iter_{source.step:09d}_{k}_model.pt": parts for k, parts in PREDICT1.items()}
    files = {name: layout(source, name, parts) for name, parts in wanted.items()}

    def write_all(folder: Path) -> None:
        folder.mkdir()
        for name, tensors in files.items():
            torch_files.write_torch(folder / name, tensors)

    return sum(t.nbytes for tensors in files.values() for t in tensors.values()), write_all


def is_predict1(source: Any) -> bool:
    """Whether the weights are of a network of Predict1."""
    return "masked" in source.network.options


def named_parts(source: Any, name: str) -> Parts | None:
    """The parts of a file whose name stands for its layout, or None."""
    if not is_predict1(source):
        return GUIDES.get(name)
    match = re.fullmatch(r"iter_\d+_(reg|ema)_model\.pt", name)
    return PREDICT1[match[1]] if match else None


def layout(source: Any, name: str, parts: Parts) -> dict[str, Any]:
    """The tensors of one of the guides' files.

    Raises:
        ValueError: the source lacks a set or its precision, or flags contradict the layout.
    """
    from converters import weights

    if WHICH.value is not None or DTYPE.value is not None:
        raise ValueError(f"{name} has a layout of its own: leave --which and --dtype out")
    tensors: dict[str, Any] = {}
    for which, dtype, prefix in parts:
        if len(parts) > 1 and which not in source.sets:
            raise ValueError(
                f"{name} holds regular and EMA weights, and {source.where} holds only "
                f"{[s or 'one unnamed set' for s in source.sets]}; give a --target of another name"
            )
        tensors |= weights.to_reference(source, source.choose(which), dtype, prefix)
    return tensors


def account(source: Any, which: str) -> list[str]:
    """What became of every tensor, with a checksum of each side."""
    from converters import rules, weights

    def line(what: str, tensors: Mapping[str, Any], more: str) -> str:
        nbytes = sum(tensor.nbytes for tensor in tensors.values())
        return f"{what:<10}{len(tensors):>6} tensors {nbytes:>15,} bytes  {more}"

    ours = source.sets[which]
    theirs = source.tensors[which] if source.tensors else {}
    dropped = set(rules.ignored(source.network.table, theirs))
    ignored = {k: t for k, t in theirs.items() if k in dropped} | source.others
    mapped = {k: t for k, t in theirs.items() if k not in dropped}
    lines = [f"variant   {source.network.name}", f"set       {which or 'the only one'}"]
    if source.tensors:
        lines.append(line("mapped", mapped, f"checksum {weights.checksum(mapped)}"))
        kinds = sorted({key.rpartition(".")[2] for key in ignored})
        lines.append(line("ignored", ignored, ", ".join(kinds)))
    return [*lines, line("ours", ours, f"checksum {weights.checksum(ours)}")]


if __name__ == "__main__":
    cli.run(main)

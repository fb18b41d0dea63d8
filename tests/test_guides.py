"""The commands of docs/guides: their files, variants and flags exist, and settings can be set."""

import importlib
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
RUN = ("run_train.py", "run_sample.py")
SHARED = {"config", "root"}  # flags of cosmos_jax/prepare/settings.py, which `--help` leaves out


def commands_of(text):
    """The words of every indented command of ours, with its continuation lines."""
    text = re.sub(r"\\\n\s+", "", text)
    lines = re.findall(r"^    (python .*)$", text, flags=re.MULTILINE)
    return [shlex.split(line)[1:] for line in lines]


def test_the_guides_have_their_commands():
    assert len(GUIDES) == 6
    for guide in GUIDES:
        first = {
            words[0] if words[0] in RUN else words[1] for words in commands_of(guide.read_text())
        }
        assert first >= {"run_train.py", "run_sample.py", "cosmos_jax.prepare"}


def flags_of(*program):
    """What `--help` of a command names."""
    told = subprocess.run(
        [sys.executable, *program, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    return set(re.findall(r"^\s*--(?:\[no\])?(\w+)", told.stdout, flags=re.MULTILINE))


def set_in(config, path, value):
    """Whether a config has a setting, and it takes a value as the command line gives it."""
    *sections, key = path.split(".")
    for name in sections:
        config = config[name]
    assert key in config, path
    held = config.get_type(key)
    if value is not None and held in (int, float):
        held(value)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_every_command_of_a_guide_can_be_given(guide):
    known = {}
    for words in commands_of(guide.read_text()):
        program = tuple(
            words[:1] if words[0] in RUN else words[: 3 if "prepare" in words[1] else 2]
        )
        if program not in known:
            known[program] = flags_of(*program)
        given = [word.removeprefix("--").partition("=") for word in words[len(program) :]]
        flags = {name: value or None for name, _, value in given}
        config = None
        if experiment := flags.get("config"):
            name, _, variant = experiment.partition(":")
            assert (ROOT / name).is_file()
            module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
            config = module.get_config(variant or "default")
            module.get_config(f"{variant},tiny" if variant else "tiny")
        for flag, value in flags.items():
            if flag.startswith("config."):
                set_in(config, flag.removeprefix("config."), value)
            else:
                assert flag in known[program] | SHARED, f"{' '.join(program)} has no --{flag}"


def rows(text):
    """The two cells of every line of the table from the PyTorch project."""
    table = text.partition("## From the PyTorch project")[2]
    found = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert all(len(cells) == 2 for cells in found)
    return found


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_the_settings_that_stand_beside_the_projects_exist(guide):
    base = importlib.import_module("experiments.predict25_video2world_nemo").get_config()
    seen = 0
    for _, ours in rows(guide.read_text()):
        for path in re.findall(r"--config\.([\w.]+)", ours):
            set_in(base, path.rstrip("."), None)
            seen += 1
    assert seen >= 2

"""Which part may import which, what may load at start, and how much a reader must load."""

import ast
import dataclasses
import pathlib
import subprocess
import sys
import time
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("cosmos_jax", "converters", "experiments")

COMMANDS = {
    "run_train",
    "run_sample",
    "cosmos_jax.prepare",
    "cosmos_jax.bench",
    "cosmos_jax.evaluate",
    "cosmos_jax.gallery",
    "cosmos_jax.plan",
    "cosmos_jax.report",
    "converters.convert",
    "converters.parity",
}
# A part, and the prefixes of ours that it may import; the first row that fits a module counts.
ALLOWED = (
    ("experiments", {"experiments"}),
    ("cosmos_jax.types", set()),
    ("cosmos_jax.sharding", set()),
    ("cosmos_jax.models", {"cosmos_jax.types", "cosmos_jax.sharding", "cosmos_jax.models"}),
    ("cosmos_jax.diffusion", {"cosmos_jax.types", "cosmos_jax.diffusion"}),
    ("cosmos_jax.data", {"cosmos_jax.types", "cosmos_jax.data"}),
    ("cosmos_jax.build", {"cosmos_jax", "converters"}),
    ("cosmos_jax", {"cosmos_jax"}),
    ("converters", {"cosmos_jax", "converters"}),
)
HEAVY = {"huggingface_hub", "safetensors", "tensorflow_datasets", "torch", "transformers", "wandb"}
CONVERTERS_ONLY = {"huggingface_hub", "safetensors", "torch"}
LIGHT = {"absl", "ml_collections"}  # all that `run_train.py --help` may load
EXPERIMENTS = {"ml_collections"}
LONG_ON_PURPOSE = {"run_train.train": 120}  # the one loop, read from top to bottom
DISTRIBUTIONS = {
    "absl": "absl-py",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "orbax": "orbax-checkpoint",
    "tensorflow_datasets": "tensorflow-datasets",
}


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported module, by its full name."""

    name: str
    line: int
    at_start: bool  # when the importing module is loaded, and not inside a function

    @property
    def top(self) -> str:
        return self.name.split(".")[0]

    @property
    def ours(self) -> bool:
        return self.top in PACKAGES or self.name in COMMANDS


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, pathlib.Path]:
    paths = [*ROOT.glob("run_*.py")]
    for package in PACKAGES:
        paths += (ROOT / package).rglob("*.py")
    return {module_name(path): path for path in sorted(paths)}


SOURCES = sources()


def is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def imports_of(text: str, known: set[str]) -> list[Import]:
    """All imports of a source text; `from package import module` is that of the module."""
    found = []

    def visit(node: ast.AST, at_start: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, at_start) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                module = f"{base}.{alias.name}"
                name = module if module in known else base
                found.append(Import(name, node.lineno, at_start))
        inner = at_start and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(ast.parse(text), True)
    return found


def violations(module: str, imports: list[Import]) -> list[str]:
    """What a module imports against the rules."""
    wrong = []
    command = module in COMMANDS

    def forbid(item: Import, why: str) -> None:
        wrong.append(f"{module}:{item.line} imports {item.name}: {why}")

    for item in imports:
        if item.name.startswith("."):
            forbid(item, "imports are absolute")
        elif item.name in COMMANDS:
            forbid(item, "nothing imports a command")
        elif item.ours and not command:
            allowed = next(names for part, names in ALLOWED if is_within(module, part))
            if not any(is_within(item.name, name) or item.name in PACKAGES for name in allowed):
                forbid(item, f"{module} may import {sorted(allowed)}")
        if item.top in HEAVY and item.at_start and not module.startswith("converters"):
            forbid(item, "loaded where it is used, not at start")
        if item.top in CONVERTERS_ONLY and not module.startswith("converters"):
            forbid(item, "only converters use it")
        if item.top == "jax" and module.startswith(("cosmos_jax.data", "experiments")):
            forbid(item, "works without jax")
        if module.startswith("experiments") and not item.ours and item.top not in EXPERIMENTS:
            forbid(item, f"an experiment imports {sorted(EXPERIMENTS)}")
    return wrong


def all_imports() -> dict[str, list[Import]]:
    known = set(SOURCES)
    return {name: imports_of(path.read_text(), known) for name, path in SOURCES.items()}


def closure(start: str, imports: dict[str, list[Import]], at_start: bool = False) -> set[str]:
    """Modules of ours that `start` reaches, packages included: all of them, or those at start."""
    reached, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name in reached or name not in imports:
            continue
        reached.add(name)
        if "." in name:
            todo.append(name.rpartition(".")[0])
        todo += [i.name for i in imports[name] if i.ours and (i.at_start or not at_start)]
    return reached


@pytest.mark.core
def test_every_part_imports_only_what_it_may():
    wrong = [line for name, found in all_imports().items() for line in violations(name, found)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.core
@pytest.mark.parametrize(
    "module, text",
    [
        ("cosmos_jax.models.dit", "from cosmos_jax import train"),
        ("cosmos_jax.diffusion.flow", "def f():\n    import cosmos_jax.models.dit"),
        ("cosmos_jax.train", "from cosmos_jax.models import dit\nfrom . import optim"),
        ("cosmos_jax.train", "import run_train"),
        ("cosmos_jax.train", "import converters.rules"),
        ("cosmos_jax.data.video", "import jax.numpy as jnp"),
        ("cosmos_jax.metrics", "import wandb"),
        ("cosmos_jax.train", "def f():\n    import torch"),
        ("cosmos_jax.types", "from cosmos_jax import sharding"),
        ("experiments.demo", "from cosmos_jax import types"),
        ("experiments.demo", "import numpy"),
    ],
)
def test_the_rules_catch(module, text):
    assert violations(module, imports_of(text, set(SOURCES)))


@pytest.mark.core
@pytest.mark.parametrize(
    "module, text",
    [
        ("cosmos_jax.models.dit", "from cosmos_jax import sharding"),
        ("cosmos_jax.metrics", "def f():\n    import wandb"),
        ("cosmos_jax.build", "def f():\n    from converters import rules"),
        ("converters.convert", "import torch\nfrom cosmos_jax import build"),
        ("run_train", "def f():\n    from cosmos_jax import train\n    import converters.rules"),
    ],
)
def test_the_rules_let_pass(module, text):
    assert not violations(module, imports_of(text, set(SOURCES)))


@pytest.mark.core
@pytest.mark.parametrize("command", ["run_train", "run_sample"])
def test_a_command_loads_little_at_start(command):
    imports = all_imports()
    for module in closure(command, imports, at_start=True):
        for item in imports[module]:
            light = item.ours or item.top in LIGHT or item.top in sys.stdlib_module_names
            assert light or not item.at_start, f"{module}:{item.line} loads {item.name} at start"


def test_what_one_training_run_makes_a_reader_load():
    reached = closure("run_train", all_imports())
    lines = {name: len(SOURCES[name].read_text().splitlines()) for name in reached}
    assert "cosmos_jax.models.dit" in reached and "cosmos_jax.data.pipeline" in reached
    assert len(reached) <= 40, sorted(reached)
    assert sum(lines.values()) <= 6000, sorted(lines.items(), key=lambda item: -item[1])


def test_every_package_that_is_imported_is_a_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {
            r.partition(";")[0].partition("[")[0].rstrip("<>=.,0123456789 ") for r in requirements
        }

    for module, found in all_imports().items():
        declared = names(project["dependencies"])
        for item in found:
            if not item.ours and item.top not in sys.stdlib_module_names:
                wanted = DISTRIBUTIONS.get(item.top, item.top)
                assert wanted in declared, f"{module}:{item.line} imports {item.name}"


def test_functions_fit_a_screen_and_files_a_sitting():
    long = []
    for name, path in SOURCES.items():
        if name.startswith("experiments"):
            continue  # lists of settings
        text = path.read_text()
        if (lines := len(text.splitlines())) > 520:
            long.append(f"{name} has {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                described = ast.get_docstring(node, clean=False) is not None
                begin = first.end_lineno if described else node.lineno
                if node.end_lineno - begin > LONG_ON_PURPOSE.get(f"{name}.{node.name}", 65):
                    long.append(f"{name}.{node.name} has {node.end_lineno - begin} lines")
    assert not long, "\n".join(long)


@pytest.mark.parametrize("command", ["run_train.py", "run_sample.py"])
def test_help_answers_within_three_seconds(command):
    seconds = []
    for _ in range(3):  # the machine may be busy with something else
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, command, "--help"], cwd=ROOT, capture_output=True, text=True
        )
        seconds.append(time.monotonic() - begun)
        assert done.returncode == 0, done.stderr
        assert f"\n    python {command} --" in done.stdout
        if seconds[-1] < 3:
            return
    pytest.fail(f"{command} --help took {min(seconds):.1f} s")


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    command = "pip install -e '.[test]' && python -m pytest"
    assert f"{command}\n" in (ROOT / "README.md").read_text()
    assert f"\n{command}\n" in script

"""What is checked of every package that writes a page: what it loads, and what it ships."""

import ast
import pathlib
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).parents[1]


def loaded(package, heavy):
    """The packages of `heavy` that importing `cosmos_jax.{package}` loads."""
    script = f"import sys, cosmos_jax.{package}; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)


def shipped(package):
    """The files beside the code that the wheel has, and every string of the package's page.py."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    (pattern,) = tool["package-data"][f"cosmos_jax.{package}"]
    folder = ROOT / "cosmos_jax" / package
    tree = ast.parse((folder / "page.py").read_text())
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {path.name for path in folder.glob(pattern)}, strings

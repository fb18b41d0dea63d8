"""What a run's numbers were made with: versions of Python, of packages, of this code."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "cosmos_jax"),
    *("jax-cuda13-plugin", "jax-cuda12-plugin"),
)


def versions() -> dict[str, str]:
    """{name: version}, of those that are installed; `commit` where the code is a git checkout."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if commit := commit_of(Path(__file__).with_name("__init__.py")):
        found["commit"] = commit
    return found


def commit_of(path: Path) -> str | None:
    """The commit that a file is checked out of, with "+" where tracked files differ from it.

    None for a file that git does not track, as of an installed package, and where there is no git.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(path.parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", path.name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None

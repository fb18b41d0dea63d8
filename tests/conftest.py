"""Every test sees eight simulated CPU devices, whatever the machine has.

All temporary files but pytest's own lie in one folder, which is removed at the end: what pytest's
workers, forked processes and other people's packages make for themselves, they do not all remove.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import tempfile

# Read when jax is imported and when its backend starts; processes that tests start inherit both.
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile much and run little, so the compiler is told to hurry. XLA since jaxlib 0.11 has
# dropped the last flag, and stops at flags that it does not know.
FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(FLAGS)

import browser
import pytest
from absl import flags


@contextlib.contextmanager
def temporary():
    """A folder in which processes that the body starts have their temporary files.

    This process goes on with the folder that it knows: it removes what it made when it ends.
    """
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # pytest's own
    with tempfile.TemporaryDirectory(
        prefix="cosmos_jax-tests-", ignore_cleanup_errors=True
    ) as folder:
        os.environ["TMPDIR"] = folder
        yield folder


def pytest_configure(config: pytest.Config) -> None:
    """Begins to use one folder, where this process is not one of pytest's workers."""
    if not hasattr(config, "workerinput"):
        stack = contextlib.ExitStack()
        stack.enter_context(temporary())
        config.add_cleanup(stack.close)


# Grain reads absl flags, which nobody parses under pytest.
flags.FLAGS.mark_as_parsed()


LONGEST = (
    *("test_train", "test_run_train", "test_experiments", "test_hosts", "test_run_sample"),
    *("test_dit", "test_latents", "test_bench", "test_text_cache", "test_kills"),
)
"""Workers take file after file. Of two workers one would be idle for minutes if these came last."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the tests that need torch, or a browser, where there is none; sorts the rest."""
    there = {"torch": importlib.util.find_spec("torch"), "browser": browser.find()}
    lacking = [mark for mark, found in there.items() if found is None]
    absent = [item for item in items if any(map(item.get_closest_marker, lacking))]
    if absent:
        config.hook.pytest_deselected(items=absent)
        items[:] = [item for item in items if item not in absent]
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else 99)

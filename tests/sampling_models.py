"""Models to sample from, for tests of what is asked of them."""

from types import SimpleNamespace

from cosmos_jax.data import layouts
from cosmos_jax.generate import SampleConfig
from cosmos_jax.sampling.model import Model


def model(cameras, reference=False, controlled=True, settings=None, **changes):
    """A model of clips of 5 frames, 16x24, at 10 frames a second."""
    data = dict(root=".", num_frames=5, size=(16, 24), batch_size=1, control="auto", fps=10)
    return Model(
        config=layouts.DataConfig(**data | changes),
        cameras=cameras,
        controlled=controlled,
        settings=settings or SampleConfig(),
        reference=reference,
    )


def wanted(path, reference=False, frames=None, settings=None, fields=None, **long):
    """What `run_sample.py` would be asked for with a path, settings and flags for long videos."""
    given = dict(inputs=[path], reference=reference, frames=frames, long=long)
    given |= dict(settings=settings or {}, fields=fields or {})
    return SimpleNamespace(**given, control=None, size=None, limit=None)

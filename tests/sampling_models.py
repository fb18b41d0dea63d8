"""Models to sample from, for tests of what is asked of them."""

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

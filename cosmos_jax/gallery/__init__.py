"""One page over sampled videos: `python -m cosmos_jax.gallery OUT`, or `write_gallery`.

Nothing here loads jax, and the page needs neither a server nor a network.
"""

from cosmos_jax.gallery.page import write_gallery

__all__ = ["write_gallery"]

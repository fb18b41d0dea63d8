"""A stand-in text encoder that needs no weights: every word is a fixed random vector.

It tells captions apart, word by word, and knows nothing about what words mean. It has the interface
of the real encoders and, like theirs, its padding is not zero: an unmasked network attends to it.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

POSITION = 0.3
"""Weight of the position's vector against the word's."""


@functools.lru_cache(maxsize=2048)
def _vector(name: str, width: int) -> np.ndarray:
    """Standard normal numbers that depend on the name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    return np.random.default_rng(seed).standard_normal(width, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class HashedText:
    """Encodes captions as rows of word vectors.

    A row is the word's vector plus a little of its position's, scaled to variance one. Words are
    runs of letters and digits, in lower case. Rows after the last word hold the padding's vector,
    so the empty caption (written "" or " ") is padding throughout; words beyond `tokens` are left
    out, as the real encoders do.

    Attributes:
        tokens: rows of an embedding.
        width: numbers in a row.

    Raises:
        ValueError: tokens or width below 1.
    """

    tokens: int
    width: int

    def __post_init__(self):
        for name in ("tokens", "width"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"hashed text: {name} is {getattr(self, name)}; it must be at least 1"
                )

    @property
    def description(self) -> str:
        """What this is, for logs."""
        return f"hashed words ({self.tokens} x {self.width}; a stand-in, not a language model)"

    def encode(self, captions: Sequence[str]) -> Float[np.ndarray, "b s e"]:
        """Embeddings of captions, float32, on the host; the same words give the same bytes.

        Raises:
            ValueError: no captions.
        """
        if not captions:
            raise ValueError("hashed text: no captions to encode")
        return np.stack([self._encode_one(caption) for caption in captions])

    def _encode_one(self, caption: str) -> np.ndarray:
        words = re.findall(r"\w+", caption.lower())[: self.tokens]
        # No word holds a space, so none can be taken for the padding or for a position.
        names = words + [" padding"] * (self.tokens - len(words))
        rows = np.stack([_vector(name, self.width) for name in names])
        places = np.stack([_vector(f" position {n}", self.width) for n in range(self.tokens)])
        return (rows + np.float32(POSITION) * places) / np.float32(np.hypot(1, POSITION))

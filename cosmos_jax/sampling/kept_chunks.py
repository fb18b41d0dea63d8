"""Finished chunks of a long video, kept on disk until the video is written."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class KeptChunks:
    """The latents of a video's finished chunks, for going on after an interruption.

    Attributes:
        folder: theirs alone.
        fingerprint: of the request and the weights; chunks of others are not read.
    """

    folder: Path
    fingerprint: str

    def _path(self, chunk: int) -> Path:
        return self.folder / f"{chunk:04d}_{self.fingerprint}.npy"

    def read(self, chunk: int) -> Float[np.ndarray, "v t h w c"] | None:
        """A chunk that is there and whole, or None."""
        path = self._path(chunk)
        told = path.with_suffix(".sha256")
        if not path.is_file() or not told.is_file():
            return None
        if hashlib.sha256(path.read_bytes()).hexdigest() != told.read_text("utf-8"):
            print(f"{path} is damaged; the chunk is made again", flush=True)
            return None
        return np.load(path)

    def write(self, chunk: int, latents: Float[np.ndarray, "v t h w c"]) -> None:
        """Keeps a chunk; its hash is written last, and says that it is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(chunk)
        np.save(path, latents)
        told = path.with_suffix(".sha256")
        told.write_text(hashlib.sha256(path.read_bytes()).hexdigest(), "utf-8")

    def clear(self) -> None:
        """Removes them, once the video is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

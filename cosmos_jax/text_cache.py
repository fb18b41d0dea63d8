"""A folder of text embeddings: every caption's is computed once and stored once.

    index.json        what made them (`identity`), and the captions by the hash of their text
    <sha256>.npy      one embedding `[s e]`: float32, or bfloat16 as uint16 of the same bits

Files are written beside their names and renamed, the index after what it lists: no name stands for
half an embedding, and work that was interrupted goes on where the index ends.
"""

import dataclasses
import errno
import hashlib
import io
import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float

INDEX = "index.json"
SAVE_SECONDS = 30.0  # of work that a kill may lose
MEND = (
    "run python -m cosmos_jax.prepare text again with --overwrite, or do without it: "
    "config.text.cache=None (run_sample.py: --text_cache=none)"
)


def name_of(caption: str) -> str:
    """The hash of a caption, which names its file."""
    return hashlib.sha256(caption.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Entry:
    """One embedding of a cache.

    Attributes:
        caption: the text.
        bytes: size of the file.
        checksum: of the file.
    """

    caption: str
    bytes: int
    checksum: str


@dataclasses.dataclass(frozen=True)
class TextCache:
    """A cache that is open.

    Attributes:
        folder: where it lies.
        identity: all that embeddings depend on, as JSON.
        entries: by `name_of` their caption.
    """

    folder: Path
    identity: dict[str, Any]
    entries: dict[str, Entry]

    def path(self, caption: str) -> Path:
        """The file of a caption."""
        return self.folder / f"{name_of(caption)}.npy"

    def missing(self, captions: Iterable[str]) -> list[str]:
        """The captions that it does not hold."""
        return [caption for caption in captions if name_of(caption) not in self.entries]

    def fault(self, caption: str) -> str | None:
        """What is wrong with the file of a caption that it holds, as far as its size tells."""
        path, entry = self.path(caption), self.entries[name_of(caption)]
        if not path.is_file():
            return f"{path} is missing"
        size = path.stat().st_size
        return None if size == entry.bytes else f"{path} has {size} bytes of {entry.bytes}"

    def unusable(self, captions: Iterable[str]) -> list[str]:
        """The captions that it does not hold, or whose file has a fault."""
        return [c for c in captions if name_of(c) not in self.entries or self.fault(c)]

    def read(self, caption: str) -> Float[np.ndarray, "s e"]:
        """The embedding of a caption, bit for bit.

        Raises:
            OSError: the file is lost or damaged; the message names it.
        """
        path = self.path(caption)
        data = path.read_bytes()
        if _checksum(data) != self.entries[name_of(caption)].checksum:
            raise OSError(
                f"{path} is damaged: its checksum is not that of {INDEX}; delete it and run "
                "python -m cosmos_jax.prepare text again"
            )
        array = np.load(io.BytesIO(data))
        return array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array


def open_cache(folder: Path) -> TextCache:
    """Opens a cache; no embedding is read.

    Raises:
        ValueError: there is no cache in the folder, or its index is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        what = f"has no {INDEX}" if folder.is_dir() else "is not there"
        raise ValueError(f"{folder} {what}: it is no cache of text embeddings; {MEND}")
    try:
        held = json.loads(path.read_text("utf-8"))
        entries = {name: Entry(**entry) for name, entry in held["captions"].items()}
        return TextCache(folder, dict(held["identity"]), entries)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); {MEND}") from error


def check_identity(cache: TextCache, wanted: Mapping[str, Any]) -> None:
    """Raises a ValueError that names all in which a cache's identity is not the one `wanted`."""
    told = [
        f"{key} is {cache.identity.get(key)!r} there and {wanted.get(key)!r} here"
        for key in dict.fromkeys([*cache.identity, *wanted])
        if cache.identity.get(key) != wanted.get(key)
    ]
    if told:
        raise ValueError(f"{cache.folder} is stale: {'; '.join(told)}; {MEND}")


def new_cache(folder: Path, identity: Mapping[str, Any]) -> TextCache:
    """An empty cache in a folder, made where it is missing; the index of an older one goes first.

    Files of any other name than a cache's stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    for path in folder.iterdir():
        if re.fullmatch(r"[0-9a-f]{64}\.npy", path.name):
            path.unlink()
    return TextCache(folder, dict(identity), {})


class Writer:
    """Adds embeddings to a cache. A context manager: leaving it, also by an error, lists them."""

    def __init__(self, cache: TextCache):
        self.cache = cache

    def __enter__(self) -> "Writer":
        for draft in self.cache.folder.glob(".*.draft"):  # of a process that was killed
            draft.unlink()
        self._save()
        return self

    def __exit__(self, *unused: object) -> None:
        self._save()

    def add(self, caption: str, embedding: Float[np.ndarray, "s e"]) -> None:
        """Writes one embedding, float32 or bfloat16.

        Raises:
            ValueError: the disk is full.
        """
        bits = embedding.view(np.uint16) if embedding.dtype == ml_dtypes.bfloat16 else embedding
        if bits.dtype not in (np.uint16, np.float32):
            raise ValueError(f"an embedding of {embedding.dtype} is neither float32 nor bfloat16")
        file = io.BytesIO()
        np.save(file, bits)
        data = file.getvalue()
        _write(self.cache.path(caption), data)
        entry = Entry(caption, len(data), _checksum(data))
        self.cache.entries[name_of(caption)] = entry
        if time.monotonic() > self._saved + SAVE_SECONDS:
            self._save()

    def _save(self) -> None:
        entries = {name: vars(entry) for name, entry in self.cache.entries.items()}
        held = {"identity": self.cache.identity, "captions": entries}
        text = json.dumps(held, indent=1, ensure_ascii=False)
        _write(self.cache.folder / INDEX, text.encode())
        self._saved = time.monotonic()


def _write(path: Path, data: bytes) -> None:
    """Writes a file whole, or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(
            f"the disk of {path.parent} is full; the embeddings that are in it stay. Make room and "
            "run the same command again"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]

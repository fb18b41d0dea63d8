"""The guide's files of T5 embeddings: pickles of numpy arrays, read without running them.

    ROOT/t5_xxl/CAMERA/CLIP.pickle                       or, later, .pkl
    ROOT/cache/prefix_t5_embeddings_CAMERA.pickle        or, later, prefix_CAMERA.pkl

Each holds one array [rows, 1024], or a list of one, of float16 (.pickle) or float32 (.pkl; float64
is read too), trimmed to the tokens of its sentence. Source: get_t5_embeddings_from_waymo.py and
dataset_multiview.py of cosmos-predict1, in its two states.
"""

import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from converters import pickle_out as out
from converters.unpickle import Unpickler
from cosmos_jax.data import cameras

WIDTH = 1024  # of google-t5/t5-11b, the only encoder that such files are of
SCRIPT = "get_t5_embeddings_from_waymo.py"
EXTRA_AXIS = "create_t5_embed_mv.py"  # of the toolkit


def clip_files(root: Path, camera: str, clip: str) -> tuple[Path, Path]:
    """Where the embedding of a clip's caption may lie: as the guide names it, and later code."""
    folder = root / "t5_xxl" / camera
    return folder / f"{clip}.pickle", folder / f"{clip}.pkl"


def prefix_files(root: Path, camera: str) -> tuple[Path, Path]:
    """Where the embedding of the sentence about a camera may lie, in the same two ways."""
    folder = root / "cache"
    return folder / f"prefix_t5_embeddings_{camera}.pickle", folder / f"prefix_{camera}.pkl"


def first_of(files: tuple[Path, Path]) -> Path:
    """The first of two files that is there.

    Raises:
        ValueError: neither is.
    """
    for file in files:
        if file.is_file():
            return file
    raise ValueError(
        f"{files[0]} is missing (and {files[1].name}): write it with python -m cosmos_jax.prepare "
        f"text --guide=write, or with the guide's {SCRIPT}"
    )


def read(path: Path) -> Float[np.ndarray, "s e"]:
    """The rows of a file, in the type that it holds.

    Raises:
        ValueError: damaged, or no such pickle; an array with another number of axes or columns.
    """
    with path.open("rb") as file:
        held: Any = Unpickler(file, str(path)).load()
    if isinstance(held, list) and len(held) == 1:
        held = held[0]
    if not isinstance(held, np.ndarray) or held.dtype.kind != "f":
        raise ValueError(
            f"{path} holds no array of float16, float32 or float64, nor a list of one; {SCRIPT} of "
            "cosmos-predict1 writes such files"
        )
    if held.ndim == 3 and held.shape[0] == 1:
        raise ValueError(
            f"{path} has an axis too many: {held.shape}. {EXTRA_AXIS} of the toolkit writes such "
            f"files; take the first entry, array[0], or write them with {SCRIPT}"
        )
    if held.ndim != 2 or held.shape[1] != WIDTH or not len(held):
        raise ValueError(
            f"{path} holds an array {held.shape}, and the encoder makes [rows, {WIDTH}]; it is of "
            f"another text encoder. {SCRIPT} writes files of the right one (google-t5/t5-11b)"
        )
    return np.asarray(held)


def write(path: Path, rows: Float[np.ndarray, "s e"]) -> None:
    """Writes rows as the guide's script does: a list of one float16 array.

    Any numpy reads it. The file appears whole or not at all.
    """
    array = np.ascontiguousarray(rows, dtype=np.float16)
    kind = out.called(out.name("numpy", "dtype"), out.text("f2"), out.FALSE, out.TRUE)
    order = (out.integer(3), out.text("<"), *(out.NONE,) * 3, *(out.integer(-1),) * 2)
    dtype = kind + out.row(*order, out.integer(0)) + pickle.BUILD
    empty = out.called(
        out.name("numpy.core.multiarray", "_reconstruct"),
        out.name("numpy", "ndarray"),
        out.integers((0,)),
        _bytes(b"b"),
    )
    state = out.integer(1), out.integers(array.shape), dtype, out.FALSE, _bytes(array.tobytes())
    data = pickle.PROTO + b"\x04" + out.listed(empty + out.row(*state) + pickle.BUILD) + out.END
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(data)
    draft.replace(path)


def _bytes(data: bytes) -> bytes:
    return pickle.BINBYTES + struct.pack("<I", len(data)) + data


def places_of(root: Path, camera: str, clip: str, sentence: str) -> tuple[Path, Path]:
    """Where the embedding of a sentence may lie: of the one about the camera, or of the clip's."""
    if sentence == cameras.prefix(camera):
        return prefix_files(root, camera)
    return clip_files(root, camera, clip)


def rows_of(
    root: Path, camera: str, clip: str, sentences: Sequence[str]
) -> list[Float[np.ndarray, "_ e"]]:
    """The rows of each sentence of a view's caption, float32.

    Raises:
        ValueError: a file is missing, or is none of these embeddings.
    """
    pairs = [places_of(root, camera, clip, sentence) for sentence in sentences]
    return [read(first_of(pair)).astype(np.float32) for pair in pairs]

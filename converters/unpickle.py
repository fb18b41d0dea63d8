"""Reads pickles without running them: an allow-list of names, each with a harmless stand-in.

Nothing that a file names is ever imported. A name outside the list is an error.
"""

import collections
import io
import pickle
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "UntypedStorage": np.dtype(np.uint8),
}
DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}


class Record:
    """Stands for an object of a class that we do not have: holds what it was built from."""

    def __init__(self, *args: Any):
        self.args = args

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.state = state


class Module(Record):
    """Stands for an object of a TorchScript class."""


def _same(value: Any, *_: Any) -> Any:
    return value


DCP = "torch.distributed.checkpoint"
RECORDS = {
    *((f"{DCP}.metadata", name) for name in (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties",
        "ChunkStorageMetadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    )),
    (f"{DCP}.filesystem", "_StorageInfo"),
    ("torch", "device"),
    ("pathlib", "PosixPath"),
}  # fmt: skip
KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): lambda *_: {},
    ("io", "BytesIO"): io.BytesIO,
    ("_io", "BytesIO"): io.BytesIO,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("builtins", "list"): list,
    ("builtins", "dict"): dict,
    ("torch", "Size"): tuple,
    ("torch.serialization", "_get_layout"): _same,
    ("torch._utils", "_rebuild_parameter"): _same,
    ("torch._utils", "_rebuild_parameter_with_state"): _same,
    ("torch.jit._pickle", "restore_type_tag"): _same,
    ("torch.jit._pickle", "build_intlist"): _same,
    ("torch.jit._pickle", "build_doublelist"): _same,
    ("torch.jit._pickle", "build_boollist"): _same,
    ("torch.jit._pickle", "build_tensorlist"): _same,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, coding: text.encode("latin1"),
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    KNOWN[_module, "_reconstruct"] = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    KNOWN[_module, "scalar"] = np._core.multiarray.scalar  # type: ignore[attr-defined]
KNOWN |= {(where, name): t for name, t in STORAGES.items() for where in ("torch", "torch.storage")}
KNOWN |= {("torch", name): dtype for name, dtype in DTYPES.items()}
KNOWN |= {(module, name): type(name, (Record,), {}) for module, name in RECORDS}


class Unpickler(pickle.Unpickler):
    """Reads one pickle.

    Args:
        file: positioned at the pickle.
        where: the file's name, for errors.
        tensor: called for every tensor with (storage, offset, size, stride).
        storage: called for every storage with its persistent id, a tuple that begins with
            "storage".
    """

    def __init__(
        self,
        file: Any,
        where: str,
        tensor: Callable[..., Any] | None = None,
        storage: Callable[[tuple], Any] | None = None,
    ):
        super().__init__(file)
        self._where, self._tensor, self._storage = where, tensor, storage

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name; every other name is refused."""
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            if self._tensor is not None:
                return self._tensor
        if module.startswith("__torch__"):
            return Module
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        raise ValueError(
            f"{self._where} asks for {module}.{name}, which weights do not need: it may hold code, "
            "and was refused. Get the file from a source that you trust"
        )

    def persistent_load(self, pid: Any) -> Any:
        """The storage of a persistent id."""
        if self._storage is None or not isinstance(pid, tuple) or pid[:1] != ("storage",):
            raise ValueError(f"{self._where} refers to {pid!r:.80}, which is not a storage; refused")
        return self._storage(pid)

    def load(self) -> Any:
        """The object.

        Raises:
            ValueError: a name that is not allowed, or a damaged pickle.
        """
        try:
            return super().load()
        except ValueError:
            raise
        except Exception as error:  # a hostile pickle can raise anything
            raise ValueError(
                f"{self._where} is damaged or no pickle of weights ({type(error).__name__}: {error})"
            ) from error

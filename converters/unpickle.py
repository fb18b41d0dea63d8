"""Reads pickles without running them: an allow-list of names, each with a harmless stand-in.

Nothing that a file names is ever imported. A name outside the list is an error. A pickle may also
set the state of whatever it gets hold of, so a stand-in is either immutable or sets it harmlessly.
"""

import collections
import io
import pickle
import re
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


# Kinds of numbers that PyTorch has and we do not read, and the function that makes some of them.
UNREAD = re.compile(
    r"torch\.(\w+Storage|complex\d+|float8_\w+|float4_\w+|u?int\d+|q\w+)|torch\.bits\w+"
    r"|torch\._utils\._rebuild_(tensor_v3|qtensor|sparse_tensor|nested_tensor)"
)


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


class _Function:
    """Stands for a function; a plain one would let a pickle set its attributes."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it sets the state of a function")


class _Dtype:
    """Stands for `numpy.dtype`: of numbers, strings and objects.

    numpy's own takes from a pickle a dtype with parts, which can hide objects from it: any bytes
    would become addresses of objects.
    """

    def __init__(self, code: str, *_: Any):
        if not isinstance(code, str) or not re.fullmatch(r"[biuf]\d|O8?|[SU]\d+", code):
            raise ValueError(f"numpy dtype {code!r} is not read")
        self.value = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", "|", "=") or any(part is not None for part in state[2:5]):
            raise ValueError(f"numpy dtype {self.value} with parts or big-endian is not read")


class _Array(np.ndarray):
    """Stands for an empty `numpy.ndarray`, which is then filled."""

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, data = state
        super().__setstate__((version, shape, _plain(dtype), fortran, data))


def _plain(dtype: Any) -> np.dtype:
    if not isinstance(dtype, _Dtype):
        raise ValueError("an array has no dtype")
    return dtype.value


def _numbers(data: Any, dtype: Any) -> np.ndarray:
    if _plain(dtype).hasobject:
        raise ValueError("bytes cannot be objects")
    return np.frombuffer(data, _plain(dtype))


_same = _Function(lambda value, *_: value)

DCP = "torch.distributed.checkpoint"
RECORDS = {
    *((f"{DCP}.metadata", name) for name in (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties",
        "ChunkStorageMetadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    )),
    (f"{DCP}.filesystem", "_StorageInfo"),
    # PyTorch before 2.3.
    *(("torch.distributed._shard.sharded_tensor.metadata", name) for name in (
        "TensorProperties", "MEM_FORMAT_ENCODING",
    )),
    ("torch", "device"),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in (
        "Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath",
    )),
}  # fmt: skip
KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): _Function(lambda *_: {}),
    ("io", "BytesIO"): io.BytesIO,
    ("_io", "BytesIO"): io.BytesIO,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("builtins", "bytes"): _Function(lambda: b""),
    ("__builtin__", "bytes"): _Function(lambda: b""),
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
    # A tensor with attributes of its own: how it is made, its class, the arguments, the attributes.
    ("torch._tensor", "_rebuild_from_type_v2"): _Function(lambda make, cls, args, _: make(*args)),
    ("torch", "Tensor"): "Tensor",
    ("torch.nn.parameter", "Parameter"): "Parameter",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Function(lambda text, coding: text.encode("latin1")),
}
for _package in ("numpy.core", "numpy._core"):
    KNOWN[f"{_package}.multiarray", "_reconstruct"] = _Function(
        lambda cls, shape, code: np.ndarray.__new__(_Array, (0,), np.int8)
    )
    KNOWN[f"{_package}.multiarray", "scalar"] = _Function(
        lambda dtype, data: _numbers(data, dtype)[0]
    )
    KNOWN[f"{_package}.numeric", "_frombuffer"] = _Function(
        lambda data, dtype, shape, order: _numbers(data, dtype).reshape(shape, order=order)
    )
KNOWN |= {(where, name): t for name, t in STORAGES.items() for where in ("torch", "torch.storage")}
KNOWN |= {("torch", name): dtype for name, dtype in DTYPES.items()}
KNOWN |= {(module, name): type(name, (Record,), {}) for module, name in RECORDS}


class Unpickler(pickle.Unpickler):
    """Reads one pickle.

    Args:
        file: positioned at the pickle.
        where: the file's name, for errors.
        tensor: called for every tensor with (storage, offset, size, stride).
        storage: called for every storage with its persistent id: "storage", dtype, key, device,
            number of elements, and in files from before PyTorch 1.6 what it is a view of.
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
        rebuilt = module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor")
        if rebuilt and self._tensor is not None:
            return self._tensor
        if module.split(".")[0] == "__torch__":
            return Module
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        if UNREAD.fullmatch(f"{module}.{name}"):
            raise ValueError(
                f"{self._where} holds tensors of a kind that is not read ({module}.{name}); these "
                f"are: dense ones of {', '.join(DTYPES)}"
            )
        raise ValueError(
            f"{self._where} asks for {module}.{name}, which weights do not need: it may hold code, "
            "and was refused. Get the file from a source that you trust"
        )

    def persistent_load(self, pid: Any) -> Any:
        """The storage of a persistent id."""
        match pid:
            case ("storage", np.dtype(), str(), _, int(numel), *_) if self._storage and numel >= 0:
                return self._storage(pid)
        raise ValueError(f"{self._where} refers to {pid!r:.80}, which is no storage; refused")

    def load(self) -> Any:
        """The object.

        Raises:
            ValueError: a name that is not allowed, or a damaged pickle.
        """
        try:
            return super().load()
        except ValueError as error:
            if self._where in str(error):
                raise
            raise ValueError(f"{self._where}: {error}") from error
        except Exception as error:  # a hostile pickle can raise anything
            raise ValueError(
                f"{self._where} is damaged or no pickle of weights "
                f"({type(error).__name__}: {error})"
            ) from error

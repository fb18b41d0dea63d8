"""The few pickle opcodes that describe tensors to PyTorch, without PyTorch."""

import pickle
import struct
from collections.abc import Mapping

START, END = pickle.PROTO + b"\x02", pickle.STOP
TRUE, FALSE, NONE = pickle.NEWTRUE, pickle.NEWFALSE, pickle.NONE


def text(value: str) -> bytes:
    """A string."""
    data = value.encode("utf-8")
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    """A whole number."""
    if -(2**31) <= value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    data = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(data)]) + data


def name(module: str, attribute: str) -> bytes:
    """A class or a function."""
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


def row(*items: bytes) -> bytes:
    """A tuple."""
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def integers(values: tuple[int, ...]) -> bytes:
    """A tuple of whole numbers."""
    return row(*map(integer, values))


def listed(*items: bytes) -> bytes:
    """A list."""
    return pickle.EMPTY_LIST + pickle.MARK + b"".join(items) + pickle.APPENDS


def called(function: bytes, *arguments: bytes) -> bytes:
    """What a function gives."""
    return function + row(*arguments) + pickle.REDUCE


def mapping(items: Mapping[bytes, bytes]) -> bytes:
    """A dict."""
    pairs = b"".join(key + value for key, value in items.items())
    return pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS


def built(cls: bytes, state: bytes) -> bytes:
    """An object of a class with a state."""
    return cls + pickle.EMPTY_TUPLE + pickle.NEWOBJ + state + pickle.BUILD


def record(cls: bytes, **fields: bytes) -> bytes:
    """An object of a class with fields."""
    return built(cls, mapping({text(key): value for key, value in fields.items()}))


def persistent(value: bytes) -> bytes:
    """A reference to something outside the pickle."""
    return value + pickle.BINPERSID

"""The pickle in a file of `torch.save`, read as data: nothing that it names is imported, nothing that it asks for runs.

Before anything is built, the opcodes are walked: only those that make plain values are let through. What the pickle
calls a class or a function is one of a few stand-ins here; any other name is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

MAX_OPCODES: Final = 1_000_000
_MAX_DIMENSIONS: Final = 8

_OPCODES: Final = frozenset(
    (
        *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "SHORT_BINSTRING"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
        *("EMPTY_DICT", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
    )
)

_DTYPES: Final[Mapping[str, str]] = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
}


class BadPickle(Exception):
    """The pickle is broken, or asks for more than data."""


class Storage(NamedTuple):
    """The bytes of one or more tensors: which dtype, under which name in the archive, how many values."""

    dtype: str
    key: str
    size: int


class Strided(NamedTuple):
    """A tensor as torch describes it: counts of values, not of bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Table(dict[Any, Any]):
    """An ordered dictionary of the pickle; attributes that it sets on one lie here and mean nothing."""


class Record:
    """An object of a class that is only looked at: whatever the pickle sets on it lies in its `__dict__`."""


class _Named:
    """What the pickle may call: without attributes, so that nothing can be hung on it."""

    __slots__ = ("_make",)
    _make: Any

    def __init__(self, make: Any) -> None:
        object.__setattr__(self, "_make", make)

    def __setattr__(self, name: str, value: object) -> None:
        raise BadPickle("sets an attribute of a function")

    def __call__(self, *given: Any) -> Any:
        return self._make(*given)


def load_pickle(content: bytes, records: Mapping[str, frozenset[str]] | None = None) -> Any:
    """Return what a pickle describes, with every tensor as `Strided`.

    Args:
        content: the pickle.
        records: further classes by module that are let through, as inert `Record`s.

    Raises:
        BadPickle: it is broken, or holds anything but tensors, numbers, text and containers of them.
    """
    _walk(content)
    try:
        return _Unpickler(content, records or {}).load()
    except BadPickle:
        raise
    except Exception as error:  # a stranger wrote it: whatever it trips over is a fault of the file
        raise BadPickle(f"is broken ({type(error).__name__})") from error


def _walk(content: bytes) -> None:
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if opcode.name not in _OPCODES:
                raise BadPickle(f"uses {opcode.name}, which plain tensors have no need of")
            # The memo is a table as large as its largest index.
            large = isinstance(argument, int) and opcode.name == "LONG_BINPUT" and argument > len(content)
            if large or count > MAX_OPCODES:
                raise BadPickle("is built to take more memory than it holds")
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise BadPickle(f"is broken: {str(error)[:100]}") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, records: Mapping[str, frozenset[str]]) -> None:
        super().__init__(io.BytesIO(content))
        self._records = records
        self._made: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if name in self._records.get(module, ()):
            return self._made.setdefault((module, name), type(name, (Record,), {}))
        raise BadPickle(f"names `{module}.{name}`, which is not loaded"[:160])

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or dtype not in _DTYPES.values() or not isinstance(key, str) or type(count) is not int:
            raise BadPickle("holds a storage of another dtype than float16, bfloat16, float32 or float64")
        return Storage(dtype, key, count)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Strided:
    sizes = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(each) is int and 0 <= each < 2**62 for each in sizes):
        raise BadPickle("describes a tensor that cannot be")
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise BadPickle("describes a tensor that cannot be")
    return Strided(storage, offset, tuple(shape), tuple(strides))


_KNOWN: Final[Mapping[tuple[str, str], Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Named(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Named(lambda tensor, *_: tensor),
    ("collections", "OrderedDict"): _Named(Table),
    ("torch", "Size"): _Named(tuple),
}

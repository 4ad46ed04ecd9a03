"""What a pickle describes, followed as data: tensors by where their numbers lie, and plain values.

Of a pickle's instructions, those that `torch.save` writes are followed. None of them calls anything, imports anything,
or reserves more memory than its own bytes.
"""

from pickletools import genops
from typing import Any, NamedTuple, cast

import torch

MOST_INSTRUCTIONS = 2_000_000  # a run of 35,000 epochs with 25 measures has that many

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_ORDERED_DICT, _REBUILD = object(), object()
_NAMES = {f"torch {name}": dtype for name, dtype in DTYPES.items()} | {
    "collections OrderedDict": _ORDERED_DICT,
    "torch._utils _rebuild_tensor_v2": _REBUILD,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")


class Unreadable(ValueError):
    """A file is damaged, or contains something other than tensors and plain data; the message says what."""


class Storage(NamedTuple):
    """Where the numbers of a tensor lie."""

    dtype: torch.dtype
    key: str
    length: int


class View(NamedTuple):
    """A tensor, before it is made."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def follow(pickle: bytes) -> tuple[Any, int]:
    """What a pickle describes, tensors as `View`s, and by how many instructions."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    for number, (opcode, found, _) in enumerate(genops(pickle)):
        name, argument = opcode.name, cast(Any, found)
        if number > MOST_INSTRUCTIONS:
            raise Unreadable("more than it can be")
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in ("SETITEMS", "APPENDS", "TUPLE"):
            stack, items = _split(stack, marks.pop())
            if name == "TUPLE":
                stack.append(tuple(items))
            elif name == "APPENDS":
                _append(stack[-1], items)
            else:
                _set(stack[-1], items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set(stack[-1], [key, value])
        elif name == "APPEND":
            value = stack.pop()
            _append(stack[-1], [value])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack, items = _split(stack, len(stack) - int(name[-1]))
            stack.append(tuple(items))
        elif name == "GLOBAL":
            if argument not in _NAMES:
                raise Unreadable(f"something other than tensors and plain data: {argument!r:.100}")
            stack.append(_NAMES[argument])
        elif name == "BINPERSID":
            stack.append(_storage(*stack.pop()))
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(_reduced(called, arguments))
        elif name == "BUILD":  # the versions of modules, which a state_dict has beside its tensors
            if type(stack.pop()) is not dict or type(stack[-1]) is not dict:
                raise Unreadable("an object that is no dict")
        elif name == "STOP":
            return stack.pop(), number
        elif name != "PROTO":
            raise Unreadable(f"something other than tensors and plain data: {name}")
    raise Unreadable("it has no end")


def _split(stack: list[Any], mark: int) -> tuple[list[Any], list[Any]]:
    """The stack below a mark, and what lies above it, which is taken off."""
    if mark < 0:
        raise Unreadable("it takes more than there is")
    items = stack[mark:]
    del stack[mark:]
    return stack, items


def _append(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise Unreadable("items for what is no list")
    target.extend(items)


def _set(target: Any, items: list[Any]) -> None:
    if type(target) is not dict:
        raise Unreadable("items for what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # no other keys, since a stranger could choose numbers that all fall into one place of the dict
        if not (type(key) is str or (type(key) is int and 0 <= key < 2**31)):
            raise Unreadable("a key that is neither a word nor a small number")
        target[key] = value


def _storage(kind: Any, dtype: Any, key: Any, location: Any, length: Any) -> Storage:
    if kind != "storage" or not isinstance(dtype, torch.dtype) or type(key) is not str or type(length) is not int:
        raise Unreadable("a storage of unknown kind")
    return Storage(dtype, key, length)


def _reduced(called: Any, arguments: Any) -> Any:
    if called is _ORDERED_DICT and arguments == ():
        return {}
    if called is not _REBUILD or type(arguments) is not tuple or len(arguments) != 6:
        raise Unreadable("something other than tensors and plain data")
    storage, offset, shape, strides, _, hooks = arguments
    numbers = (offset, *shape, *strides)
    if type(storage) is not Storage or hooks != {} or any(type(n) is not int or not 0 <= n < 2**63 for n in numbers):
        raise Unreadable("a tensor that is not plain")
    return View(storage, offset, tuple(shape), tuple(strides))

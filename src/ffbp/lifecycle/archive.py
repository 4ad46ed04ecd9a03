"""Tensors and plain data out of a zip archive that `torch.save` wrote, in memory that the size of the file bounds.

`torch.load(weights_only=True)` runs no code that it finds, but it reserves whatever memory a file asks for: for a
tensor larger than its storage, for a bytearray, for compressed entries. Here a tensor is made last, once its size has
been compared with the bytes that are there.
"""

import math
import os
import struct
import sys
from collections import OrderedDict
from typing import Any, BinaryIO, cast
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor

from ffbp.errors import ConfigError
from ffbp.lifecycle.plain_pickle import DTYPES, Unreadable, View, follow

LARGEST_LISTING = 2**23  # bytes of the archive's list of entries: some 100,000 tensors
LARGEST_PICKLE = 2**26  # bytes
DEEPEST = 24  # levels of lists and dicts


def read_archive(file: BinaryIO) -> Any:
    """Read what `torch.save` wrote: None, bools, numbers, strings, lists, tuples, dicts and tensors on the CPU.

    Time and memory are in proportion to the size of the file. Each tensor is contiguous and has memory of its own; the
    same tensor in two places stays one.

    Raises:
        Unreadable: if there is anything else in it.
    """
    try:
        reader = _Reader(file)
        content, instructions = follow(reader.bytes_of("archive/data.pkl", LARGEST_PICKLE))
        return reader.built(content, most=2 * instructions + 100)
    except Unreadable:
        raise
    except (BadZipFile, struct.error, ValueError, LookupError, TypeError, RuntimeError, EOFError) as error:
        raise Unreadable(str(error)) from error


class _Reader:
    """The entries of an archive, and the tensors whose numbers they are."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size = file, file.seek(0, os.SEEK_END)
        self.entries = self._listed()
        self.storages: dict[str, Tensor] = {}
        self.tensors: dict[View, Tensor] = {}
        self.parts, self.held = 0, 0  # how many, and bytes of tensors
        if self.bytes_of("archive/byteorder", 16).decode() != sys.byteorder:
            raise Unreadable("written on a machine with another order of bytes")

    def _listed(self) -> dict[str, tuple[int, int]]:
        """Where each entry begins and how long it is; none is compressed, and no two share a byte."""
        _check_listing(self.file, self.size)
        entries, free = {}, 0
        with ZipFile(self.file) as archive:
            listed = sorted(archive.infolist(), key=lambda info: info.header_offset)
        for info in listed:
            if info.compress_type != ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
                raise Unreadable("a compressed entry")
            self.file.seek(info.header_offset)
            name, extra = struct.unpack("<26xHH", self.file.read(30))
            begin = info.header_offset + 30 + name + extra
            if info.header_offset < free or info.filename in entries:
                raise Unreadable("two entries in one place")
            entries[info.filename], free = (begin, info.file_size), begin + info.file_size
        if free > self.size:
            raise Unreadable("an entry beyond its end")
        return entries

    def bytes_of(self, name: str, most: int) -> bytes:
        begin, size = self.entries[name]
        if size > most:
            raise Unreadable(f"{name} has {size} bytes")
        self.file.seek(begin)
        return self.file.read(size)

    def built(self, node: Any, most: int, depth: int = 0) -> Any:
        """`node` with tensors for the views; what stands in two places becomes two, at most `most` parts in all."""
        self.parts += 1
        if self.parts > most or depth > DEEPEST:
            raise Unreadable("lists within lists without end")
        if isinstance(node, View):
            return self.tensors[node] if node in self.tensors else self._tensor(node)
        if type(node) is dict:
            return {key: self.built(child, most, depth + 1) for key, child in node.items()}
        if type(node) in (list, tuple):
            return type(node)(self.built(child, most, depth + 1) for child in node)
        if type(node) is int and not -(2**63) <= node < 2**63:
            raise Unreadable("a number of more than 64 bits")
        if type(node) is str:
            node.encode()  # a ValueError for halves of characters, which no file or terminal can show
        elif node is not None and type(node) not in (bool, int, float):
            raise Unreadable("something other than tensors and plain data")
        return node

    def _tensor(self, view: View) -> Tensor:
        (dtype, key, stored), offset, shape, strides = view
        count = math.prod(shape)
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        if len(shape) > 8 or count > stored or (count and last >= stored):
            raise Unreadable(f"a tensor of {count} numbers, of which {stored} are there")
        self.held += count * dtype.itemsize
        if self.held > self.size:
            raise Unreadable("tensors that are more than their bytes")
        numbers = self._bytes(key, stored * dtype.itemsize)
        # a byte that is neither 0 nor 1 is no bool
        typed = numbers if dtype == torch.bool else numbers.view(dtype)
        tensor = typed.as_strided(shape, strides, offset)
        if dtype == torch.bool:
            tensor = (tensor != 0).contiguous()
        elif count < stored or not tensor.is_contiguous():
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        self.tensors[view] = tensor
        return tensor

    def _bytes(self, key: str, expected: int) -> Tensor:
        if key not in self.storages:
            begin, size = self.entries[f"archive/data/{key}"]
            self.storages[key] = torch.empty(size, dtype=torch.uint8)
            self.file.seek(begin)
            if cast(Any, self.file).readinto(self.storages[key].numpy()) != size:
                raise Unreadable("an entry beyond its end")
        if len(self.storages[key]) != expected:
            raise Unreadable(f"{len(self.storages[key])} bytes where {expected} are expected")
        return self.storages[key]


def require_savable(node: Any, place: str = "checkpoint") -> None:
    """Raise a ConfigError if something in a checkpoint is of a kind that `read_archive` does not read."""
    if isinstance(node, Tensor):
        good = type(node) is Tensor and node.layout == torch.strided and node.dtype in DTYPES.values()
    elif type(node) in (dict, OrderedDict):
        good = all(type(key) is str or (type(key) is int and 0 <= key < 2**31) for key in node)
        for key, child in node.items() if good else ():
            require_savable(child, f"{place}.{key}")
    elif type(node) in (list, tuple):
        good = True
        for child in node:
            require_savable(child, place)
    else:
        good = node is None or type(node) in (bool, int, float, str)
    if not good:
        kind = f"{type(node).__module__}.{type(node).__qualname__}"
        raise ConfigError(f"{place}: a {kind}, and only tensors, numbers, strings, lists and dicts can be saved.")


def _check_listing(file: BinaryIO, size: int) -> None:
    """Look at how long the list of entries is before it is read; it ends in 22 bytes and a comment."""
    file.seek(max(0, size - 2**16 - 22 - 76))
    tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0:
        raise Unreadable("no archive")
    lengths = list(struct.unpack_from("<12xI", tail, end))
    if tail[max(0, end - 20) : end].startswith(b"PK\6\7"):  # a long list says its length once more, in more bytes
        lengths = list(struct.unpack_from("<40xQ", tail, end - 76))
    if lengths[0] > LARGEST_LISTING:
        raise Unreadable("too many entries")

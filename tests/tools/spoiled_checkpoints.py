"""Spoiled checkpoints: damaged ones, ones that are nearly right, and traps, most of them with a right checksum."""

import hashlib
import io
import pickle
import struct
import zipfile
import zlib
from functools import cache, reduce
from random import Random
from typing import Any

import torch
from mutations import IN_CHECKPOINTS, mutate_bytes, mutate_tree


def seal(archive: bytes) -> bytes:
    """Give a zip archive without a comment a right checksum, as `write_checkpoint` does."""
    body = archive[:-2]
    comment = b"sha256:" + hashlib.sha256(body).hexdigest().encode()
    return body + len(comment).to_bytes(2, "little") + comment


def unsealed(data: bytes) -> bytes:
    """A checkpoint file without its checksum."""
    return data[: -len("sha256:") - 64 - 2] + bytes(2)


def spoil_checkpoint(data: bytes, content: dict[str, Any], dice: Random) -> bytes:
    """Spoil a checkpoint file, of which `content` is what it contains."""
    kind = dice.random()
    if kind < 0.1:
        return mutate_bytes(data, dice)
    if kind < 0.3:
        return seal(mutate_bytes(unsealed(data), dice))
    if kind < 0.5:
        return seal(_spoil_archive(unsealed(data), dice))
    buffer = io.BytesIO()
    torch.save(mutate_tree(content, dice, IN_CHECKPOINTS), buffer)
    return seal(buffer.getvalue())


def _spoil_archive(archive: bytes, dice: Random) -> bytes:
    """Spoil the entries of a zip archive, or how they are packed."""
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        entries = [(name, packed.read(name)) for name in packed.namelist()]
    number = dice.randrange(len(entries))
    name, body = entries[number]
    top = name.split("/")[0]
    kind = dice.randrange(8)
    if kind == 0:
        return _overlapping(archive, dice)
    if kind == 1:
        entries[number] = (name, dice.choice(PICKLES))
    elif kind == 2:
        entries = [(n, dice.choice(PICKLES) if n.endswith("data.pkl") else b) for n, b in entries]
    elif kind == 3:
        entries = [(n, mutate_bytes(b, dice) if n.endswith("data.pkl") else b) for n, b in entries]
    elif kind == 4:
        del entries[number]
    elif kind == 5:
        entries[number] = (
            dice.choice(("../../outside/new", f"{top}/data.pkl", f"{top}/data/0", "/", "/etc/x", "x" * 60_000)),
            body,
        )
    elif kind == 6:
        entries[number] = (name, body * dice.choice((0, 2, 100)))
    elif dice.random() < 0.2:
        return _bomb(name, entries)
    else:
        entries[number] = (name, mutate_bytes(body, dice))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", dice.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as packed:
        for entry, content in dict(entries).items():
            packed.writestr(entry, content)
    return buffer.getvalue()


def _overlapping(archive: bytes, dice: Random) -> bytes:
    """Let two entries of the central directory lie at the same place, or one somewhere else."""
    changed = bytearray(archive)
    headers = [place for place in range(len(archive)) if archive.startswith(b"PK\1\2", place)]
    one, other = dice.choice(headers), dice.choice(headers)
    field = dice.choice(((42, 4), (20, 4), (24, 4), (10, 2), (8, 2), (28, 2)))  # offset, sizes, method, flags, name
    value = dice.choice((bytes(changed[other + field[0] : other + sum(field)]), b"\xff" * field[1], bytes(field[1])))
    changed[one + field[0] : one + sum(field)] = value
    return bytes(changed)


@cache
def _zeros(mebibytes: int = 3072) -> tuple[bytes, int]:
    """Zeros, deflated, and their CRC."""
    packer, part = zlib.compressobj(9, zlib.DEFLATED, -15), bytes(2**20)
    packed = packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH)  # which stands for itself
    check = reduce(lambda check, _: zlib.crc32(part, check), range(mebibytes), 0)
    return packed * mebibytes + packer.flush(), check


def _bomb(name: str, entries: list[tuple[str, bytes]]) -> bytes:
    """An archive of 3 MB, one entry of which unpacks to 3 GB."""
    packed, check = _zeros()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for entry, content in entries:
            archive.writestr(entry, packed if entry == name else content)
        place, end = archive.getinfo(name).header_offset, buffer.tell()
    changed = bytearray(buffer.getvalue())
    central = changed.index(b"PK\1\2", end - 1)
    while not changed.startswith(name.encode(), central + 46):
        central = changed.index(b"PK\1\2", central + 1)
    said = struct.pack("<HHHIII", 8, 0, 33, check, len(packed), 3 * 2**30)  # deflated, time, date, CRC, sizes
    changed[place + 8 : place + 26] = said
    changed[central + 10 : central + 28] = said
    return bytes(changed)


PICKLES = [
    b"",
    b"\x80\x02.",
    b"\x80\x02}r\xff\xff\xff\x7f.",  # a memo of two thousand million entries
    b"\x80\x02}j\xff\xff\xff\x7f.",
    b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",  # lists in lists
    b"\x80\x02X\xff\xff\xff\x7f.",  # a string of two thousand million bytes, and no byte of it
    b"\x80\x02\x8b\xff\xff\xff\x7f.",
    b"\x80\x02cos\nsystem\nX\x17\0\0\0touch ../outside/new   \x85R.",
    b"\x80\x02cbuiltins\nbytearray\nJ\0\0\0\x7f\x85R.",
    b"\x80\x02c__builtin__\nbytearray\nJ\0\0\0\x7f\x85R.",
    b"\x80\x02ctorch\nhalf\nq\0.",
    b"\x80\x02c" + b"x" * 10_000 + b"\ny\n.",
    b"\x80\x02(" * 10_000 + b".",
    b"\x80\x02K\1" + b"2\x86" * 60 + b".",  # doubled sixty times
    b"\x80\x02}q\0X\1\0\0\0ah\0s.",  # contains itself
    b"\x80\x02K\1Q.",
    b"\x80\x05\x95\0\0\0\0\0\0\0\x7f}.",
    pickle.dumps({"ffbp": {"format": 4}, "state_dict": None}, 2),
    pickle.dumps({"ffbp": {"format": 4}}, 2),
    pickle.dumps([1, 2], 2),
]

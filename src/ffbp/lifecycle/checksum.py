"""The checksum at the end of a checkpoint file; PyTorch is not needed to look at it.

A checkpoint is a zip archive, and a zip archive may end in a comment: ours is its own checksum.
"""

import hashlib
import os
import re
from typing import BinaryIO, Literal

_COMMENT = re.compile(rb"sha256:([0-9a-f]{64})\Z")
_COMMENT_SIZE = len("sha256:") + 64


def sealed(archive: bytes) -> bytes:
    """An archive without a comment, with its checksum as one."""
    # it ends in the length of its comment, two bytes, so far 0; the digest covers all that comes before them
    body = archive[:-2]
    comment = b"sha256:" + hashlib.sha256(body).hexdigest().encode()
    return body + len(comment).to_bytes(2, "little") + comment


def seal_of(file: BinaryIO) -> Literal["intact", "damaged", "missing"]:
    """Whether the bytes of a file are those of its checksum; missing where it does not end in one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _COMMENT_SIZE))
    found = _COMMENT.search(file.read())
    if found is None:
        return "missing"
    digest, rest = hashlib.sha256(), size - _COMMENT_SIZE - 2
    file.seek(0)
    while rest > 0:
        part = file.read(min(rest, 2**20))
        digest.update(part)
        rest -= len(part)
    return "intact" if digest.hexdigest().encode() == found[1] else "damaged"

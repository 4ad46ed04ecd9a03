"""Ways to spoil bytes and nested values, and what to put into them."""

import builtins
import copy
import datetime
import math
import os
import subprocess
from collections import OrderedDict
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch
from attempts import ATTACKER

Change = Callable[[Any, Random], Any]
"""From a value and dice to another value."""

PLAIN: list[Any] = [None, True, False, 0, 1, -1, 7, 0.5, 2**31, 2**63, -(10**30), 1e308, math.nan, math.inf, -0.0]
PLAIN += [
    "",
    "x",
    "x" * 100_000,
    "007",
    "1e3",
    "on",
    "~",
    "\0",
    "é☃\u202e",
    "a\nb",
    "<script>alert(1)</script>",
    "{{7*7}}",
]
PLAIN += ["../outside/new", "/dev/zero", ".", [], {}, [[]], [1, 2, 3], [None], {"a": 1}, {"": {}}, {"name": []}]

LOOKUPS = ["${oc.env:FUZZ_SECRET}", "${oc.${y}:FUZZ_SECRET}", "${oc.decode:${oc.env:FUZZ_SECRET}}", "${y}", "${", "${a"]
LOOKUPS += [
    "${missing}",
    "???",
    "${oc.create:{a:1}}",
    "${hydra:runtime.cwd}",
    "${.}",
    "${..}",
    "x${oc.env:FUZZ_SECRET}x",
]
LOOKUPS += [
    "${paths.data_dir}",
    "${oc.select:paths.data_dir}",
    "${oc.env:FFBP_DATA_DIR,data}",
    "${oc.env:\\FUZZ_SECRET}",
]

TARGETS = [
    "os.system",
    "builtins.exec",
    "builtins.print",
    "pathlib.Path.touch",
    "torch.load",
    "torch.nn.Linear",
    "ffbp",
]
TARGETS += ["ffbp.files.write_text", "ffbp.data.sources._download_file", "ffbp.models.mlp.nn.Linear", "ffbp.models.x"]
TARGETS += ["ffbp.algorithms.base.torch.hub.load", "ffbp.lifecycle.checkpoint.restore_previous", "ffbp.data.MemoryData"]
TARGETS += ["lightning.pytorch.Trainer", "torch.optim.lr_scheduler.os.system", "lightning.pytorch.callbacks.Timer"]

ELSEWHERE = [
    {
        "_target_": "ffbp.data.sources._download_file",
        "path": "../outside/new",
        "md5": "x",
        "mirrors": [f"http://{ATTACKER}/"],
    },
    {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "../outside"},
    {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "..", "name": "outside", "version": ""},
    {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "save_dir": "../outside", "name": "", "version": ""},
    {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "nothing"},
    {"_target_": "os.system", "command": "touch ../outside/new"},
]


def mutate_bytes(data: bytes, dice: Random) -> bytes:
    """Flip, overwrite, insert, remove, repeat or cut off bytes, once to eight times."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 8))):
        place, length = dice.randrange(len(changed) + 1), dice.choice((1, 1, 2, 4, 64))
        kind = dice.randrange(6)
        if kind == 0 and changed:
            changed[place % len(changed)] ^= 1 << dice.randrange(8)
        elif kind == 1:
            changed[place : place + length] = dice.randbytes(length)
        elif kind == 2:
            changed[place:place] = dice.choice((dice.randbytes(length), b"\xff" * length, bytes(length)))
        elif kind == 3:
            changed[place : place + length] = b""
        elif kind == 4:
            changed[place:place] = changed[max(0, place - length) : place]
        elif dice.random() < 0.3:
            del changed[place:]
    return bytes(changed)


def mutate_tree(tree: Any, dice: Random, changes: Sequence[Change]) -> Any:
    """Change, remove, add, rename or exchange entries of nested values, once to three times, in a copy."""
    tree = copy.deepcopy(tree)
    for _ in range(dice.choice((1, 1, 2, 3))):
        there = _places(tree)
        if not there:
            break
        (node, key), (other, name) = dice.choice(there), dice.choice(there)
        changed = dice.choice(changes)(node[key], dice)
        kind = dice.randrange(8)
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[dice.choice(("x", "y", "_target_", "name", "_args_", "_partial_", 0, ""))] = changed
        elif kind == 2 and isinstance(node, dict):
            node[f"{key}x"] = node.pop(key)
        elif kind == 3:
            node[key], other[name] = other[name], node[key]
        else:
            node[key] = changed
    return tree if dice.random() < 0.98 else dice.choice(changes)(tree, dice)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """All dictionaries and lists of nested values, with each of their keys; what is put in may be circular or huge."""
    found: list[tuple[Any, Any]] = []
    left, seen = [tree], set()
    while left and len(found) < 10_000:
        node = left.pop()
        if isinstance(node, dict | list) and id(node) not in seen:
            seen.add(id(node))
            keys = list(node) if isinstance(node, dict) else range(len(node))
            found += [(node, key) for key in keys]
            left += [node[key] for key in keys]
    return found


def always(*values: Any) -> list[Change]:
    """The changes to these values."""
    return [lambda _, __, value=value: copy.deepcopy(value) for value in values]


def nested(depth: int) -> list[Any]:
    """A list in a list, and so on."""
    node: list[Any] = []
    for _ in range(depth):
        node = [node]
    return node


def doubled(_: Any, __: Random) -> list[Any]:
    """A list that is small, and has 2 ** 40 leaves for whoever walks through it."""
    node: list[Any] = []
    for _ in range(40):
        node = [node, node]
    return node


def circular(_: Any, __: Random) -> dict[str, Any]:
    """A dictionary that contains itself."""
    node: dict[str, Any] = {"name": "x"}
    node["_target_"] = node["x"] = node
    return node


IN_TEXT = always(*PLAIN)
IN_SETTINGS = always(*PLAIN, *LOOKUPS, *LOOKUPS, *TARGETS, *ELSEWHERE, nested(40), datetime.date(2026, 1, 1))
IN_SETTINGS += [lambda _, dice: {"x": dice.choice(ELSEWHERE)}] * 8


# -- in checkpoints


class Call:
    """Pickled, the call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def other_tensor(value: Any, dice: Random) -> Any:
    """A tensor of another shape, type or layout; a larger number; a list."""
    if not isinstance(value, torch.Tensor):
        return value * 10**9 if isinstance(value, int | float) else [value]
    few = value.flatten()[:1]
    kinds = (
        lambda: value.new_zeros(()),
        lambda: value.new_zeros(0),
        lambda: value.double(),
        lambda: value.half(),
        lambda: value.to(torch.complex64),
        lambda: value > 0,
        lambda: value.to(torch.int8),
        lambda: value.unsqueeze(0),
        lambda: few,
        lambda: few.expand(10**12),
        lambda: few.expand(value.shape),
        lambda: value.t() if value.dim() == 2 else value.new_zeros(3, 3),
        lambda: torch.full_like(value, math.nan) if value.is_floating_point() else -value,
        lambda: value.to_sparse() if value.dim() else value,
        lambda: torch.empty(value.shape, device="meta"),
        lambda: torch.nn.Parameter(value.float()),
    )
    return dice.choice(kinds)()


def larger_than_stored(value: Any, dice: Random) -> Call:
    """A tensor whose sizes, strides or offset go beyond what it is stored in."""
    tensor = value if isinstance(value, torch.Tensor) and value.numel() else torch.zeros(4)
    storage = torch.storage.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True)
    sizes = (
        ((10**6, 10**6), (10**6, 1)),
        ((10**9,), (1,)),
        ((2**62,), (4,)),
        ((-1,), (1,)),
        ((4,), (-1,)),
        ((2,), (10**9,)),
    )
    offset = dice.choice((0, 0, -1, 2**40))
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, *dice.choice(sizes), False, OrderedDict())


def code(value: Any, dice: Random) -> Call:
    """The call of something that a checkpoint has no business to call."""
    calls = [(os.system, "touch ../outside/new"), (builtins.eval, "1"), (subprocess.run, ["true"]), (torch.load, "x")]
    calls += [(bytearray, 8 * 10**9), (torch.zeros, 10**12), (getattr, value, "x"), (open, "../outside/new", "w")]
    return Call(*dice.choice(calls))


IN_CHECKPOINTS = always(*PLAIN, *LOOKUPS[:3], *TARGETS, (), {1, 2}, b"x" * 99, 1j, torch.float64, torch.Size([3]))
IN_CHECKPOINTS += [*always(nested(200), torch.device("cuda"), OrderedDict(a=1)), doubled, circular]
IN_CHECKPOINTS += [other_tensor] * 25 + [larger_than_stored] * 6 + [code] * 4

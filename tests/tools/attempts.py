"""A command in a process of its own, in a folder where it may do little, and what is wrong with how that went."""

import json
import os
import re
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from warm import ROOT

from ffbp.cli.commands import main

CODES = (0, 2, 3, 4, 5, 6)  # the documented ones, signals aside
SECONDS, MEBIBYTES = 10, 2048
SECRET = "b7e151628aed2a6a"  # neither this nor what a file says that contains it may turn up anywhere
ATTACKER = "attacker.invalid"
OUR_FAULT = 99  # an exit code that no command has


class Outcome(NamedTuple):
    """How a command ended, with what it printed."""

    code: int  # negative for a signal
    seconds: float
    peak: int  # MiB
    output: str
    errors: str


class Died(Exception):
    """What `in_child` ran has ended the child; `code` is negative for a signal."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit {code}")
        self.code = code


def in_child(results: Iterable[tuple[Outcome, list[str]]]) -> Iterator[tuple[Outcome, list[str]]]:
    """Go through an iterable in a fork of this process; raise Died where that ends before the iterable does."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            with os.fdopen(writing, "w") as pipe:
                for result in results:
                    print(json.dumps(result), file=pipe, flush=True)
                print("the end", file=pipe, flush=True)
        except BaseException:
            traceback.print_exc()
        os._exit(OUR_FAULT)
    os.close(writing)
    line = ""
    with os.fdopen(reading) as pipe:
        for line in pipe:
            if line != "the end\n":
                outcome, wrong = json.loads(line)
                yield Outcome(*outcome), wrong
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if line != "the end\n":
        raise Died(code) if code != OUR_FAULT else RuntimeError("a fault of the fuzzing itself, see err.txt")


class Sandbox:
    """A folder: `cwd` for a command, where `run` is its own, and beside it files that are nobody's business."""

    def __init__(self, root: Path) -> None:
        self.root, self.cwd = root, root / "cwd"
        self.files = [root / "out.txt", root / "err.txt"]
        self.write_others()

    def write_others(self) -> None:
        """Make the files that are nobody's business, or make them anew."""
        for name in ("outside/secret.txt", "outside/metrics.csv", "cwd/mine/checkpoints/best.ckpt", "cwd/notes.txt"):
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{SECRET}\n")
            os.utime(path, (0, 0))

    def attempt(self, command: str, words: Sequence[str]) -> Outcome:
        """Run a command with some words, in this process, which `enter` has prepared."""
        for number in (1, 2):
            os.ftruncate(number, 0)
            os.lseek(number, 0, os.SEEK_SET)
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
        sys.argv = [str(ROOT / f"{command}.py"), *words]
        began, code = time.monotonic(), 1
        signal.alarm(SECONDS)
        try:
            main(command)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        signal.alarm(0)
        seconds = time.monotonic() - began
        sys.stdout.flush()
        sys.stderr.flush()
        peak = int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) // 1024
        return Outcome(code, seconds, peak, *self.printed())

    def printed(self) -> tuple[str, str]:
        """What the latest command has printed, on stdout and stderr."""
        output, errors = (file.read_text(errors="replace") for file in self.files)
        return output, errors

    def enter(self) -> None:
        """Make this process one that works in the sandbox, without a network, and with little memory."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 4 * 2**30  # more than is allowed, so that it is seen, and no more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number, path in enumerate([os.devnull, *self.files]):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(self.cwd)
        os.environ.update(FUZZ_SECRET=SECRET, FFBP_DATA_DIR=str(self.root / "data"), TORCHDYNAMO_DISABLE="1")
        socket.getaddrinfo = self._no_network

    def _no_network(self, host: str, *_: object, **__: object) -> NoReturn:
        if host == ATTACKER:
            (self.root / "outside" / "called").touch()
        raise OSError(f"{host}: no network here")

    def listing(self, own: Sequence[str]) -> dict[str, tuple[int, int]]:
        """All files and folders but those that are a command's own, each with its size and time."""
        skipped = (*own, "data", "out.txt", "err.txt")  # data sets may be downloaded
        return {name: state for name, state in _walk(self.root, "") if not name.startswith(skipped)}

    def tells(self) -> Iterator[str]:
        """The files of the run that contain the secret."""
        for path in (self.cwd / "run").rglob("*"):
            if path.is_file() and SECRET.encode() in path.read_bytes():
                yield str(path.relative_to(self.root))


PRINTED = "the secret is printed"


def complaints(outcome: Outcome) -> list[str]:
    """What must not happen whatever a command is given, in words that are the same for the same fault."""
    found = []
    if outcome.code == -signal.SIGALRM:
        found.append(f"over {SECONDS} s")
    elif outcome.code not in CODES:
        found.append(f"exit {outcome.code}")
    if outcome.peak > MEBIBYTES:
        found.append(f"over {MEBIBYTES} MiB")
    if "Traceback" in outcome.output + outcome.errors:
        frames = re.findall(r'File "[^"]*/(ffbp/[^"]+)", line \d+, in (\S+)', outcome.errors)
        last = re.findall(r"^([A-Za-z][\w.]*)(?::|$)", outcome.errors, re.M)[-1:]
        found.append(f"traceback: {''.join(last)} in {' '.join(frames[-1]) if frames else '?'}")
    lines = sum(line.startswith("error: ") for line in outcome.errors.splitlines())
    if outcome.code in CODES and lines != (outcome.code != 0):
        found.append(f"exit {outcome.code} with {lines} lines of error")
    if SECRET in outcome.output + outcome.errors:
        found.append(PRINTED)
    return found


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, tuple[int, int]]]:
    for entry in os.scandir(folder):
        status = entry.stat(follow_symlinks=False)
        name = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield name, (0, 0)
            yield from _walk(Path(entry.path), f"{name}/")
        else:
            yield name, (status.st_size, status.st_mtime_ns)

"""The root scripts without the seconds that their imports take: each is a fork of a process that has made them.

A fork has its own arguments, environment, working directory, output and exit code, as a command of a shell has.
"""

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]


class Warm:
    """A process with everything imported, and the scripts that it forks into."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def ask(self, **request) -> int | None:
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, *words: str, cwd: Path, script: str = "train.py", **environment: str) -> "Started":
        """Start a script; its output goes to files beside its working directory."""
        return Started(self, [str(ROOT / script), *words], cwd, environment)

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait(20)


class Started:
    """A script that runs, or has run."""

    count = 0

    def __init__(self, warm: Warm, words: list[str], cwd: Path, environment: dict[str, str]) -> None:
        Started.count += 1
        self.warm, self.words = warm, words[1:]
        self.files = [cwd.with_name(f"{cwd.name}.{Started.count}.{name}") for name in ("out", "err")]
        paths = [str(file) for file in self.files]
        self.pid = warm.ask(words=words, cwd=str(cwd), environment=environment, files=paths)
        self.returncode: int | None = None

    @property
    def stdout(self) -> str:
        return self._read(0)

    @property
    def stderr(self) -> str:
        return self._read(1)

    def _read(self, number: int) -> str:
        file = self.files[number]
        return file.read_text() if file.exists() else ""  # killed before it was there

    def poll(self) -> int | None:
        """Its exit code, negative for a signal, None while it runs."""
        if self.returncode is None:
            self.returncode = self.warm.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"{timeout} s: {self.stdout}{self.stderr}")
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.send_signal(number)


@pytest.fixture(scope="session")
def warm_process() -> Iterator[Warm]:
    warm = Warm()
    yield warm
    warm.close()


@pytest.fixture
def warm(warm_process: Warm, tmp_path: Path):
    """Start a root script in a directory of its own, from a process that has imported everything."""
    folder = tmp_path / "cwd"
    folder.mkdir()

    def start(*words: str, **options: str) -> Started:
        return warm_process.start(*words, cwd=folder, **options)

    start.folder = folder
    return start


def serve() -> None:
    """Fork for each request, and tell how earlier forks stand."""
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
        else:
            pid = os.fork() or run_script(**request)
            print(json.dumps(pid), flush=True)


def run_script(words: list[str], cwd: str, environment: dict[str, str], files: list[str]) -> NoReturn:
    """Be the script until its end, and leave without the second that taking everything down would need."""
    for number, path in enumerate([os.devnull, *files]):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = words
    sys.path[0] = str(Path(words[0]).parent)
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    code: object = 0
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    import ffbp.evaluation
    import ffbp.lifecycle.train
    import ffbp.report.page  # noqa: F401

    gc.freeze()  # a collection would copy every page
    serve()

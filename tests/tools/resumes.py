"""Draw runs of all kinds, kill and resume each, extend some, and compare each to the bit with an unbroken one.

python tests/tools/resumes.py --cases 200 --seed 0 --out results/resumes.json
python tests/tools/resumes.py --cases 1 --seed 17                             # the case of this seed again
python tests/tools/resumes.py --case '{"words": ["data=digits", ...], ...}'   # the same in any revision
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import lightning
import torch
from drawn_runs import Case, Kill, draw_case
from same_run import assert_same_run, count_tensors
from warm import ROOT, Started, Warm

from ffbp.lifecycle.checkpoint import read_checkpoint

ENDS = {9: (-9,), 15: (143,), 2: (130,)}  # exit codes of what a signal has ended; it may also come too late: 0


class Refused(Exception):
    """The program rejects the drawn settings, as it should: at once, in one line, leaving nothing."""


class Times(NamedTuple):
    """What an unbroken run takes, in seconds, and how many epochs it has trained."""

    start: float  # until its directory is there
    training: float  # from then to the end of its last epoch
    test: float  # from then to its end
    rows: int


class Killed:
    """A case: a run that is left alone, `whole`, and one that is killed and resumed, `broken`."""

    def __init__(self, case: Case, start: Callable[..., Started], folder: Path, seen: Counter[str]) -> None:
        self.case, self.start, self.seen = case, start, seen  # `seen` counts kills, by where they fall
        self.whole, self.broken = folder / "whole", folder / "broken"

    def examine(self) -> None:
        """Go through the whole case.

        Raises:
            Refused: where the settings cannot be used.
            AssertionError: where anything differs, fails or is refused that should not.
        """
        case = self.case
        times = self.train_whole([*case.words, "hydra.run.dir=whole"])
        if any(word.startswith("trainer.max_time=") for word in case.words):
            self.must_not_be_resumed(times)
            return
        self.train_broken([*case.words, "hydra.run.dir=broken"], case.kills, times)
        self.compare()
        if case.more:
            epochs = f"trainer.max_epochs={case.epochs + case.more}"
            self.finish("resume=whole", epochs)
            times = times._replace(rows=rows_of(self.whole))
            self.train_broken(["resume=broken", epochs], case.kills_after, times)
            self.compare()

    def train_whole(self, words: list[str]) -> Times:
        asked = time.time()
        process = self.start(*words)
        code = process.wait()
        if code == 2 and one_line(process) and not self.whole.exists():
            raise Refused(process.stderr.strip())
        expect(process, code, 0)
        begun, trained = ((self.whole / name).stat().st_mtime for name in (".hydra/config.yaml", "metrics.csv"))
        return Times(begun - asked, trained - begun, time.time() - trained, rows_of(self.whole))

    def train_broken(self, words: list[str], kills: Sequence[Kill], times: Times) -> None:
        """Begin with some words, break off and resume as often as there are kills, and let it end."""
        for kill in kills:
            process = self.start(*self.resumed(words))
            self.wait_for(kill, process, times)
            if process.poll() is None:
                process.send_signal(kill.number)
            code = process.wait()
            expect(process, code, 0, *ENDS[kill.number])
            self.note(kill, code, times)
        self.finish(*self.resumed(words))

    def wait_for(self, kill: Kill, process: Started, times: Times) -> None:
        """Wait until the moment of a kill, or the end of the process if that comes before."""
        last, status = self.broken / "checkpoints" / "last.ckpt", self.broken / "status.json"
        saved, began, share = written_at(last), written_at(status), kill.share / 100
        moment = {
            "start": lambda: True,
            "save": lambda: written_at(last) != saved,
            "in save": lambda: written_at(last) != saved and any(self.broken.glob("checkpoints/.*.new")),
            "test": lambda: written_at(status) != began and rows_of(self.broken) >= times.rows,
        }[kill.when]
        while not moment() and process.poll() is None:
            time.sleep(0.001)
        # less than an unbroken run takes, since much may be done already
        after = {"start": times.start, "save": 0.2 * times.training, "in save": 0, "test": 0.3 * times.test}
        time.sleep(share * after[kill.when])

    def note(self, kill: Kill, code: int, times: Times) -> None:
        """Count where a kill has fallen."""
        if code == 0:
            self.seen["kills that came after the end"] += 1
            return
        self.seen.update(("kills", f"kills by signal {kill.number}"))
        if state_of(self.broken) in (None, "finished"):
            self.seen["kills before the start"] += 1
        elif any(self.broken.glob("checkpoints/.*.new")):
            self.seen["kills during a save"] += 1
        elif rows_of(self.broken) >= times.rows:
            self.seen["kills in the test"] += 1
        if kill.number != 9 and state_of(self.broken) != "finished":
            assert state_of(self.broken) == "interrupted", f"signal {kill.number}, but {state_of(self.broken)}"

    def resumed(self, words: list[str]) -> list[str]:
        """How to go on with what some words have begun; with them, if a kill came before they were noted."""
        begun = (self.broken / ".hydra" / "config.yaml").exists()
        extended = words[0] != "resume=broken" or state_of(self.broken) != "finished"
        return ["resume=broken"] if begun and extended else words

    def finish(self, *words: str) -> Started:
        process = self.start(*words)
        expect(process, process.wait(), 0)
        return process

    def compare(self) -> None:
        """Both runs are the same to the bit, and resuming a finished one changes nothing."""
        before = (self.broken / "metrics.json").read_bytes()
        again = self.finish("resume=broken")
        assert "finished" in again.stdout, f"a finished run was resumed, and said: {again.stdout.strip()[-200:]}"
        assert (self.broken / "metrics.json").read_bytes() == before, "metrics.json changed when it was resumed"
        assert_same_run(self.whole, self.broken)
        assert state_of(self.whole) == state_of(self.broken) == "finished"
        assert not list(self.broken.glob("**/.*.new")), "files are left that were never complete"
        checkpoints = self.broken.glob("checkpoints/[bl]*t.ckpt")
        self.seen["tensors compared"] += sum(count_tensors(read_checkpoint(path)) for path in checkpoints)
        self.seen["comparisons"] += 1

    def must_not_be_resumed(self, times: Times) -> None:
        """A run that the clock may end says at its start that it cannot be resumed exactly, and is not resumed."""
        process = self.start(*self.case.words, "hydra.run.dir=broken")
        self.wait_for(Kill("save", 0), process, times)
        process.kill()
        code = process.wait()
        assert "max_time" in process.stderr, "nothing is said of max_time at the start"
        if code != 0:
            resumed = self.start("resume=broken")
            expect(resumed, resumed.wait(), 4)
            assert "max_time" in resumed.stderr, resumed.stderr
            self.seen["refused to resume, for max_time"] += 1


def expect(process: Started, code: int, *wanted: int) -> None:
    """Raise an AssertionError, with the last line of what it said, if a process has not ended as it should."""
    last = process.stderr.strip().replace(str(ROOT), "").splitlines()[-1:]
    assert code in wanted, f"{' '.join(process.words)}: exit {code}, {' or '.join(map(str, wanted))} expected; {last}"


def one_line(process: Started) -> bool:
    return process.stderr.startswith("error: ") and len(process.stderr.strip().splitlines()) == 1


def written_at(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def rows_of(run: Path) -> int:
    rows = run / "metrics.csv"
    return len(rows.read_text().splitlines()) - 1 if rows.exists() else 0


def state_of(run: Path) -> str | None:
    status = run / "status.json"
    return json.loads(status.read_text())["state"] if status.exists() else None


def examine(case: Case, warm: Warm, seen: Counter[str]) -> None:
    """Go through a case in a folder of its own, see `Killed.examine`, and count what happens to it."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "cwd"
        folder.mkdir()
        Killed(case, lambda *words: warm.start(*words, cwd=folder), folder, seen).examine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20, help="how many, besides those with settings that are refused")
    parser.add_argument("--seed", type=int, default=0, help="of the first case; each further one has the next")
    parser.add_argument("--case", help="only this case, as it was printed")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    drawn = [(None, Case.read(chosen.case))] if chosen.case else ((n, draw_case(n)) for n in count(chosen.seed))
    warm = Warm()
    done, refused, seen, words = 0, Counter[str](), Counter[str](), Counter[str]()
    differences: list[dict[str, object]] = []
    for number, case in drawn:
        began = time.monotonic()
        try:
            examine(case, warm, seen)
        except Refused as refusal:
            refused[str(refusal)] += 1
            continue
        except (AssertionError, TimeoutError, OSError) as error:
            differences.append({"seed": number, "case": str(case), "what": " ".join(str(error).split())[-500:]})
            print(f"seed {number}: {differences[-1]['what']}\n  --case '{case}'", file=sys.stderr)
        done += 1
        words.update(case.words)
        took = time.monotonic() - began
        print(f"{done} cases, {seen['kills']} kills, {len(differences)} differences, {took:.1f} s", flush=True)
        if done == chosen.cases:
            break
    warm.close()
    result = {
        "command": f"python tests/tools/resumes.py --cases {chosen.cases} --seed {chosen.seed}",
        "cases": done,
        "differences": differences,
        **dict(sorted(seen.items())),
        "refused settings": dict(refused.most_common()),
        "settings": dict(sorted(words.items())),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
    if chosen.out:
        chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()

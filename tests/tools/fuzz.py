"""Give the commands spoiled files and words, and see that each answer is a result, or one line and an exit code.

python tests/tools/fuzz.py --checkpoints 5000 --settings 5000 --others 1000 --out results/fuzz.json
python tests/tools/fuzz.py --kind settings --only 1234     # one again, with what it printed
"""

import argparse
import gc
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from attempts import PRINTED, Died, Outcome, Sandbox, complaints, in_child
from mutations import LOOKUPS, PLAIN
from PIL import Image
from spoiled import spoil_csv, spoil_idx, spoil_json, spoil_picture, spoil_yaml, write_small_set
from spoiled_checkpoints import spoil_checkpoint

import ffbp.evaluation
import ffbp.lifecycle.train
import ffbp.report.page  # noqa: F401
from ffbp.data.sources import digits
from ffbp.lifecycle.checkpoint import read_checkpoint

TINY = ["data=digits", "model=mlp", "model.widths=[8]", "trainer.accelerator=cpu", "trainer.max_epochs=1"]
TINY += ["trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
TEMPLATES = {"ff": ["algo=ff"], "bp": ["algo=bp", "algo.optimizer.name=momentum"]}
RESUME = ["resume=run", "trainer.max_epochs=2"]
IMAGES = ["run=run", "images=[seven.png]"]
OWN = ["cwd/run", "cwd/new", "cwd/compare", "cwd/logs"]  # where commands may write
BATCH = 50  # attempts in one process


class Fuzz:
    """A sandbox with small trained runs, and for each kind of input a method that spoils it and says what to run."""

    def __init__(self, root: Path) -> None:
        self.sandbox = Sandbox(root)
        self.cwd, self.run = self.sandbox.cwd, self.sandbox.cwd / "run"
        Image.fromarray(digits()[1].images[0, 0].numpy()).save(self.cwd / "seven.png")
        self.idx_folder = root / "data" / "KMNIST" / "raw"  # whose contents are not checked by a checksum
        self.templates = {name: root / "templates" / name for name in TEMPLATES}
        for outcome, _ in in_child(self.first_attempts()):
            assert outcome.code == 0, outcome
        self.contents = {path: read_checkpoint(path) for path in root.glob("templates/*/checkpoints/[bl]*t.ckpt")}
        keys = _keys(yaml.safe_load((self.templates["ff"] / ".hydra" / "config.yaml").read_text()))
        self.keys = [
            key for key in keys if not key.startswith(("paths.", "logger."))
        ]  # users may write where they like
        write_small_set(self.idx_folder)
        shutil.rmtree(self.run)
        self.pristine = self.sandbox.listing(OWN)

    def first_attempts(self) -> Iterator[tuple[Outcome, list[str]]]:
        """Make the templates, and try each command on what is not spoiled: else all below might be refused for that."""
        self.sandbox.enter()
        for name, words in TEMPLATES.items():
            yield self.sandbox.attempt("train", [*TINY, *words, f"hydra.run.dir=../templates/{name}"]), []
            self.take(name)
            for command, words in (("train", RESUME), ("evaluate", ["run=run"]), ("evaluate", IMAGES)):
                yield self.sandbox.attempt(command, words), []
        write_small_set(self.idx_folder)
        yield self.sandbox.attempt("train", self.idx_words()), []

    def take(self, name: str) -> None:
        """Put a template where the commands find a run."""
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(self.templates[name], self.run)

    def attempts(self, kind: str, numbers: Sequence[int], seed: int) -> Iterator[tuple[Outcome, list[str]]]:
        """Make attempts, and say what is wrong with how each went; for a process of their own."""
        self.sandbox.enter()
        for number in numbers:
            dice = Random(f"{seed}/{kind}/{number}")
            torch.manual_seed(0)
            self.take(dice.choice(list(TEMPLATES)))
            command, words, own = getattr(self, kind)(dice)
            before = self.sandbox.listing(own)
            outcome = self.sandbox.attempt(command, words)
            wrong = [*complaints(outcome), *self.traces(before, own)]
            if kind == "overrides":  # who types a lookup may see what it finds
                wrong = [what for what in wrong if what != PRINTED]
            yield outcome, [f"{command}: {what}" for what in wrong]

    def all_attempts(self, kind: str, numbers: Sequence[int], seed: int) -> Iterator[tuple[Outcome, list[str]]]:
        """The same for any number of them, in as many processes as are needed."""
        done = 0
        while done < len(numbers):
            began = time.monotonic()
            try:
                for result in in_child(self.attempts(kind, numbers[done : done + BATCH], seed)):
                    done, began = done + 1, time.monotonic()
                    yield result
            except Died as death:
                done += 1
                outcome = Outcome(death.code, time.monotonic() - began, 0, *self.sandbox.printed())
                yield outcome, [*complaints(outcome), *self.traces(self.pristine, OWN)]

    def traces(self, before: dict[str, Any], own: Sequence[str]) -> list[str]:
        """What was touched that is not the command's own, and where the secret is now; then all is put right."""
        after = self.sandbox.listing(own)
        touched = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        found = [f"{name} is written" for name in touched[:1]] + [f"secret in {name}" for name in self.sandbox.tells()]
        for path in (self.sandbox.root / name for name in self.sandbox.listing(()).keys() - self.pristine.keys()):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if touched:
            self.sandbox.write_others()
        return found

    # -- kinds of input: the command, its words, and the places in the sandbox that are its own

    def checkpoints(self, dice: Random) -> tuple[str, list[str], list[str]]:
        resume = dice.random() < 0.25
        path = self.run / "checkpoints" / ("last.ckpt" if resume else "best.ckpt")
        [content] = [c for p, c in self.contents.items() if p.name == path.name and p.read_bytes() == path.read_bytes()]
        path.write_bytes(spoil_checkpoint(path.read_bytes(), content, dice))
        if resume:
            return "train", RESUME, ["cwd/run"]
        return "evaluate", dice.choice((IMAGES, IMAGES, ["run=run"], [f"run={path.relative_to(self.cwd)}"])), []

    def settings(self, dice: Random) -> tuple[str, list[str], list[str]]:
        path = self.run / ".hydra" / "config.yaml"
        path.write_bytes(spoil_yaml(path.read_text(), dice))
        return "train", RESUME, ["cwd/run"]

    def overrides(self, dice: Random) -> tuple[str, list[str], list[str]]:
        word = self.word(dice)
        if dice.random() < 0.15:
            words = [*dice.choice((["resume=run"], RESUME, IMAGES, ["runs=."])), word]
            command = "train" if words[0] == "resume=run" else "evaluate" if "run=run" in words else "compare"
        else:
            command, words = "train", [*TINY, "trainer.max_steps=1", word, "hydra.run.dir=new"]
        if dice.random() < 0.2:
            dice.shuffle(words)
        return command, words, OWN

    def idx(self, dice: Random) -> tuple[str, list[str], list[str]]:
        write_small_set(self.idx_folder)
        path = dice.choice(sorted(self.idx_folder.iterdir()))
        path.write_bytes(spoil_idx(path.read_bytes(), dice))
        if dice.random() < 0.1:
            path.rename(path.with_name(f"{path.name}.gz"))
        return "train", self.idx_words(), ["cwd/run"]

    def pictures(self, dice: Random) -> tuple[str, list[str], list[str]]:
        folder = self.run / "pictures"
        folder.mkdir()
        suffix, data = spoil_picture(dice)
        (folder / f"x.{suffix}").write_bytes(data)
        shown = dice.choice((f"run/pictures/x.{suffix}", "run/pictures"))
        return "evaluate", ["run=run", f"images=[{shown}]", f"invert={dice.choice(('true', 'false'))}"], []

    def metrics(self, dice: Random) -> tuple[str, list[str], list[str]]:
        shutil.copytree(self.templates["bp"], self.run / "bp")
        name = dice.choice(("metrics.json", "metrics.json", "metrics.csv", ".hydra/overrides.yaml"))
        spoil = {"json": spoil_json, "csv": spoil_csv, "yaml": spoil_yaml}[name.rpartition(".")[2]]
        (self.run / name).write_bytes(spoil((self.run / name).read_text(), dice))
        return "compare", ["runs=run"], ["cwd/run/compare"]

    def status(self, dice: Random) -> tuple[str, list[str], list[str]]:
        name = dice.choice(("status.json", "status.json", ".hydra/overrides.yaml", "metrics.json"))
        path = self.run / name
        path.write_bytes((spoil_yaml if name.endswith("yaml") else spoil_json)(path.read_text(), dice))
        return "train", dice.choice((RESUME, ["resume=run"], [*TINY, "hydra.run.dir=run"])), ["cwd/run"]

    # -- what they need

    def word(self, dice: Random) -> str:
        """A word of a command line."""
        key = dice.choice(self.keys)
        value = dice.choice(
            [*map(str, PLAIN), *LOOKUPS, "a=b", "[1", "{a:", "'", "1,2", "range(1,3)", "[1,[2]]", "{a:1}", "é"]
        )
        form = dice.choice(
            ("{0}={1}",) * 6 + ("+{0}={1}", "++{0}={1}", "~{0}", "{0}", "={1}", "{0}x={1}", "{1}", "--{0}")
        )
        return form.format(key, value).replace("\0", "")[:5000]

    def idx_words(self) -> list[str]:
        shutil.rmtree(self.run, ignore_errors=True)
        changed = ["data=kmnist", "data.download=false", "data.val_size=20", "data.batch_size=10", "logger=none"]
        return [*TINY[1:], "algo=bp", *changed, "hydra.run.dir=run"]


KINDS = ("checkpoints", "settings", "overrides", "idx", "pictures", "metrics", "status")


def _keys(node: Any, prefix: str = "") -> list[str]:
    """The names of nested settings."""
    if not isinstance(node, dict):
        return [prefix]
    return [key for name, child in node.items() for key in _keys(child, f"{prefix}.{name}" if prefix else name)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=200)
    parser.add_argument("--settings", type=int, default=200)
    parser.add_argument("--others", type=int, default=50, help="of each other kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, help="only this kind; what --out has of the others stays")
    parser.add_argument("--only", type=int, help="only the attempt with this number")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    gc.freeze()  # a collection would copy every page in each fork
    results = json.loads(chosen.out.read_text()) if chosen.kind and chosen.out and chosen.out.exists() else {}
    with TemporaryDirectory() as name:
        fuzz = Fuzz(Path(name).resolve())
        for kind in KINDS if chosen.kind is None else [chosen.kind]:
            count = getattr(chosen, kind, chosen.others)
            results[kind] = attempt_all(fuzz, kind, count, chosen.seed, chosen.only)
            if chosen.out:
                chosen.out.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(1 if any(result["findings"] for result in results.values()) else 0)


def attempt_all(fuzz: Fuzz, kind: str, count: int, seed: int, only: int | None) -> dict[str, Any]:
    """Make all attempts of a kind, or `only` one, printing what it said, and count how they end."""
    began = time.monotonic()
    codes, found = Counter[str](), dict[str, list[int]]()
    slowest, most = 0.0, 0
    numbers = range(count) if only is None else [only]
    for number, (outcome, wrong) in zip(numbers, fuzz.all_attempts(kind, numbers, seed), strict=True):
        codes[str(outcome.code)] += 1
        slowest, most = max(slowest, outcome.seconds), max(most, outcome.peak)
        for what in wrong:
            found.setdefault(what, []).append(number)
        if only is not None:
            print(*outcome, sep="\n")
    print(f"{kind}: {dict(codes)}, {time.monotonic() - began:.0f} s", flush=True)
    for what, which in found.items():
        print(f"{kind}: {what}: {len(which)} times, as in --only {which[0]}", file=sys.stderr)
    return {
        "attempts": sum(codes.values()),
        "seed": seed,
        "exit codes": codes,
        "findings": {what: {"times": len(which), "first": which[:5]} for what, which in found.items()},
        "slowest, s": round(slowest, 2),
        "most memory, MiB": most,
        "seconds": round(time.monotonic() - began),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()

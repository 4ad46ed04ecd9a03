"""Kill runs at random moments, resume them, kill them again, and compare each with one that was never killed.

python tests/tools/kills.py --kills 20 --out results/kills.json
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning
import torch
from same_run import assert_same_run, count_tensors, start

from ffbp.lifecycle.checkpoint import read_checkpoint

# saved often and validated slowly, so that many kills fall into both
COMMON = ["data=digits", "model=mlp", "model.widths=[64,32]", "data.shift=1", "model.input_dropout=0.1"]
COMMON += ["data.eval_batch_size=2", "checkpoint.every_n_steps=2", "trainer.max_epochs=24", "logger=none"]
CASES = {
    "bp": ["algo=bp"],
    "ff": ["algo=ff", "algo.negatives=hard"],
    "ff, sequential": ["algo=ff", "algo.negatives=hard", "algo.order=sequential"],
    "random_features": ["algo=random_features"],
    "feedback": ["algo=feedback"],
}


def kill_and_compare(case: str, kills: int, folder: Path, dice: random.Random) -> list[dict]:
    """Kill a run up to so many times, resuming it in between, let it end, and compare it with an unbroken one.

    Args:
        case: a key of `CASES`.
        kills: how often; less if the run ends before.
        folder: an empty one.
        dice: what chooses the moments.

    Returns:
        for each kill, where it fell.

    Raises:
        AssertionError: where a tensor, a row or a metric differs.
    """
    command = [*COMMON, *CASES[case]]
    whole, broken = folder / "whole", folder / "broken"
    reference = start(folder, *command, "hydra.run.dir=whole")
    asked = time.monotonic()
    wait_for_a_save(reference, whole)
    training = time.monotonic()
    assert reference.wait(300) == 0, reference.stderr
    ready, length = training - asked, time.monotonic() - training

    moments: list[dict] = []
    while len(moments) < kills:
        process = start_or_resume(folder, command)
        building = dice.random() < 0.1
        if building:
            time.sleep(dice.uniform(0, ready))
        else:
            wait_for_a_save(process, broken)
            time.sleep(dice.uniform(0, 1.6 * length / (kills + 1)))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        moments.append({"case": case, "building": building, **traces(broken)})
    last = start_or_resume(folder, command)  # a kill may have come before the run had begun
    assert last.wait(300) == 0, last.stderr
    assert_same_run(whole, broken)
    return moments


def start_or_resume(folder: Path, command: list[str]) -> subprocess.Popen[str]:
    """Go on with the run that is killed again and again, or begin it."""
    begun = (folder / "broken" / ".hydra" / "config.yaml").exists()
    return start(folder, *(["resume=broken"] if begun else [*command, "hydra.run.dir=broken"]))


def wait_for_a_save(process: subprocess.Popen[str], run: Path) -> None:
    """Wait until a run that has been started saves."""
    last = run / "checkpoints" / "last.ckpt"
    before = saved_at(last)
    while saved_at(last) == before and process.poll() is None:
        time.sleep(0.002)


def saved_at(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def traces(run: Path) -> dict:
    """What a kill has left: the step of the last save, and whether it fell into one."""
    last = run / "checkpoints" / "last.ckpt"
    step = read_checkpoint(last)["global_step"] if last.exists() else None
    return {"saved step": step, "during a save": any(run.glob("checkpoints/.*.new"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each case")
    parser.add_argument("--each", type=int, default=10, help="kills of one run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    dice = random.Random(chosen.seed)
    moments: list[dict] = []
    different: list[str] = []
    runs, tensors = 0, 0
    for case in CASES:
        left = chosen.kills
        while left > 0:
            with TemporaryDirectory() as name:
                folder = Path(name)
                try:
                    fallen = kill_and_compare(case, min(chosen.each, left), folder, dice)
                    moments, left = moments + fallen, left - len(fallen)
                except AssertionError as error:
                    different.append(f"{case}: {error}")
                    print(different[-1], file=sys.stderr)
                    left = 0
                for path in folder.glob("broken/checkpoints/[bl]*t.ckpt"):
                    tensors += count_tensors(read_checkpoint(path))
            runs += 1
            print(
                f"{case}: {len(moments)} kills, {runs} runs, {tensors} tensors, {len(different)} differences",
                flush=True,
            )
    result = {
        "command": f"python tests/tools/kills.py --kills {chosen.kills} --seed {chosen.seed}",
        "kills": len(moments),
        "of each": dict(Counter(moment["case"] for moment in moments)),
        "runs": runs,
        "differences": different,
        "tensors compared": tensors,
        "during a save": sum(moment["during a save"] for moment in moments),
        "before training": sum(moment["building"] for moment in moments),
        "moments": moments,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
    if chosen.out:
        chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()

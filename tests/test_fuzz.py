"""Spoiled files and words get a result, or one line and an exit code; many more of them by hand.

python tests/tools/fuzz.py --checkpoints 5000 --settings 5000 --others 1000
"""

import json
import subprocess
import sys

from conftest import ROOT


def test_whatever_is_spoiled_gets_an_answer_and_nothing_else_is_touched(tmp_path):
    words = ["--checkpoints", "50", "--settings", "50", "--others", "8", "--seed", "1000"]
    fuzz = [sys.executable, str(ROOT / "tests" / "tools" / "fuzz.py"), *words, "--out", "fuzz.json"]
    done = subprocess.run(fuzz, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    counted = json.loads((tmp_path / "fuzz.json").read_text()).values()
    assert sum(kind["attempts"] for kind in counted) == 140

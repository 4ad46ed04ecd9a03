"""Runs with drawn settings, killed at drawn moments and resumed, end as if they had not been; many more by hand.

python tests/tools/resumes.py --cases 200
"""

from collections import Counter
from contextlib import suppress
from dataclasses import replace

import pytest
import resumes
from drawn_runs import draw_case
from warm import Warm


@pytest.mark.parametrize("number", range(1000, 1006))
def test_a_drawn_run_that_is_killed_and_resumed_ends_as_if_it_had_not_been(number, warm_process: Warm):
    case = draw_case(number)
    case = replace(case, words=[word for word in case.words if word != "trainer=ddp"])  # which takes ten seconds
    print(f"python tests/tools/resumes.py --case '{case}'")
    with suppress(resumes.Refused):  # in one line, and nothing is left: see Killed.train_whole
        resumes.examine(case, warm_process, Counter())

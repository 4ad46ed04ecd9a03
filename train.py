"""Train an algorithm on a model and test it.

python train.py algo=ff trainer.max_epochs=100
python train.py -m algo=bp,ff seed=0,1,2
python train.py resume=logs/ff/2026-01-01_12-00-00-000000
"""

import sys

from ffbp.command_line import compose_and_run, exit_code_of
from ffbp.signals import SIGNALS
from ffbp.start import resume_run, run_job, start_run

if __name__ == "__main__":
    if any(word.startswith("resume=") and word not in ("resume=", "resume=null") for word in sys.argv[1:]):
        SIGNALS.listen()
        sys.exit(exit_code_of(lambda: resume_run(sys.argv[1:]), debug="debug=true" in sys.argv))
    compose_and_run(start_run, run_job, "train")

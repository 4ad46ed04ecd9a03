"""Train an algorithm on a model and test it: the same as `ffbp train`.

python train.py algo=ff trainer.max_epochs=100
python train.py -m algo=bp,ff seed=0,1,2
python train.py resume=logs/ff/2026-01-01_12-00-00-000000
"""

from ffbp.cli.commands import main  # Hydra's completion for bash looks for the word @hydra.main in this file

if __name__ == "__main__":
    main("train")

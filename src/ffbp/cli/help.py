"""What `train --help` prints: this program's own commands and choices, and not Hydra's page."""

from shutil import get_terminal_size
from textwrap import fill

from ffbp.files import CONF, PROGRAM

PAGE = """\
Train a learning rule on a network, test it, and keep everything in a directory.

  {train} algo=ff data=digits        one run
  {train} -m algo=bp,ff seed=0,1,2   a sweep: a run for each combination
  {train} resume=<run directory>     go on with an interrupted run, or
                                             train longer: trainer.max_epochs=20
  {train} algo=ff --cfg job          show all settings, train nothing

Choices, as algo=ff:
{choices}

Keys, with examples; --cfg job shows them all:
  seed=1                         weights, order of the images, negatives
  trainer.max_epochs=20          so for all arguments of Lightning's Trainer
  trainer.precision=bf16-mixed   also trainer.accelerator=cpu, trainer.devices=2
  algo.optimizer.lr=0.01         also .weight_decay=1e-4, .name=sgd,
                                 .name=torch.optim.NAdam
  'model.widths=[500,500]'       hidden layers; the quotes are for the shell
  data.batch_size=50             also data.val_size, data.shift, data.download
  threads=1                      auto: OMP_NUM_THREADS, else by model and batch
  checkpoint.every_n_steps=100   save within epochs too
  checkpoint.best=latest         test the last epoch, not that of the best val/acc
  compile=true                   torch.compile the training step
  hydra.run.dir=mine             the run's directory; a sweep's: hydra.sweep.dir
  hydra/launcher=joblib          jobs of a sweep beside each other
  hydra/sweeper=optuna           a search: 'algo.optimizer.lr=interval(a,b)'
  paths.data_dir=/data           the images'; else FFBP_DATA_DIR, or data
  'trust=[package]'              with resume=: whose classes it may name
  debug=true                     tracebacks in place of one line

Exit codes: 0 done, 1 unexpected, or jobs of a sweep are not finished,
2 settings, 3 data, 4 checkpoint, 5 a NaN or infinite loss, 6 the machine
(device, memory, disk), 130 after Ctrl-C, 143 after SIGTERM: both save first.

--hydra-help shows the options of Hydra, which composes the settings.
"""

GROUPS = {
    "algo": "",
    "model": "",
    "data": "",
    "trainer": "",
    "callbacks": "",
    "logger": "",
    "experiment": "",
    "sweep": "+",
}
"""Folders of conf/ that one chooses from, and what stands before them on the command line."""


def show_help() -> None:
    """Print the page."""
    width = min(get_terminal_size().columns, 80)
    lists = {
        f"{sign}{group}=": sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group, sign in GROUPS.items()
    }
    choices = [
        fill(
            ", ".join(names), width, initial_indent=f"  {group:13}", subsequent_indent=" " * 15, break_on_hyphens=False
        )
        for group, names in lists.items()
    ]
    print(PAGE.format(train=PROGRAM.format("train"), choices="\n".join(choices)), end="")

"""`hydra/sweeper=optuna`: each job of a sweep is a trial, whose settings Optuna draws in view of the earlier ones.

Hydra finds plugins in `hydra_plugins`, and imports all of them whenever it starts; so Optuna and our own modules are
imported once a sweep begins. The published hydra-optuna-sweeper (1.3.0) needs an Optuna below 3.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

STUDY = "study.journal"  # in the sweep's directory; Optuna's JournalStorage, and optuna-dashboard, read it


class OptunaSweeper(BasicSweeper):
    """Look for the settings that give the best validation accuracy.

    Args:
        n_trials: how many there are to be in all.
        n_jobs: how many are given to the launcher at a time.
        seed: of the sampler. What a trial tries depends on this seed, its number and the trials before it, and not on
            when the sweep was interrupted.
        params: settings as on the command line, which has precedence.
    """

    def __init__(self, n_trials: int, n_jobs: int, seed: int, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.n_trials, self.n_jobs, self.seed = n_trials, n_jobs, seed

    def sweep(self, arguments: list[str]) -> None:
        """Do the trials that are left, and say which of all is the best.

        Raises:
            ConfigError: if a range is none, Optuna is missing, or the directory has the study of another search.
            CheckpointError: if the study's file is damaged.
        """
        from ffbp.lifecycle.directory import RunDirectory
        from ffbp.lifecycle.job import job_folder, standing
        from ffbp.lifecycle.sweep import SweepStart
        from ffbp.processes import SIGNALS

        assert self.hydra_context is not None and self.launcher is not None and self.config is not None  # noqa: PT018
        self._check(self.config)
        from optuna.trial import TrialState

        parser = OverridesParser.create(self.hydra_context.config_loader)
        parts = parser.parse_overrides([*self._parse_config(), *arguments])
        by_name = {part.get_key_element(): part for part in parts}  # the last one counts
        space = {name: search_space(part) for name, part in by_name.items() if part.is_sweep_override()}
        fixed = [str(part.input_line) for name, part in by_name.items() if name not in space]
        path = Path(self.config.hydra.sweep.dir)
        study = open_study(path / STUDY, space, fixed)
        begun: set[int] = set()
        while trials := self._next_trials(study, space, begun):
            begun |= {trial.number for trial in trials}
            jobs = [(*fixed, *drawn(trial)) for trial in trials]
            if SweepStart.progress is not None:
                SweepStart.progress.folders = [job_folder([*fixed, *drawn(trial)]) for trial in study.trials]
            once = list(dict.fromkeys(jobs))  # two trials may be the same
            returned = self.launcher.launch(once, initial_job_idx=trials[0].number)
            if SIGNALS.received:  # the trials stay open, for the next time
                return
            values = {job: done.return_value for job, done in zip(once, returned, strict=True)}
            for trial, job in zip(trials, jobs, strict=True):
                if math.isfinite(values[job]):
                    study.tell(trial.number, values[job])
                elif standing(RunDirectory(path / job_folder(job))).state == "failed":
                    study.tell(trial.number, state=TrialState.FAIL)
                # else it was killed, and stays open
        print(summary(study))

    def _check(self, config: DictConfig) -> None:
        """Raise a ConfigError if there can be no search."""
        from ffbp.errors import ConfigError

        for name, value, least in (("n_trials", self.n_trials, 1), ("n_jobs", self.n_jobs, 1), ("seed", self.seed, 0)):
            if type(value) is not int or value < least:
                raise ConfigError(f"hydra.sweeper.{name}={value}: a whole number of {least} or more expected.")
        if config.data.get("val_size") == 0 or config.trainer.get("limit_val_batches") == 0:
            raise ConfigError("hydra/sweeper=optuna: looks for the best validation accuracy; set data.val_size.")
        try:
            import optuna
        except ImportError as error:
            raise ConfigError(f"hydra/sweeper=optuna: needs Optuna ({error}); pip install 'ffbp[sweep]'.") from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def _next_trials(self, study: "Study", space: Mapping[str, "BaseDistribution"], begun: set[int]) -> list[Any]:
        """Trials that an earlier sweep has begun, then new ones: as many as run at a time, or none if all is done."""
        import numpy as np
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        left = [trial for trial in study.get_trials(states=[TrialState.RUNNING]) if trial.number not in begun]
        for trial in (trial for trial in left if trial.params.keys() != space.keys()):  # killed while it was drawn
            study.tell(trial.number, state=TrialState.FAIL)
        trials: list[Any] = [trial for trial in left if trial.params.keys() == space.keys()][: self.n_jobs]
        while len(trials) < self.n_jobs and (number := len(study.trials)) < self.n_trials:
            [seed] = np.random.SeedSequence([self.seed, number]).generate_state(1)
            study.sampler = TPESampler(seed=int(seed))  # a new one for each trial, as if the sweep began here
            trials.append(study.ask(dict(space)))
        return trials


def search_space(part: Override) -> "BaseDistribution":
    """What Optuna draws from for a word of the command line, in Hydra's grammar of sweeps.

    Returns:
        for an interval, the numbers in it, on a logarithmic scale if it has the tag log; for a range, its numbers; for
        a choice, its texts.

    Raises:
        ConfigError: if there is nothing to draw from.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    from ffbp.errors import ConfigError

    value: Any = part.value()
    if part.is_choice_sweep():
        texts = list(dict.fromkeys(part.sweep_string_iterator()))
        if not texts:
            raise ConfigError(f"{part.input_line}: nothing to choose from.")
        return CategoricalDistribution(sorted(texts) if getattr(value, "shuffle", False) else texts)
    log = value.tags == {"log"}
    if value.tags and (part.is_range_sweep() or not log):
        raise ConfigError(f"{part.input_line}: the only tag there is: tag(log,interval(least,most)).")
    if part.is_range_sweep():
        numbers = [float(text) for text in part.sweep_string_iterator()] if value.step else []
        if not numbers:
            raise ConfigError(f"{part.input_line}: range(start,stop,step) expected, with at least one number.")
        low, high, step = min(numbers), _rounded(max(numbers)), abs(value.step)
        whole = all(type(number) is int for number in (value.start, value.stop, value.step))
    else:
        low, high, step, whole = value.start, value.end, None, type(value.start) is int
        if not (math.isfinite(low) and math.isfinite(high) and low < high) or (log and low <= 0):
            above = ", above 0 for a logarithmic scale" if log else ""
            raise ConfigError(f"{part.input_line}: interval(least,most) expected, least first{above}.")
    if whole:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def open_study(path: Path, space: Mapping[str, "BaseDistribution"], fixed: Sequence[str]) -> "Study":
    """Open the study of a sweep, or begin it; `fixed` are the words that all trials have in common.

    Raises:
        CheckpointError: if its file is damaged.
        ConfigError: if nothing is to be searched for, or the file has the study of another search.
    """
    import optuna
    from optuna.distributions import distribution_to_json
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    from ffbp.errors import CheckpointError, ConfigError
    from ffbp.files import write_bytes
    from ffbp.lifecycle.job import NOT_OF_THE_RUN

    if not space:
        raise ConfigError(
            "hydra/sweeper=optuna: nothing to search; add such as 'algo.optimizer.lr=interval(0.01,0.1)'."
        )
    if path.is_symlink():
        raise CheckpointError(f"{path}: is a link; choose another hydra.sweep.dir.")
    path.with_name(f"{STUDY}.lock").unlink(missing_ok=True)  # of a process that was killed: the whole sweep is locked
    if path.is_file() and not (content := path.read_bytes()).endswith(b"\n"):
        write_bytes(path, content[: content.rfind(b"\n") + 1])  # without the line that was being written
    words = sorted(word for word in fixed if not NOT_OF_THE_RUN.match(word))
    here = {"fixed": words, "space": {name: distribution_to_json(part) for name, part in sorted(space.items())}}
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(storage=storage, study_name="sweep", direction="maximize", load_if_exists=True)
        there = study.user_attrs.get("search")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); choose another hydra.sweep.dir.") from error
    if there is None and not study.trials:
        study.set_user_attr("search", here)
    elif there != here:
        raise ConfigError(f"{path}: a search with other settings or ranges; choose another hydra.sweep.dir.")
    return study


def drawn(trial: "FrozenTrial") -> list[str]:
    """The words of the command line that are a trial's own."""
    return [f"{name}={_rounded(value) if isinstance(value, float) else value}" for name, value in trial.params.items()]


def summary(study: "Study") -> str:
    """How many trials there are, and the best of them."""
    from optuna.trial import TrialState

    failed = len(study.get_trials(states=[TrialState.FAIL]))
    counts = f"{STUDY}: {len(study.trials)} trials{f', {failed} failed' if failed else ''}"
    if not study.get_trials(states=[TrialState.COMPLETE]):
        return counts
    best = study.best_trial
    return f"{counts}; the best is number {best.number}, val/acc {best.value:.4f} by {' '.join(drawn(best))}"


def _rounded(value: float) -> float:
    """A number to six digits, as it stands on a job's command line."""
    return float(f"{value:.6g}")

"""Runs to draw at random: what their command lines set, and when they are killed."""

import json
import signal
from dataclasses import asdict, dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

LEFT = None  # as it is by default

ANY_RULE = {
    "seed": [LEFT, 1],
    "data.batch_size": [LEFT, LEFT, 20, 200, 300],  # the last two leave a rest within the limits below
    "data.eval_batch_size": [LEFT, 50, 2],  # of two images: most of the time goes by in validation and test
    "data.val_size": [LEFT, LEFT, LEFT, 0],
    "data.shift": [LEFT, LEFT, 1],
    "checkpoint.every_n_steps": [LEFT, 1, 2, 3, 5, 7],
    "trainer.precision": [LEFT, LEFT, LEFT, LEFT, "64-true", "bf16-mixed", "bf16-true"],
    "trainer.max_epochs": [1, 2, 3, 4],
    "trainer.max_steps": [LEFT, LEFT, LEFT, LEFT, 3, 8, 10, 16, 1000],
    "trainer.max_time": [*[LEFT] * 24, "00:00:10:00"],
    "trainer.limit_train_batches": [5, 7, 8, 12],
    "trainer.limit_val_batches": [LEFT, LEFT, 2, 0.5, 0],
    "trainer.limit_test_batches": [LEFT, 2],
    "trainer.check_val_every_n_epoch": [LEFT, LEFT, 2, 3],
    "+trainer.val_check_interval": [LEFT, LEFT, LEFT, 0.5, 3],
    "trainer": [*[LEFT] * 24, "ddp"],
    "algo.optimizer.name": [LEFT, LEFT, "sgd", "momentum", "nesterov", "adamw"],
    "algo.optimizer.weight_decay": [LEFT, LEFT, 1e-4],
    "algo.schedule": [LEFT, "constant", "cosine", "onecycle"],
}
STOPPED_EARLY = {
    "callbacks": ["early_stop"],
    "callbacks.early_stop.patience": [0, 1, 2],
    "+callbacks.early_stop.min_delta": [LEFT, 0.2],
    "+callbacks.early_stop.stopping_threshold": [LEFT, LEFT, 0.3],
    "+callbacks.early_stop.check_on_train_epoch_end": [LEFT, LEFT, "true"],
    "callbacks.early_stop.monitor": [LEFT, LEFT, "train/acc"],
}
ONE_LOSS = {
    "trainer.accumulate_grad_batches": [LEFT, LEFT, 2, 3],
    "trainer.gradient_clip_val": [LEFT, LEFT, 0.5],
}
RULES: list[dict[str, list[Any]]] = [
    {"algo": ["bp"], **ONE_LOSS},
    {"algo": ["random_features"], **ONE_LOSS},
    {"algo": ["feedback"], **ONE_LOSS},
    *[
        {
            "algo": ["ff"],
            "algo.negatives": [LEFT, "uniform", "hybrid", "all", "noise"],
            "algo.order": [LEFT, "sequential"],
            "algo.readout_share": [LEFT, LEFT, 0.4],
            "algo.peer_normalization": [LEFT, LEFT, "hinton", "port"],
            "algo.objective": [LEFT, LEFT, "logistic"],
            "algo.optimizer.lr": [*[LEFT] * 5, "[0.003,0.002]"],  # for two layers
        }
    ]
    * 2,
]
DENSE = {
    "model": ["mlp"],
    "model.widths": ["[24]", "[32,16]", "[16,16,8]"],
    "model.activation": [LEFT, LEFT, "tanh", "sigmoid"],
    "model.batch_norm": [LEFT, LEFT, "true"],
    "model.input_dropout": [LEFT, 0.1],
    "model.dropout": [LEFT, 0.2],
}
SMALL_CONV = {
    "model": ["conv"],
    "model.channels": ["[4,8]"],
    "model.kernel_sizes": ["[5,3]"],
    "model.strides": ["[2,2]"],
    "model.dropout": [LEFT, 0.2],
}
SMALL_LOCAL = {"model": ["local"], "model.channels": ["[4,4]"], "model.kernel_sizes": ["[10,2]"]}
SMALL_LOCAL |= {"model.strides": ["[6,1]"]}
MODELS = [*[DENSE] * 7, *[SMALL_CONV] * 2, {"model": ["cnn"]}, SMALL_LOCAL]


@dataclass(frozen=True)
class Kill:
    """A signal, and its moment: `share` percent of the time that passes after `when` at most."""

    when: str  # start; save: after one; in save: while one is written; test: after the training
    share: int
    number: int = signal.SIGKILL


@dataclass(frozen=True)
class Case:
    """A run to train, the kills it meets, and by how many epochs it is extended then, with the kills it meets there."""

    words: list[str]
    kills: list[Kill]
    more: int = 0
    kills_after: list[Kill] = ()

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> "Case":
        """What `str` has made of a case."""
        told = json.loads(text)
        kills = {name: [Kill(**kill) for kill in told.pop(name)] for name in ("kills", "kills_after")}
        return cls(**told, **kills)

    @property
    def epochs(self) -> int:
        """How many it is to train at first."""
        return int(next(word for word in self.words if word.startswith("trainer.max_epochs=")).split("=")[1])


def words_of(*tables: dict[str, list[Any]]) -> st.SearchStrategy[list[str]]:
    """Command lines that set each key of some tables to one of its values."""
    table = {key: values for table in tables for key, values in table.items()}
    return st.fixed_dictionaries({key: st.sampled_from(values) for key, values in table.items()}).map(
        lambda chosen: [f"{key}={value}" for key, value in chosen.items() if value is not LEFT]
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a case; one in four may stop early, and one in three is extended."""
    rule, model = draw(st.sampled_from(RULES)), draw(st.sampled_from(MODELS))
    early = draw(st.sampled_from([{}, {}, {}, STOPPED_EARLY]))
    words = draw(words_of(rule, model, ANY_RULE, early))
    words = ["data=digits", *words, "trainer.accelerator=cpu"]
    asked = st.builds(Kill, st.sampled_from(["save", "in save", "test"]), st.integers(0, 99), st.sampled_from([15, 2]))
    killed = st.builds(Kill, st.sampled_from(["start", "save", "save", "in save", "test"]), st.integers(0, 99))
    kill = st.one_of(killed, killed, killed, asked)
    more = draw(st.sampled_from([0, 0, 1, 2]))
    kills_after = draw(st.lists(kill, max_size=2)) if more else []
    return Case(words, draw(st.lists(kill, min_size=1, max_size=4)), more, kills_after)


def draw_case(number: int) -> Case:
    """Draw a case, the same one for the same number and revision."""
    drawn: list[Case] = []

    @seed(number)
    @settings(max_examples=2, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(cases())
    def collect(case: Case) -> None:
        drawn.append(case)

    collect()
    return drawn[-1]  # the first is always the simplest of all

"""Several seeds trained at once take the steps of each trained alone, draws included."""

import json

import lightning.pytorch as pl
import pytest
import torch
from conftest import settings
from test_examples import example

from ffbp.build import build
from ffbp.errors import ConfigError
from ffbp.lifecycle import train as run

SEEDS = (3, 0)
SHORT = ["data.batch_size=200", "trainer.max_epochs=1", "threads=1"]  # 7 steps, the last with fewer images
CASES = {
    "bp": ["algo=bp", "data.shift=1", "model.input_dropout=0.2"],
    "bp, batch norm": ["algo=bp", "model.batch_norm=true", "algo.optimizer.name=nesterov"],
    "ff": ["algo=ff"],
    "paper_ff": ["experiment=paper_ff"],
    "ff, three layers": ["algo=ff", "model.widths=[40,30,20]", "algo.optimizer.lr=[1e-3,3e-3,2e-3]"],
    "ff, hybrid": ["algo=ff", "algo.negatives=hybrid", "model.widths=[30]"],
    "ff, blend": ["algo=ff", "algo.negatives=blend", "model.widths=[30]"],
    "ff, uniform, peers": ["algo=ff", "algo.negatives=uniform", "algo.peer_normalization=hinton"],
    "local_loss": ["algo=local_loss", "model.widths=[40,30]"],
}


class Weights(pl.Callback):
    """Note parameters and buffers after each step."""

    def on_train_start(self, trainer, pl_module):
        Weights.found = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        Weights.found.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})


def alone(directory, words, seed, precision):
    """What the framework's run has after each of its steps."""
    chosen = settings("model=mlp", *words, *SHORT, f"seed={seed}", f"trainer.precision={precision}")
    chosen["callbacks"] = {"weights": {"_target_": f"{Weights.__module__}.Weights"}}
    run.train(chosen, directory, bar=False)
    return Weights.found


def together(*words, seeds=SEEDS):
    chosen = settings("model=mlp", *words, *SHORT)
    return example("seeds_at_once").SeedsAtOnce(chosen, build("data", chosen["data"], seed=0), seeds)


def assert_equal_each_alone(words, directory, steps, precision, **tolerance):
    expected = [alone(directory / str(seed), words, seed, precision) for seed in SEEDS]
    assert len(expected[0]) == 7
    training, reached = together(*words), []
    training.take_step, plain_step = lambda batches: (plain_step(batches), note()), training.take_step

    def note():
        reached.append(
            [{name: tensor.clone() for name, tensor in rule.state_dict().items()} for rule in training.rules]
        )

    training.train_epoch(0)
    for now, *then in list(zip(reached, *expected, strict=True))[:steps]:
        torch.testing.assert_close(now, then, **tolerance)


@pytest.fixture
def in_double():
    torch.set_default_dtype(torch.double)
    yield
    torch.set_default_dtype(torch.float)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of operations that vmap runs seed by seed
@pytest.mark.parametrize("case", CASES)
def test_seeds_together_equal_each_alone(case, in_double, tmp_path):
    assert_equal_each_alone(CASES[case], tmp_path, 7, "64-true", rtol=1e-9, atol=1e-10)


SINGLE = {"bp": ["algo=bp", "algo.optimizer.name=momentum"], "paper_ff": ["experiment=paper_ff"]}


@pytest.mark.parametrize("case", SINGLE)
def test_so_they_do_in_single_precision_for_the_first_steps(case, tmp_path):
    assert_equal_each_alone(SINGLE[case], tmp_path, 4, "32-true", rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "words", [["model.dropout=0.2"], ["algo=ff", "algo.negatives=noise", "model.input_dropout=0.2"], ["algo=feedback"]]
)
def test_what_cannot_be_equal_is_refused(words):
    with pytest.raises(ConfigError, match="several seeds at once"):
        together(*words)


def test_it_runs_as_a_command(warm):
    words = ["algo=ff", "data=digits", "data.batch_size=200", "trainer.max_epochs=2", "trainer=cpu"]
    script = warm(*words, "seeds=4,2", script="examples/seeds_at_once.py")
    single = warm(*words, "seed=2", "hydra.run.dir=one")
    assert script.wait() == 0, script.stderr
    assert single.wait() == 0, single.stderr
    found = json.loads(script.stdout)["seeds"]
    assert [one["seed"] for one in found] == [4, 2]
    alone = json.loads((warm.folder / "one" / "metrics.json").read_text())
    for name in ("val/acc", "test/acc", "test/acc_goodness"):
        assert found[1][name] == pytest.approx(alone[name], abs=0.011)  # rounding may turn two of 200 images


@pytest.mark.parametrize("word", ["seeds=1,", "trainer.max_steps=5", "algo=nothing"])
def test_a_command_that_cannot_be_is_refused_in_one_line(word, warm):
    script = warm("data=digits", word, script="examples/seeds_at_once.py")
    assert script.wait() == 2
    assert script.stderr.startswith("error: ")
    assert script.stderr.count("\n") == 1

"""A pipeline of processes, each with some layers, ends with the bits of one process."""

import copy

import pytest
import torch
from conftest import settings
from test_examples import example
from torch import distributed, multiprocessing

from ffbp.build import build
from ffbp.errors import ConfigError
from ffbp.lifecycle import train as run
from ffbp.lifecycle.checkpoint import read_checkpoint

SHORT = ["algo=ff", "data.batch_size=300", "trainer.max_epochs=2", "threads=1", "model.widths=[50,40,30]"]
CASES = {
    "uniform": (2, ["algo.negatives=uniform", "model.input_dropout=0.2"]),
    "all, a process for each layer": (3, ["algo.negatives=all", "algo.readout_layers=all", "algo.schedule=cosine"]),
    "hybrid": (2, ["algo.negatives=hybrid", "model.input_dropout=0.2", "algo.optimizer.lr=[1e-3,3e-3,1e-2]"]),
}


def train_part(rank, processes, chosen, folder):
    torch.set_num_threads(1)
    stage = example("pipeline").Stage(chosen, build("data", chosen["data"], seed=chosen["seed"]), rank, processes)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    for epoch in range(2):
        stage.train_epoch(epoch)
    stage.share_weights()
    if rank == 0:
        torch.save(stage.rule.state_dict(), folder / "weights.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("case", CASES)
def test_a_pipeline_ends_with_the_bits_of_one_process(case, tmp_path):
    processes, words = CASES[case]
    chosen = settings(*SHORT, *words)
    multiprocessing.start_processes(
        train_part, (processes, copy.deepcopy(chosen), tmp_path), nprocs=processes, start_method="fork"
    )
    run.train(chosen, tmp_path / "alone", bar=False)
    alone = read_checkpoint(tmp_path / "alone" / "checkpoints" / "last.ckpt")["state_dict"]
    together = torch.load(tmp_path / "weights.pt")
    assert alone.keys() == together.keys()
    for name in alone:
        assert torch.equal(alone[name], together[name]), name


@pytest.mark.parametrize(
    "words",
    [
        ["algo=bp"],
        ["algo=ff"],
        ["algo=ff", "algo.negatives=uniform", "model.dropout=0.1"],
        ["algo=ff", "algo.negatives=uniform", "model.batch_norm=true"],
        ["algo=ff", "algo.negatives=uniform", "algo.order=sequential"],
        ["algo=ff", "algo.negatives=uniform", "model.widths=[20]"],
    ],
)
def test_what_a_pipeline_cannot_do_is_refused(words):
    chosen = settings("model=mlp", *words)
    with pytest.raises(ConfigError, match=r"pipeline|one for each process"):
        example("pipeline").Stage(chosen, build("data", chosen["data"], seed=0), 0, 2)

"""Two processes that share each batch end with the weights of one."""

import pytest
import torch

import ffbp


@pytest.mark.parametrize("algo", ["bp", "ff"])
def test_two_processes_equal_one(algo, command, tmp_path):
    words = [f"algo={algo}", "model=mlp", "model.widths=[32,16]", "data=digits", "data.shift=1", "trainer.max_epochs=2"]
    # not Adam, which makes large steps of gradients that are nothing but rounding
    words += ["algo.optimizer.name=momentum", "algo.optimizer.lr=0.05"]
    one = command(*words, "trainer=cpu", "hydra.run.dir=one", "logger=none")
    two = command(*words, "trainer=ddp", "trainer.accelerator=cpu", "hydra.run.dir=two", "logger=none")
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    weights = [ffbp.load(tmp_path / name).stack.state_dict() for name in ("one", "two")]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-6)


def test_a_sweep_over_processes_is_refused(command):
    refused = command("-m", "seed=0,1", "data=digits", "trainer=ddp", "trainer.accelerator=cpu")
    assert refused.returncode == 2
    assert "one by one" in refused.stderr

"""What tests share: settings as the command line composes them, small trained runs, the real MNIST where it is."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from warm import warm, warm_process  # noqa: F401, fixtures

from ffbp.algorithms import Algorithm
from ffbp.build import build_algorithm
from ffbp.data import Batch, Batches
from ffbp.data.draws import Draws
from ffbp.data.sources import digits
from ffbp.files import CONF
from ffbp.settings import Settings

ROOT = CONF.parent


def settings(*overrides: str) -> Settings:
    """The settings of a command line, on digits unless it says otherwise."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["data=digits", "trainer=cpu", "logger=none", *overrides])
    OmegaConf.update(config, "paths.output_dir", "unused")
    return OmegaConf.to_container(config, resolve=True)


def fresh(*overrides: str, seed: int = 0) -> Algorithm:
    """An untrained algorithm."""
    torch.manual_seed(seed)
    chosen = settings(*overrides)
    return build_algorithm(chosen["algo"], chosen["model"], (1, 28, 28), 10)


def a_batch(size: int = 8) -> Batch:
    """The first digits, with draws of their own."""
    train, _ = digits()
    draws = Draws((0, 0, 0), size, slice(0, size), torch.device("cpu"))
    return Batch(train.images[:size] / 255, train.labels[:size], draws)


def batches(size: int = 50, count: int = 200) -> Batches:
    train, _ = digits()
    return Batches(train.images[:count], train.labels[:count], batch_size=size, shuffle=True)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one of the root scripts as a user does, its working directory aside."""

    def run(*words: str, script: str = "train.py", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / script), *words],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


MNIST = Path(os.environ.get("FFBP_DATA_DIR", ROOT / "data")) / "MNIST" / "raw"

needs_mnist = pytest.mark.skipif(
    not (MNIST / "train-labels-idx1-ubyte").is_file(),
    reason=f"the real MNIST is not in {MNIST}; set FFBP_DATA_DIR to where it is",
)

"""Optimizers: any class of torch.optim trains as it does in plain PyTorch, resumes exactly, or is refused."""

from copy import deepcopy

import lightning.pytorch as pl
import pytest
import torch
from conftest import fresh, settings
from test_resume import Broken
from torch.nn.functional import cross_entropy

from ffbp.algorithms.optimizers import UNUSABLE, schedule_gain
from ffbp.cli.words import with_added_key
from ffbp.errors import CheckpointError, ConfigError
from ffbp.lifecycle import train as run
from ffbp.lifecycle.checkpoint import read_checkpoint
from ffbp.lifecycle.trust import require_trust
from ffbp.settings import TORCH_OPTIMIZERS

TINY = ("algo=bp", "model=mlp", "model.widths=[8]", "trainer.max_epochs=2", "trainer.limit_train_batches=3")
TINY += ("trainer.limit_test_batches=1", "trainer.limit_val_batches=0", "checkpoint.every_n_steps=2")
KEYWORDS = {
    "SGD": {"momentum": 0.8, "dampening": 0.1, "weight_decay": 0.01},
    "NAdam": {"betas": [0.8, 0.95], "weight_decay": 0.01},
    "Adam": {"amsgrad": True, "fused": True},
    "RMSprop": {"centered": True, "momentum": 0.0},
    "Adagrad": {"initial_accumulator_value": 0.1},
    "Rprop": {"etas": [0.4, 1.3]},
    "ASGD": {"t0": 2.0},
}
CLASSES = [name.rpartition(".")[2] for name in TORCH_OPTIMIZERS]


class Note(pl.Callback):
    """Note what the training begins with, and its batches; break off before the fifth."""

    first: dict[str, torch.Tensor]
    batches: dict[int, tuple[torch.Tensor, torch.Tensor]]

    def __init__(self, broken_at: int) -> None:
        self.broken_at = broken_at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        number = trainer.fit_loop.total_batch_idx
        if number == self.broken_at:
            raise Broken
        if number == 0:
            Note.stack, Note.batches = deepcopy(pl_module.stack), {}
        Note.batches[number] = (batch.images.clone(), batch.labels.clone())


def with_optimizer(optimizer: dict, *words: str):
    chosen = settings(*TINY, *words)
    return chosen | {"algo": chosen["algo"] | {"optimizer": optimizer}}


# in double precision those whose states have types of their own
@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "32-true") for name in CLASSES), ("NAdam", "64-true"), ("ASGD", "64-true")]
)
def test_a_class_trains_to_the_bits_of_plain_pytorch_though_it_is_broken_off(name, precision, tmp_path):
    own, schedule = KEYWORDS.get(name, {}), "constant" if name == "Rprop" else "cooldown"
    optimizer = {"_target_": f"torch.optim.{name}", "lr": 0.02, **own}
    chosen = with_optimizer(optimizer, f"algo.schedule={schedule}", f"trainer.precision={precision}")
    note = {"_target_": f"{__name__}.Note", "broken_at": 5}
    with pytest.raises(Broken):
        run.train(chosen | {"callbacks": {"note": note}}, tmp_path, bar=False)
    stack = Note.stack
    run.train(chosen | {"callbacks": {"note": note | {"broken_at": -1}}}, tmp_path, bar=False, resume=True)
    plain = getattr(torch.optim, name)(stack.parameters(), lr=0.02, **own)
    for number in range(6):
        images, labels = Note.batches[number]
        plain.param_groups[0]["lr"] = 0.02 * schedule_gain(schedule, (number + 0.5) / 6)
        plain.zero_grad()
        cross_entropy(stack(images), labels).backward()
        plain.step()
    trained = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["state_dict"]
    for key, weight in stack.state_dict().items():
        assert torch.equal(trained[f"stack.{key}"], weight), key


@pytest.mark.parametrize("name", ["adamw", "momentum", "torch.optim.NAdam", "torch.optim.ASGD"])
@pytest.mark.parametrize("algo", ["ff", "bp"])
def test_rates_and_decays_go_to_their_own_layers(name, algo):
    words = ["algo.optimizer.lr=[0.1,0.2]", "algo.optimizer.weight_decay=[0.0,0.3]", "algo.head.lr=0.05"]
    words += ["algo.head.weight_decay=0.4"]
    if algo == "bp":  # the last number is the head's
        words = ["algo.optimizer.lr=[0.1,0.2,0.05]", "algo.optimizer.weight_decay=[0.0,0.3,0.4]"]
    algorithm = fresh(f"algo={algo}", *words, f"algo.optimizer.name={name}", "model=mlp", "model.widths=[6,5]")
    optimizer = algorithm.configure_optimizers()
    parts = [*algorithm.stack.blocks, algorithm.head if algo == "ff" else algorithm.stack.head]
    kinds = {"adamw": torch.optim.AdamW, "momentum": torch.optim.SGD}
    kind = kinds.get(name) or getattr(torch.optim, name.rpartition(".")[2])
    more = {"momentum": 0.9, "fused": True} if name == "momentum" else {"fused": True} if name == "adamw" else {}
    copies = [deepcopy(part) for part in parts]
    plain = [
        kind(copy.parameters(), lr=lr, weight_decay=decay, **more)
        for copy, lr, decay in zip(copies, (0.1, 0.2, 0.05), (0.0, 0.3, 0.4), strict=True)
    ]
    for _ in range(3):
        for part, copy in zip(parts, copies, strict=True):
            for ours, theirs in zip(part.parameters(), copy.parameters(), strict=True):
                ours.grad = torch.randn_like(ours)
                theirs.grad = ours.grad.clone()
        for each in (optimizer, *plain):
            each.step()
    for part, copy in zip(parts, copies, strict=True):
        for ours, theirs in zip(part.parameters(), copy.parameters(), strict=True):
            assert torch.equal(ours, theirs)


REFUSED = [
    ("algo=ff algo.optimizer.weight_decay=[0.1,0.2]", r"weight_decay=\[0.1, 0.2\]: one number or 1 expected"),
    ("algo=softhebb algo.optimizer.weight_decay=[0.1,-1]", "number expected"),
    ("algo=bp algo.optimizer.weight_decay=[0.1,0.2,0.3]", "weight_decay=.* one number or"),
    ("algo=bp algo.optimizer.rate=3", "rate: no such setting of adam, which takes lr, weight_decay, momentum"),
    ("algo=bp algo.optimizer.name=lion", "'adamw'.* or a class such as torch.optim.NAdam expected"),
    ("algo=bp algo.optimizer.name=torch.optim.NAdam algo.optimizer.beta=3", "beta: no such .* lr, betas, eps"),
    ("algo=bp algo.optimizer.name=torch.optim.NAdam algo.optimizer.betas=3", "cannot be used with these settings"),
    ("algo=bp algo.optimizer.name=torch.optim.SGD algo.optimizer.differentiable=true", "cannot be used with these"),
    ("algo=bp algo.optimizer.name=torch.optim.Rprop algo.optimizer.weight_decay=0.1", "Rprop has none"),
    ("algo=ff algo.optimizer.name=torch.optim.Rprop algo.head.weight_decay=0.1", "and a head's, to 0"),
    ("algo=bp algo.optimizer.name=torch.nn.Linear", "a class of optimizers expected"),
    ("algo=bp algo.optimizer.name=torch.optim.lbfgs.LBFGS", "closure"),
    ("algo=bp algo.optimizer.name=nowhere.Lion", "cannot be imported .*nowhere"),
    *[(f"algo=bp algo.optimizer._target_={name}", reason[:30]) for name, reason in UNUSABLE.items()],
]


@pytest.mark.parametrize(("words", "says"), REFUSED)
def test_an_optimizer_that_cannot_work_is_refused(words, says):
    with pytest.raises(ConfigError, match=says) as refused:
        fresh("model=mlp", *map(with_added_key, words.split()))
    assert "\n" not in str(refused.value)


def test_a_schedule_that_does_not_reach_rprop_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"set algo\.schedule=constant"):
        run.train(settings(*TINY, "algo.optimizer.name=torch.optim.Rprop"), tmp_path, bar=False)
    assert not list(tmp_path.iterdir())


def test_every_class_of_torch_optim_is_usable_or_refused():
    classes = {name for name in torch.optim.__all__ if name[0].isupper()} - {"Optimizer"}
    assert {f"torch.optim.{name}" for name in classes} == {*TORCH_OPTIMIZERS, *UNUSABLE}


TYPED = [
    ("algo.optimizer._target_=torch.optim.NAdam", {"name": "torch.optim.NAdam", "lr": 0.005}),
    ("+algo.optimizer._target_=torch.optim.NAdam", {"name": "torch.optim.NAdam", "lr": 0.005}),
    (
        "algo.optimizer={_target_: torch.optim.Adagrad, lr: 0.01, eps: 1e-9}",
        {"name": "torch.optim.Adagrad", "eps": 1e-9},
    ),
    ("algo.optimizer.name=torch.optim.Adamax algo.optimizer.betas=[0.8,0.9]", {"betas": [0.8, 0.9]}),
    ("algo.optimizer.lr=0.1", {"lr": 0.1, "name": "adam"}),
]


@pytest.mark.parametrize(("typed", "expected"), TYPED)
def test_keys_that_are_in_no_yaml_need_no_plus(typed, expected):
    words = [typed] if "{" in typed else typed.split()
    composed = settings("algo=bp", *map(with_added_key, words))["algo"]["optimizer"]
    assert {key: composed[key] for key in expected} == expected
    assert "_target_" not in composed
    fresh("algo=bp", "model=mlp", *map(with_added_key, words)).configure_optimizers()


@pytest.mark.parametrize("key", ["name", "_target_"])
def test_a_saved_run_may_name_the_optimizers_of_pytorch_and_no_other_class(key):
    def saved(name: object) -> dict:
        return {"algo": {"_target_": "ffbp.algorithms.Backprop", "optimizer": {"lr": 1.0, "name": "adam", key: name}}}

    for name in TORCH_OPTIMIZERS:
        require_trust(saved(name), ())
    for name in ("os.system", "torch.hub.load", "torch.optim.LBFGS", "torch.optim.sgd.SGD", "ffbp.algorithms.Backprop"):
        with pytest.raises(CheckpointError, match=r"refused.*trust=\["):
            require_trust(saved(name), ())
    require_trust(saved("test_optimizers.Strange"), ("test_optimizers",))


class Strange(torch.optim.SGD):
    """Stands for a class of another package."""


def test_a_class_of_another_package_trains(tmp_path):
    metrics = run.train(with_optimizer({"_target_": f"{__name__}.Strange", "lr": 0.1}), tmp_path, bar=False)
    assert metrics["epochs"] == 2

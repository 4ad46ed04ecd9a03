"""Numbers that are none, precisions, and sizes that do not fit: one line with the reason, or right results."""

import re

import formulas
import lightning.pytorch as pl
import pytest
import torch
from conftest import a_batch, fresh, settings
from formulas import gradients_of
from torch import nn

import ffbp
from ffbp.algorithms import Step
from ffbp.callbacks.pictures import first_layer_picture
from ffbp.data import Labelled
from ffbp.data.datamodule import hold_out
from ffbp.errors import ConfigError, NumericError
from ffbp.files import CONF
from ffbp.lifecycle import train as run
from ffbp.lifecycle.checkpoint import read_checkpoint
from ffbp.models import Block
from ffbp.models.local_layer import LocalConv2d

SHORT = ("trainer.max_epochs=2", "trainer.limit_train_batches=5")
MLP = ("model=mlp", "model.widths=[16,8]")


class Overflow(pl.Callback):
    """Let a number go out of range after the last step, where no loss of the training shows it."""

    def __init__(self, what: str) -> None:
        self.what = what

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        block, head = pl_module.stack.blocks[1], pl_module.stack.head
        numbers = {
            "weights": block.affine.weight,
            "running means": block.after[0].running_var,
            "optimizer": trainer.optimizers[0].state[block.affine.weight]["exp_avg_sq"],
            "validation": head.affine.bias,
        }
        if trainer.global_step == 10 and self.what in numbers:
            numbers[self.what].view(-1)[0] = 3e38 if self.what == "validation" else torch.inf

    @torch.no_grad()
    def on_test_start(self, trainer, pl_module):
        if self.what == "test":
            pl_module.stack.head.affine.bias[0] = torch.nan


@pytest.mark.parametrize(
    ("what", "says", "val_size"),
    [
        ("weights", "step 10, epoch 2: .* val/loss, values in layer 1", 200),
        ("weights", "step 10, epoch 2: NaN or infinite values in layer 1", 0),
        ("running means", "NaN or infinite values in layer 1", 0),
        ("optimizer", "NaN or infinite values in exp_avg_sq of layer 1", 200),
        ("validation", "NaN or infinite val/loss. ", 200),
        ("test", "test: NaN or infinite test/loss, values in stack.head.affine.bias", 200),
    ],
)
def test_neither_checkpoint_nor_metrics_come_of_an_overflow_in_the_last_step(what, says, val_size, tmp_path):
    chosen = settings("algo=bp", *MLP, "model.batch_norm=true", *SHORT, f"data.val_size={val_size}")
    chosen["callbacks"] = {"overflow": {"_target_": f"{__name__}.Overflow", "what": what}}
    with pytest.raises(NumericError, match=says) as stopped:
        run.train(chosen, tmp_path, bar=False)
    last = tmp_path / "checkpoints" / "last.ckpt"
    content = read_checkpoint(last)
    assert content["global_step"] == (10 if what == "test" else 5)
    assert all(value.isfinite().all() for value in content["state_dict"].values())
    assert (f"The last good checkpoint is {last}" in str(stopped.value)) == (what != "test")
    assert not (tmp_path / "metrics.json").exists()


def masked(**others) -> ffbp.models.Stack:
    """A perceptron with a buffer that is meant to be infinite."""
    stack = ffbp.models.mlp(**others)
    stack.register_buffer("mask", torch.full((3,), -torch.inf))
    return stack


def test_a_buffer_that_is_infinite_from_the_start_may_be(tmp_path):
    chosen = settings("algo=bp", *MLP, *SHORT)
    chosen["model"]["_target_"] = f"{__name__}.masked"
    assert 0 <= run.train(chosen, tmp_path, bar=False)["test/acc"] <= 1


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
@pytest.mark.parametrize(
    "words",
    [
        ("algo=bp", *MLP, "model.batch_norm=true"),
        ("algo=random_features", *MLP),
        ("algo=feedback", "model=cnn"),
        ("algo=ff", *MLP, "algo.peer_normalization=hinton"),
        ("algo=ff", *MLP, "algo.negatives=hybrid"),
        ("algo=ff", "model=local", "model.channels=[4,6,8]"),
    ],
    ids=str,
)
def test_every_rule_trains_and_predicts_in_any_precision(words, precision, tmp_path):
    prepared = run.prepare(settings(*words, *SHORT, f"trainer.precision={precision}"), tmp_path, bar=False)
    assert prepared.fit()["test/acc"] > 0.05
    images = a_batch(20).images
    assert prepared.algorithm.predict(images).shape == ffbp.load(tmp_path).predict(images).shape == (20,)


def test_a_run_in_bf16_says_so_where_the_processor_has_no_instructions_for_it(tmp_path, monkeypatch):
    def device(precision: str, *, bf16: bool) -> str:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": bf16}, raising=False)
        words = ("algo=bp", *MLP, *SHORT, "trainer=cpu", f"trainer.precision={precision}", "threads=1")
        return run.prepare(settings(*words), tmp_path, bar=False).summary()[2]

    assert device("32-true", bf16=False) == device("bf16-mixed", bf16=True) == "cpu, 1 thread"
    hint = "without instructions for bf16-mixed: trainer.precision=32-true is much faster"
    assert device("bf16-mixed", bf16=False) == f"cpu, 1 thread, {hint}"


RULES = sorted(path.stem for path in (CONF / "algo").glob("*.yaml"))


@pytest.mark.parametrize("model", [formulas.MLP, formulas.CONV], ids=["mlp", "conv"])
@pytest.mark.parametrize("algo", RULES)
def test_a_rule_has_nearly_the_same_gradients_in_bf16_or_refuses_it(algo, model, tmp_path):
    rule, batch = fresh(f"algo={algo}", *model), a_batch(50)
    if rule.against_16_bits:
        with pytest.raises(ConfigError, match=f"bf16-mixed: this rule {rule.against_16_bits}; use 32-true"):
            run.prepare(settings(f"algo={algo}", *model, *SHORT, "trainer.precision=bf16-mixed"), tmp_path, bar=False)
        return
    found = []
    for enabled in (False, True):
        rule.seed_modules(batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            step = Step(batch.labels, sum(rule.losses(batch))) if algo == "ff" else rule.step(batch)
            gradients = step.gradients or gradients_of(rule, step)
        found.append(torch.cat([gradient.float().flatten() for gradient in gradients.values()]))
    if algo != "forward_gradient":  # whose direction is drawn in the precision of the products
        assert torch.cosine_similarity(*found, dim=0) > 0.98


TOO_LARGE = [
    ("model=mlp model.widths=[1000000000000000000]", r"model\.widths=\[1000000000000000000\]"),
    ("model=mlp model.widths=[1000000000000]", r"model\.widths=\[1000000000000\]"),
    ("model=conv model.kernel_sizes=[1000000001,3,3]", r"model\.kernel_sizes=\[1000000001, 3, 3\]"),
]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [(words, 6, f"out of memory with .*{says}") for words, says in TOO_LARGE]
    + [("model=mlp model.batch_norm=true data.batch_size=103", 2, r"data\.batch_size=103: leaves a batch of one")],
)
def test_sizes_that_cannot_be_are_refused_at_the_start(words, code, says, warm):
    refused = warm("algo=ff", "data=digits", *words.split())
    assert refused.wait() == code, refused.stderr
    [line] = refused.stderr.splitlines()
    assert re.match(f"error: {says}", line), line
    assert not list(warm.folder.glob("logs/**/*.yaml"))


def test_a_last_batch_of_one_image_that_is_never_reached_does_no_harm_to_batch_norm(tmp_path):
    chosen = settings("algo=bp", *MLP, "model.batch_norm=true", "data.batch_size=103", *SHORT)
    run.train(chosen, tmp_path, bar=False)


def test_the_only_image_of_a_class_is_trained_on():
    labels = torch.tensor([0, 1, 0, 2, 1, 1, 0, 0])
    kept, held = hold_out(Labelled(torch.arange(8).view(8, 1, 1, 1), labels), 3, 0)
    assert sorted(kept.images.flatten().tolist() + held.images.flatten().tolist()) == list(range(8))
    assert 2 in kept.labels
    assert set(held.labels.tolist()) == {0, 1}
    with pytest.raises(ConfigError, match="0, or 2 to 5 images expected"):
        hold_out(Labelled(torch.zeros(8, 1, 1, 1), labels), 6, 0)


def test_local_fields_are_drawn_as_the_windows_that_they_multiply():
    layer = LocalConv2d(1, 3, (8, 8), kernel_size=4, stride=4)
    image = torch.rand(1, 1, 8, 8)
    windows = image.unfold(2, 4, 4).unfold(3, 4, 4).reshape(4, 1, 1, 4, 4)  # a window for each position
    products = (layer.kernels().view(4, 3, 1, 4, 4) * windows).sum((2, 3, 4))  # (positions, units)
    expected = layer(image)[0].flatten(1).T - layer.bias[:, 0]
    torch.testing.assert_close(products, expected)
    assert first_layer_picture(Block(layer, nn.ReLU()), (1, 8, 8), 5).shape[0] == 3


def test_gradients_of_mixed_precision_are_clipped(tmp_path):
    chosen = settings("algo=bp", "model=mlp", "model.widths=[8]", "trainer.max_epochs=1", "algo.optimizer.name=sgd")
    chosen["trainer"] |= {"precision": "bf16-mixed", "gradient_clip_val": 1e-2, "limit_train_batches": 3}
    run.train(chosen, tmp_path, bar=False)
    before = fresh("algo=bp", "model=mlp", "model.widths=[8]").state_dict()
    after = ffbp.load(tmp_path).state_dict()
    moved = sum((after[name] - before[name]).square().sum() for name in before).sqrt()
    assert 0 < moved <= 3 * 1e-2 * chosen["algo"]["optimizer"]["lr"] * 1.01  # three steps of that length at most

"""SoftHebb against its formulas, written out once more image by image in NumPy, in double precision."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from conftest import a_batch, fresh, settings
from same_run import assert_same_run
from test_ddp import SHARED, TWO, assert_same_measures, assert_same_weights
from test_resume import LIVELY, Broken

import ffbp
from ffbp.errors import ConfigError
from ffbp.lifecycle.train import train

MODELS = {
    "mlp": ("model=mlp", "model.widths=[12,11]"),
    "conv": ("model=conv", "model.channels=[5,6]", "model.kernel_sizes=[3,3]", "model.strides=[2,2]"),
    "local": ("model=local", "model.channels=[5,6]", "model.kernel_sizes=[7,3]", "model.strides=[3,2]"),
}
WORDS = ("algo=softhebb", "algo.temperature=2", "algo.radius=3", "algo.readout_share=0.0")


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def windows(kind: str, affine, x: np.ndarray) -> list[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    """What a layer sees at each position: the position, the window as a vector, and the weights (units, inputs)."""
    w = affine.weight.detach().numpy()
    if kind == "mlp":
        return [((), x.ravel(), w)]
    size, stride, padding = (3, 2, 1) if kind == "conv" else (affine.kernel_size, affine.stride, 0)
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    rows, columns = ((side - size) // stride + 1 for side in x.shape[1:])
    seen = []
    for row in range(rows):
        for column in range(columns):
            window = x[:, row * stride : row * stride + size, column * stride : column * stride + size]
            if kind == "conv":
                seen.append(((row, column), window.ravel(), w.reshape(len(w), -1)))
            else:  # its fields have their channels last
                seen.append(((row, column), window.transpose(1, 2, 0).ravel(), w[row * columns + column].T))
    return seen


def layer(kind: str, affine, images: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The change of a layer's weights, as they lie, and its activities."""
    total, activities = np.zeros(affine.weight.shape), []
    for image in images:
        activity: dict = {}
        for number, (position, x, w) in enumerate(windows(kind, affine, standardised(image))):
            u = w @ x
            y = np.exp(u / 2 - (u / 2).max())
            y /= y.sum()
            y[np.arange(len(u)) != u.argmax()] *= -1
            change = np.stack([y[i] * (x - u[i] * w[i]) for i in range(len(u))])  # (units, inputs)
            if kind == "local":
                total[number] += change.T
            else:
                total += change.reshape(total.shape)
            activity[position] = np.maximum(u - u.mean(), 0)
        shape = tuple(1 + max(place[axis] for place in activity) for axis in range(len(next(iter(activity)))))
        activities.append(np.stack(list(activity.values()), 1).reshape(-1, *shape))
    return total / np.abs(total).max(), activities


@pytest.mark.parametrize("kind", MODELS)
def test_softhebb_equals_its_formulas(kind):
    algorithm, batch = fresh(*WORDS, *MODELS[kind]).double(), a_batch(3)
    batch = batch._replace(images=batch.images.double())
    step = algorithm.step(batch)
    below = list(batch.images.numpy())
    for block in algorithm.stack.blocks:
        change, below = layer(kind, block.affine, below)
        gradient = step.gradients[block.affine.weight].numpy()
        np.testing.assert_allclose(gradient, -change, rtol=1e-6, atol=1e-9)
    features = np.stack([standardised(activity).ravel() for activity in below])
    features = (features - features.mean(0)) / np.sqrt(features.var(0) + 0.01)
    w, b = (parameter.detach().numpy() for parameter in algorithm.head.affine.parameters())
    logits = features @ w.T + b
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    e = (p - np.eye(10)[batch.labels.numpy()]) / 3
    weight, bias = algorithm.head.affine.parameters()
    for found, expected in (
        (step.logits, logits),
        (algorithm.answer(batch.images), logits),
        (step.gradients[weight], e.T @ features),
        (step.gradients[bias], e.sum(0)),
    ):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", [*MODELS, "cnn"])
def test_every_unit_starts_with_weights_as_long_as_the_radius_and_without_a_bias(kind):
    algorithm = fresh(*WORDS, *MODELS.get(kind, ("model=cnn",)))
    for block in algorithm.stack.blocks:
        weight = block.affine.weight
        units = weight.transpose(1, 2).flatten(0, 1) if kind == "local" else weight.flatten(1)
        torch.testing.assert_close(units.norm(dim=1), torch.full((len(units),), 3.0))
        assert not block.affine.bias.any()
    assert not any("bias" in name for name in algorithm.state_dict() if name.startswith("stack"))


def test_a_unit_that_always_wins_comes_to_its_input_at_length_1():
    algorithm, batch = fresh(*WORDS, "model=mlp", "model.widths=[2]").double(), a_batch(1)
    weight = algorithm.stack.blocks[0].affine.weight
    images = batch.images.double().expand(2, -1, -1, -1)  # batch norm wants two
    batch = batch._replace(images=images, labels=batch.labels.expand(2))
    for number in range(3000):
        step = algorithm.step(batch)
        with torch.no_grad():
            weight -= 0.1 * 0.997**number * step.gradients[weight]
    x = standardised(images[0].numpy()).ravel()
    w = weight.detach().numpy()
    found = w[(w @ x).argmax()]
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-3)
    assert found @ x / np.linalg.norm(x) == pytest.approx(1, abs=1e-3)


def test_the_layers_learn_without_labels_and_then_the_read_out_alone(tmp_path):
    words = ("trainer.max_epochs=2", "trainer.limit_train_batches=3", "algo.readout_share=0.5")
    train(settings("algo=softhebb", *MODELS["conv"], *words), tmp_path, bar=False)
    algorithm, batch = ffbp.load(tmp_path), a_batch()
    layers = {block.affine.weight for block in algorithm.stack.blocks}
    for elapsed, expected in ((0.49, layers), (0.5, set(algorithm.head_parameters()))):
        algorithm.elapsed = elapsed
        assert set(algorithm.step(batch).gradients) == expected
    algorithm.elapsed = 0.0
    other = algorithm.step(batch._replace(labels=9 - batch.labels)).gradients
    for parameter, gradient in algorithm.step(batch).gradients.items():
        assert torch.equal(other[parameter], gradient)


def test_pooling_halves_the_maps_of_a_convolution():
    network = fresh("algo=bp", "model=conv", "model.pools=[2,1,4]", "model.strides=[1,2,1]").stack
    assert network.activity_shapes() == [(32, 14, 14), (64, 7, 7), (128, 3, 3)]
    maps = torch.randn(2, 1, 28, 28)
    block = network.blocks[2]
    product = block.product(network.blocks[1](network.blocks[0](maps))).relu()
    padded = torch.nn.functional.pad(product, (1, 1, 1, 1))  # zeros, which relu's maps never fall below
    assert torch.equal(block.after(product)[:, :, 2, 1], padded[:, :, 4:8, 2:6].amax((2, 3)))


@pytest.mark.parametrize("pools", ["[2]", "[3,1,1]", "[0,1,1]", "[2,4,6]"])
def test_a_pool_that_cannot_be_is_refused(pools):
    with pytest.raises(ConfigError, match="pools"):
        fresh("algo=bp", "model=conv", "model.strides=[2,2,4]", f"model.pools={pools}")


def test_a_layer_of_one_unit_is_refused():
    with pytest.raises(ConfigError, match="layer 1 has 1 unit"):
        fresh("algo=softhebb", "model=mlp", "model.widths=[3,1]")


def test_half_precision_which_its_sums_overflow_is_refused():
    trainer = pl.Trainer(max_epochs=1, logger=False, accelerator="cpu")
    trainer.strategy.precision_plugin.precision = "16-mixed"
    with pytest.raises(ConfigError, match=r"precision=16-mixed: softhebb .* bf16-mixed"):
        fresh("algo=softhebb").check_trainer(trainer)


def test_a_list_of_rates_has_one_for_each_layer():
    with pytest.raises(ConfigError, match="2 expected"):
        fresh("algo=softhebb", "model=mlp", "model.widths=[3,3]", "algo.optimizer.lr=[1]")


@pytest.mark.parametrize("batch", [25, 49])  # while the layers learn, and while the read-out does
def test_a_run_broken_off_ends_as_if_it_had_not_been(batch, tmp_path):
    chosen = settings("algo=softhebb", "model=mlp", "model.widths=[32,16]", *LIVELY)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(chosen, whole, bar=False)
    breaking = {"break": {"_target_": "test_resume.BreakAt", "moment": "batch", "number": batch}}
    with pytest.raises(Broken):
        train(chosen | {"callbacks": chosen["callbacks"] | breaking}, broken, bar=False)
    torch.manual_seed(12345)  # what the random state was must not matter
    train(chosen, broken, resume=True, bar=False)
    assert_same_run(whole, broken)


def test_two_processes_equal_one(warm):
    words = ["algo=softhebb", *SHARED, "algo.head.lr=0.01", "algo.readout_share=0.3", "trainer.max_epochs=2"]
    words += ["data.batch_size=102", "data.eval_batch_size=199"]  # leaves small batches
    one = warm(*words, "trainer=cpu", "hydra.run.dir=one")
    two = warm(*words, *TWO, "hydra.run.dir=two")
    assert one.wait() == 0, one.stderr
    assert two.wait() == 0, two.stderr
    assert_same_weights(warm.folder / "one", warm.folder / "two")
    assert_same_measures(warm.folder / "one", warm.folder / "two")

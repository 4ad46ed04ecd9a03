"""The contract that every algorithm passes on every model, and what makes Forward-Forward local."""

import csv
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from conftest import a_batch, fresh, settings
from torch.nn.functional import one_hot

import ffbp
from ffbp.algorithms import ForwardForward
from ffbp.algorithms.forward_forward.goodness import mean_square
from ffbp.data import ImageData
from ffbp.errors import ConfigError
from ffbp.files import CONF
from ffbp.lifecycle import train as run

ALGORITHMS = sorted(path.stem for path in (CONF / "algo").glob("*.yaml"))
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
SHORT = ("trainer.max_epochs=2", "trainer.limit_train_batches=3", "data.batch_size=16")

CANNOT = {("pepita", "cnn")}  # tests/test_rules.py has the reasons

SMALL = dict.fromkeys(("conv", "local"), ("model.channels=[12,11,10]",))
CELLS = [(f"algo={a}", f"model={m}", *SMALL.get(m, ())) for a in ALGORITHMS for m in MODELS if (a, m) not in CANNOT]
each_cell = pytest.mark.parametrize("cell", CELLS, ids=str)


def trained(directory: Path, *overrides: str) -> dict[str, torch.Tensor]:
    run.train(settings(*SHORT, *overrides), directory, bar=False)
    return ffbp.load(directory).state_dict()


@each_cell
def test_contract(cell, tmp_path):
    """It trains, saves, loads without running code, predicts the same after loading, and depends on its seed alone."""
    before = fresh(*cell).state_dict()
    again = trained(tmp_path / "again", *cell)
    metrics = run.train(settings(*SHORT, *cell), tmp_path, bar=False)
    assert 0 <= metrics["test/acc"] <= 1
    assert metrics["epochs"] == 2

    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 6  # batches, however many layers there are
    assert any(not torch.equal(before[name], value) for name, value in content["state_dict"].items())

    loaded = ffbp.load(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], again[name]) for name in loaded)
    other = fresh(*cell, seed=1).state_dict()
    assert not any(torch.equal(before[name], other[name]) for name in before if name.startswith("stack."))

    images = a_batch(20).images
    first, second = ffbp.load(tmp_path), ffbp.load(tmp_path / "checkpoints" / "best.ckpt")
    assert torch.equal(first.predict(images), second.predict(images))
    assert torch.equal(first.predict(images), first.predict((images * 255).round().to(torch.uint8)))
    assert torch.equal(first.predict(images), torch.stack([first.predict(image)[0] for image in images]))


@each_cell
def test_predict_refuses_what_is_no_image(cell):
    model = fresh(*cell)
    with pytest.raises(ValueError, match="shape"):
        model.predict(torch.zeros(2, 1, 27, 28))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        model.predict(torch.full((1, 28, 28), 255.0))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        model.predict(torch.full((1, 28, 28), float("nan")))
    assert model.predict(torch.zeros(0, 28, 28)).shape == (0,)


@pytest.mark.parametrize("model", [("model=mlp", "model.widths=[32,16,8]"), ("model=cnn",)], ids=["mlp", "cnn"])
def test_a_layers_loss_leaves_every_other_layer_alone(model):
    algorithm = fresh("algo=ff", *model)
    groups = {group["name"]: group["params"] for group in algorithm.parameter_groups()}
    owners = ["head", *[f"layer_{k}" for k in range(len(algorithm.stack.blocks))]]
    losses = 0
    for owner, loss in zip(owners, algorithm.losses(a_batch()), strict=True):
        algorithm.zero_grad(set_to_none=True)
        loss.backward()
        losses += 1
        for name, parameters in groups.items():
            for parameter in parameters:
                if name == owner:
                    assert parameter.grad is not None
                else:
                    assert parameter.grad is None or not parameter.grad.any()
        assert any(parameter.grad.any() for parameter in groups[owner])
    assert losses == len(owners)


def plain_losses(algorithm: ForwardForward, batch, false: torch.Tensor) -> list[torch.Tensor]:
    """The layers' losses with no product shared: each labelled image goes through the first layer by itself."""
    neutral = torch.full((len(batch.labels), 10), 0.1)
    sides = []
    for weights in (neutral, one_hot(batch.labels, 10), *(one_hot(wrong, 10) for wrong in false)):
        activity, passed = algorithm.embedding(batch.images, weights.to(batch.images.dtype)), []
        for k, block in enumerate(algorithm.stack.blocks):
            activity = block(activity if k == 0 else algorithm.passes.normalize(activity.detach()))
            passed.append(activity)
        sides.append(passed)
    losses = []
    for k, layer in enumerate(zip(*sides[1:], strict=True)):
        losses.append(algorithm.layer_losses[k](torch.cat(layer), len(batch.labels))[0])
    features = [algorithm.passes.normalize(sides[0][k]).flatten(1) for k in algorithm.readout_layers]
    logits = algorithm.head(torch.cat(features, 1).detach())
    return [torch.nn.functional.cross_entropy(logits, batch.labels), *losses]


SMALL_MODELS = {
    "mlp": ("model=mlp", "model.widths=[32,16]"),
    "cnn": ("model=cnn",),
    "conv": ("model=conv", "model.channels=[4,6,8]"),
    "local": ("model=local", "model.channels=[4,6,8]"),
}


@pytest.mark.parametrize("negatives", ["uniform", "all"])
@pytest.mark.parametrize(
    ("model", "embedding"),
    [(name, embedding) for name in SMALL_MODELS for embedding in ("overlay", "fourier")] + [("conv", "channels")],
)
def test_the_shared_first_product_equals_the_plain_passes(model, embedding, negatives):
    chosen = (*SMALL_MODELS[model], f"algo.label_embedding={embedding}", f"algo.negatives={negatives}")
    algorithm = fresh("algo=ff", *chosen).double()
    torch.nn.init.normal_(algorithm.head.affine.weight)
    batch = a_batch()
    batch = batch._replace(images=batch.images.double())
    shared = list(algorithm.losses(batch))
    plain = plain_losses(algorithm, batch, algorithm.contrast.false_labels(batch._replace(draws=a_batch().draws), None))
    for a, b in zip(shared, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    parameters = list(algorithm.parameters())
    for a, b in zip(
        torch.autograd.grad(sum(shared), parameters), torch.autograd.grad(sum(plain), parameters), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("model", [("model=mlp", "model.widths=[32,16]"), ("model=cnn",)], ids=["mlp", "cnn"])
def test_the_goodness_of_all_labels_equals_that_of_one_label_at_a_time(model):
    algorithm = fresh("algo=ff", *model, "algo.readout_layers=all").eval()
    batch = a_batch()
    together = algorithm.readouts(batch.images)["goodness"]
    for label in range(10):
        activity = algorithm.embedding(batch.images, one_hot(torch.full_like(batch.labels, label), 10).float())
        goodness = torch.zeros(len(batch.labels))
        for k, block in enumerate(algorithm.stack.blocks):
            activity = block(activity if k == 0 else algorithm.passes.normalize(activity))
            goodness = goodness + algorithm.layer_losses[0].goodness(activity)
        torch.testing.assert_close(together[:, label], goodness, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", list(SMALL_MODELS))
def test_label_units_have_a_weight_to_every_unit_of_every_layer_which_learns_with_it(model):
    words = ("algo.label_embedding=units", "algo.label_strength=3", "algo.negatives=uniform")
    algorithm = fresh("algo=ff", *SMALL_MODELS[model], *words).double()
    batch, false = a_batch(), algorithm.contrast.false_labels(a_batch(), torch.zeros(1))[0]
    batch = batch._replace(images=batch.images.double())
    losses = list(algorithm.losses(batch))
    seen = torch.cat([batch.images, batch.images])
    for k, (block, weight) in enumerate(zip(algorithm.stack.blocks, algorithm.embedding.weights, strict=True)):
        added = torch.stack([weight[label] for label in [*batch.labels, *false]])
        activity = block.after(block.product(seen) + 3 * added)
        expected = algorithm.layer_losses[k](activity, len(false))[0]
        torch.testing.assert_close(losses[1 + k], expected)
        own = torch.autograd.grad(losses[1 + k], weight, retain_graph=True)[0]
        torch.testing.assert_close(own, torch.autograd.grad(expected, weight)[0])
        assert own.any()
        for loss in (*losses[: 1 + k], *losses[2 + k :]):
            assert torch.autograd.grad(loss, weight, retain_graph=True, allow_unused=True) == (None,)
        assert weight in set(algorithm.parameter_groups()[k]["params"])
        seen = algorithm.passes.normalize(activity.detach())
    shown = algorithm.embedding(batch.images, one_hot(batch.labels, 10).double())  # what the pictures show
    assert torch.equal(shown[:, :1], batch.images)
    assert torch.equal(shown[:, 1:, 0, 0], 3 * one_hot(batch.labels, 10).double())


def test_under_each_label_and_under_none_label_units_say_what_they_say_alone():
    algorithm = fresh(
        "algo=ff", *SMALL_MODELS["conv"], "algo.label_embedding=units", "algo.readout_layers=all"
    ).double()
    images, blocks = a_batch().images.double(), algorithm.stack.blocks
    for label, together in enumerate(torch.stack(algorithm.goodness(images)).unbind(2)):  # (layers, B)
        seen = images
        for k, (block, weight) in enumerate(zip(blocks, algorithm.embedding.weights, strict=True)):
            activity = block.after(block.product(seen) + weight[label])
            torch.testing.assert_close(together[k], algorithm.layer_losses[k].goodness(activity))
            seen = algorithm.passes.normalize(activity)
    seen = images
    for found, block, weight in zip(algorithm.activities(images), blocks, algorithm.embedding.weights, strict=True):
        activity = block.after(block.product(seen) + weight.mean(0))
        torch.testing.assert_close(found, activity)
        seen = algorithm.passes.normalize(activity)


def test_on_a_dense_layer_label_units_are_the_first_pixels_of_an_overlay():
    words = ("algo=ff", *SMALL_MODELS["mlp"], "algo.label_strength=2")
    overlay, units = (fresh(*words, f"algo.label_embedding={name}").eval() for name in ("overlay", "units"))
    units.stack.load_state_dict(overlay.stack.state_dict())
    first, second = units.embedding.weights
    first.data, second.data = overlay.stack.blocks[0].affine.weight.data[:, :10].T.clone(), torch.zeros(10, 16)
    images = a_batch().images
    images.flatten(1)[:, :10] = 0
    torch.testing.assert_close(units.goodness(images), overlay.goodness(images))


@pytest.mark.parametrize("kind", ["uniform", "blend"])
def test_layers_see_images_divided_by_their_root_mean_square_and_labels_as_bright_as_ever(kind):
    words = ("algo=ff", *SMALL_MODELS["cnn"], f"algo.negatives={kind}")
    plain, normal = fresh(*words).double(), fresh(*words, "algo.normalize_images=true").double()
    images = a_batch().images.double()
    images[0] = 0  # which no number of zero must divide
    lengths = images.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-4)
    for a, b in zip(plain.passes.first(images / lengths), normal.passes.first(images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_all_losses_in_one_backward_pass_give_the_same_gradients_as_one_after_the_other():
    algorithm, batch = fresh("algo=ff", "model.widths=[32,16]", "algo.negatives=uniform"), a_batch()
    for loss in algorithm.losses(batch):
        loss.backward()
    apart = [parameter.grad.clone() for parameter in algorithm.parameters()]
    algorithm.zero_grad()
    sum(algorithm.losses(batch._replace(draws=a_batch().draws))).backward()
    for a, parameter in zip(apart, algorithm.parameters(), strict=True):
        torch.testing.assert_close(a, parameter.grad)


@pytest.mark.parametrize(
    "choice",
    [
        "algo.negatives=uniform",
        "algo.negatives=all",
        "algo.negatives=hybrid",
        "algo.negatives=blend",
        "algo.negatives=noise",
        "algo.peer_normalization=hinton",
        "algo.peer_normalization=port",
        "algo.goodness_per=position",
        "algo.label_strength=4",
        "algo.readout_layers=[0]",
        "algo.objective=logistic",
        "algo.objective=linear",
        "algo.goodness=sum_square",
        "algo.normalization=l2",
        "algo.normalize_images=true",
        "algo.label_embedding=fourier",
        "algo.readout=goodness",
        "algo.readout_layers=all",
        "algo.order=sequential",
        "algo.schedule=cosine",
        "algo.optimizer.name=nesterov",
        "algo.optimizer.lr=[1e-3,1e-2]",
        "model.batch_norm=true",
        "model.activation=tanh",
        "trainer.precision=bf16-mixed",
        "data.shift=2",
    ],
)
def test_every_choice_trains(choice, tmp_path):
    metrics = run.train(settings("algo=ff", "model.widths=[32,16]", *SHORT, choice), tmp_path, bar=False)
    assert metrics["test/acc"] in (metrics.get("test/acc_goodness"), metrics["test/acc_softmax"])


@pytest.mark.parametrize(
    "choice",
    [
        "label_embedding=channels",
        "label_embedding=units",
        "normalization_per=position",
        "goodness_per=position",
        "peer_normalization=hinton",
    ],
)
def test_choices_for_maps_train(choice, tmp_path):
    chosen = settings("algo=ff", *SMALL_MODELS["conv"], *SHORT, f"algo.{choice}", "algo.goodness=sum_square")
    assert 0 <= run.train(chosen, tmp_path, bar=False)["test/acc_goodness"] <= 1


def test_goodness_per_position_is_the_mean_of_every_positions_own_objective():
    algorithm = fresh("algo=ff", *SMALL_MODELS["conv"], "algo.goodness_per=position", "algo.negatives=uniform")
    batch = a_batch()
    positive, negative = ([], [])
    false = algorithm.contrast.false_labels(batch._replace(draws=a_batch().draws), None)[0]
    for labels, activities in ((batch.labels, positive), (false, negative)):
        activity = algorithm.embedding(batch.images, one_hot(labels, 10).float())
        for k, block in enumerate(algorithm.stack.blocks):
            activity = block(activity if k == 0 else algorithm.passes.normalize(activity.detach()))
            activities.append(activity)
    losses = list(algorithm.losses(batch))[1:]
    for loss, real, fake in zip(losses, positive, negative, strict=True):
        gap = real.square().mean(1) - fake.square().mean(1)  # (B, H, W)
        torch.testing.assert_close(loss, torch.log1p(torch.exp(-4 * gap)).mean())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("per", ["layer", "position"])
def test_the_gradient_of_the_goodness_lies_in_memory_as_the_maps_do(per, layout):
    """Where it does not, the derivative of bfloat16 activations takes ten times as long."""
    where = (1, 2, 3) if per == "layer" else (1,)
    maps = torch.randn(4, 3, 5, 5).to(memory_format=layout).bfloat16().requires_grad_()
    activity = maps.relu()
    goodness = mean_square(activity, per)
    torch.testing.assert_close(goodness, activity.detach().float().square().mean(where))
    gradients: list[torch.Tensor] = []
    activity.register_hook(gradients.append)
    goodness.square().sum().backward()
    plain = activity.detach().float().requires_grad_()
    plain.square().mean(where).square().sum().backward()
    torch.testing.assert_close(gradients[0], plain.grad.bfloat16())
    assert gradients[0].stride() == activity.stride()


@pytest.mark.parametrize("per", ["layer", "position"])
def test_by_default_a_layer_hides_from_the_next_what_it_is_judged_by(per):
    passes = fresh("algo=ff", *SMALL_MODELS["conv"], f"algo.goodness_per={per}").passes
    maps = torch.rand(2, 3, 4, 4)
    squares = passes.seen_above(maps).square()
    where = (1, 2, 3) if per == "layer" else (1,)
    torch.testing.assert_close(squares.mean(where), torch.ones_like(squares.mean(where)))
    if per == "layer":  # one factor for an image: nothing else is hidden
        torch.testing.assert_close(squares / squares.mean(where, True), maps.square() / maps.square().mean(where, True))


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        (("negatives=hybrid", "readout=goodness"), "never see a label"),
        (("negatives=noise", "readout=goodness"), "never see a label"),
        (("negatives=hybrid", "label_embedding=overlay"), "no label is shown"),
        (("negatives=hard", "readout_share=0.2"), "must learn from the start"),
        (("label_embedding=channels",), "first layer is a convolution"),
        (("readout_layers=[2]",), "from 0 to 1"),
        (("readout_layers=[]",), "from 0 to 1"),
        (("readout_layers=[0,0]",), "from 0 to 1"),
    ],
)
def test_what_excludes_each_other_is_refused_with_the_reason(choices, reason):
    with pytest.raises(ConfigError, match=reason):
        fresh("algo=ff", "model.widths=[32,16]", *(f"algo.{choice}" for choice in choices))


class OtherLabels(ImageData):
    """Training images with labels that have nothing to do with them."""

    def train_dataloader(self):
        self.train = self.train._replace(labels=torch.arange(len(self.train.labels)) % 10)
        return super().train_dataloader()


@pytest.mark.parametrize("negatives", ["hybrid", "blend", "noise"])
def test_unsupervised_layers_never_read_a_label(negatives, tmp_path):
    chosen = settings("algo=ff", "model.widths=[32,16]", *SHORT, f"algo.negatives={negatives}")
    run.train(chosen, tmp_path / "true", bar=False)
    chosen["data"]["_target_"] = f"{__name__}.OtherLabels"
    run.train(chosen, tmp_path / "other", bar=False)
    true, other = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("true", "other")
    )
    assert not torch.equal(true["head.affine.weight"], other["head.affine.weight"])
    for name in (name for name in true if name.startswith("stack.")):
        assert torch.equal(true[name], other[name])


def test_a_readout_share_trains_the_layers_first_and_then_the_head_alone(tmp_path):
    chosen = settings("algo=ff", "model.widths=[32,16]", "algo.negatives=hybrid", "algo.readout_share=0.5", *SHORT)
    run.train(chosen, tmp_path, bar=False)
    algorithm = ffbp.load(tmp_path / "checkpoints" / "last.ckpt")
    assert algorithm.head.affine.weight.any()
    for elapsed, layers, head in ((0.0, True, False), (0.49, True, False), (0.5, False, True), (0.99, False, True)):
        algorithm.elapsed = elapsed
        algorithm.train()
        owners = [owner for owner in (None, 0, 1) if algorithm.plan.learns(owner, elapsed)]
        assert owners == [None] * head + [0, 1] * layers
        algorithm.zero_grad(set_to_none=True)
        for loss in algorithm.losses(a_batch()):
            loss.backward()
        touched = {name.split(".")[0] for name, p in algorithm.named_parameters() if p.grad is not None}
        assert touched == ({"stack"} if layers else {"head"})
    with (tmp_path / "metrics.csv").open() as file:
        measured = [bool(row["ff/layer_1/goodness_pos"]) for row in csv.DictReader(file)]
    assert measured == [True, False]  # layers that rest are not measured, and no old measure is repeated


@pytest.mark.parametrize(("of_head", "expected"), [("null", 0.25), ("0.5", 0.5), ("0", 0.0)])
def test_the_head_has_the_dropout_of_the_model_or_its_own(of_head, expected):
    algorithm = fresh("algo=ff", "model.widths=[32,16]", "model.dropout=0.25", f"algo.head.dropout={of_head}")
    assert algorithm.head.dropout.p == expected
    assert [block.dropout.p for block in algorithm.stack.blocks] == [0.0, 0.25]


def test_bfloat16_agrees_with_single_precision_over_the_first_steps(tmp_path):
    """Twenty batches: losses within 2 %, in spite of products with three significant digits."""
    short = ("model.widths=[128,64]", "trainer.max_epochs=2", "trainer.limit_train_batches=10")
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        chosen = settings("algo=ff", "algo.negatives=uniform", *short, f"trainer.precision={precision}")
        run.train(chosen, tmp_path / precision, bar=False)
        rows = (tmp_path / precision / "metrics.csv").read_text().splitlines()
        names = rows[0].split(",")
        losses[precision] = {
            name: torch.tensor([float(row.split(",")[names.index(name)]) for row in rows[1:]])
            for name in names
            if name.endswith("/loss") and name.startswith(("ff/", "train/"))
        }
    assert len(losses["32-true"]) == 3
    for name, expected in losses["32-true"].items():
        torch.testing.assert_close(losses["bf16-mixed"][name], expected, rtol=0.02, atol=0)


def test_sequential_order_trains_each_layer_in_its_share_alone(tmp_path):
    chosen = settings("algo=ff", "model.widths=[32,16]", "algo.order=sequential", *SHORT)
    states = []

    class Watch(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            self.note(pl_module)

        def on_train_epoch_end(self, trainer, pl_module):
            self.note(pl_module)

        def note(self, module):
            states.append([block.affine.weight.detach().clone() for block in module.stack.blocks])

    Watch.__module__, Watch.__qualname__ = __name__, "Watch"
    globals()["Watch"] = Watch
    chosen["callbacks"] = {"watch": {"_target_": f"{__name__}.Watch"}}
    run.train(chosen, tmp_path, bar=False)
    start, middle, end = states
    assert not torch.equal(start[0], middle[0])
    assert torch.equal(start[1], middle[1])
    assert torch.equal(middle[0], end[0])
    assert not torch.equal(middle[1], end[1])


def test_learning_rates_go_to_their_own_layers():
    algorithm = fresh("algo=ff", "model.widths=[32,16]", "algo.optimizer.lr=[0.1,0.2]", "algo.head.lr=0.3")
    rates = {group["name"]: group["lr"] for group in algorithm.configure_optimizers().param_groups}
    assert rates == {"layer_0": 0.1, "layer_1": 0.2, "head": 0.3}


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_an_untouched_batch_is_what_training_leaves(algo):
    algorithm, batch = fresh(f"algo={algo}", "model=mlp"), a_batch()
    before = batch.images.clone()
    algorithm.readouts(batch.images)
    if isinstance(algorithm, ForwardForward):
        list(algorithm.losses(batch))
    assert torch.equal(batch.images, before)

"""The parts of Forward-Forward against slow references and values worked out by hand."""

import math
from itertools import product

import pytest
import torch
from scipy import ndimage

from ffbp.algorithms.forward_forward.goodness import l2, mean_square, rms, sum_square
from ffbp.algorithms.forward_forward.labels import LabelEmbedding, channels, fourier, overlay
from ffbp.algorithms.forward_forward.negatives import (
    all_negatives,
    blends,
    hard_negatives,
    hybrids,
    region_masks,
    scrambled,
    uniform_negatives,
)
from ffbp.algorithms.forward_forward.objectives import linear, logistic, margin
from ffbp.algorithms.forward_forward.peers import PeerNormalization
from ffbp.algorithms.means import EpochMeans
from ffbp.algorithms.optimizers import make_optimizer, schedule_gain
from ffbp.settings import OptimizerSettings

POSITIVE = [2.5, 0.1, 1.0]
NEGATIVE = [0.5, 3.0, 1.0]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_uniform_negatives_are_never_true_and_all_wrong_labels_are_equally_likely():
    labels = torch.arange(10).repeat(9000)
    wrong = uniform_negatives(labels, 10, torch.rand(len(labels), generator=torch.Generator().manual_seed(0)))
    assert not (wrong == labels).any()
    counts = torch.bincount(wrong[labels == 3], minlength=10)
    assert counts[3] == 0
    assert (counts[torch.arange(10) != 3] - 1000).abs().max() < 150  # 5 standard deviations


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_uniform_negatives_hold_at_both_ends_of_the_random_numbers(uniform):
    labels = torch.arange(10)
    wrong = uniform_negatives(labels, 10, torch.full((10,), uniform))
    assert not (wrong == labels).any()
    assert wrong.min() >= 0
    assert wrong.max() <= 9


def test_hard_negatives_follow_the_probabilities_of_the_wrong_classes():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    count = 40_000
    uniform = torch.rand(count, 4, generator=torch.Generator().manual_seed(0))
    wrong = hard_negatives(torch.zeros(count, dtype=torch.long), probabilities.log().expand(count, 4), uniform)
    shares = torch.bincount(wrong, minlength=4) / count
    assert shares[0] == 0
    torch.testing.assert_close(shares[1:], torch.tensor([0.6, 0.3, 0.1]), atol=0.01, rtol=0)


def test_hard_negatives_are_never_true_even_where_the_head_is_certain():
    labels = torch.arange(10).repeat(100)
    logits = torch.full((1000, 10), -1e4).scatter(1, labels.unsqueeze(1), 1e4)
    for uniform in (torch.rand(1000, 10), torch.full((1000, 10), 1 - 2**-24), torch.zeros(1000, 10)):
        assert not (hard_negatives(labels, logits, uniform) == labels).any()


def test_negatives_need_two_classes():
    with pytest.raises(ValueError, match="2 classes"):
        uniform_negatives(torch.zeros(3, dtype=torch.long), 1, torch.rand(3))
    with pytest.raises(ValueError, match="2 classes"):
        hard_negatives(torch.zeros(3, dtype=torch.long), torch.zeros(3, 1), torch.rand(3, 1))


def test_all_negatives_are_all_but_the_true_label():
    wrong = all_negatives(torch.tensor([0, 3, 9]), 10)
    assert wrong.shape == (9, 3)
    for column, true in zip(wrong.T.tolist(), (0, 3, 9), strict=True):
        assert sorted(column) == [label for label in range(10) if label != true]


def masks(count: int = 2000) -> torch.Tensor:
    return region_masks(torch.rand(count, 28, 28, generator=torch.Generator().manual_seed(0)))


def test_region_masks_are_half_ones_everywhere():
    drawn = masks()
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.01)
    assert (drawn.mean(0) - 0.5).abs().max() < 0.06  # at the border as well: 5 standard deviations


def test_region_masks_are_connected_blobs():
    drawn = masks(200)
    pieces = [ndimage.label(mask)[1] + ndimage.label(1 - mask)[1] for mask in drawn.numpy()]
    specks = torch.rand(200, 28, 28).round().numpy()
    random_pieces = [ndimage.label(mask)[1] + ndimage.label(1 - mask)[1] for mask in specks]
    assert sum(pieces) / len(pieces) < 12
    assert sum(random_pieces) / len(random_pieces) > 100  # what the same count says of unblurred bits
    same = (drawn[:, 1:] == drawn[:, :-1]).float().mean()
    assert same > 0.85


def test_region_masks_equal_repeated_blurs_in_both_directions():
    uniform = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(0))
    blurred = (uniform < 0.5).double()
    for _ in range(6):
        for dim in (1, 2):
            first, last = blurred.narrow(dim, 0, 1), blurred.narrow(dim, -1, 1)
            wide = torch.cat([first, blurred, last], dim)
            size = blurred.shape[dim]
            blurred = sum(weight * wide.narrow(dim, k, size) for k, weight in enumerate((0.25, 0.5, 0.25)))
    assert torch.equal(region_masks(uniform), (blurred > 0.5).float())


def test_a_hybrid_shows_each_image_where_its_mask_says():
    images = torch.rand(3, 2, 4, 4)
    mask = torch.rand(3, 4, 4).round()
    mixed = hybrids(images, mask)
    for k in range(3):
        for row in range(4):
            for column in range(4):
                source = images[k] if mask[k, row, column] else images[k - 1]
                assert torch.equal(mixed[k, :, row, column], source[:, row, column])


def test_a_blend_is_seen_as_an_image_beside_another_through_the_same_weights():
    """As self-contrastive Forward-Forward has it: W x + W x' against W x + W x, of which ours are the halves."""
    images, weights = torch.rand(3, 2, 4, 4, dtype=torch.float64), torch.rand(5, 32, dtype=torch.float64)
    beside = torch.cat([images, images.roll(1, 0)], 1).flatten(1)  # (3, 64): each image, then the previous one
    twice = torch.cat([weights, weights], 1)  # (5, 64)
    torch.testing.assert_close(blends(images).flatten(1) @ weights.T, beside @ twice.T / 2)
    assert torch.equal(blends(images)[0], (images[0] + images[2]) / 2)


def test_scrambled_images_keep_their_histograms_and_lose_their_order():
    images = torch.rand(50, 2, 6, 5)
    noise = scrambled(images, torch.rand(50, 30))
    assert torch.equal(noise.flatten(2).sort(2).values, images.flatten(2).sort(2).values)
    pairs = {tuple(pixel) for pixel in images[0].flatten(1).T.tolist()}
    assert {tuple(pixel) for pixel in noise[0].flatten(1).T.tolist()} == pairs  # colours stay together
    assert not (noise == images).flatten(1).all(1).any()


@pytest.mark.parametrize(("form", "strength"), [("hinton", 0.03), ("port", 0.03 * 2 * 0.1 / 3)])
def test_peer_normalization_takes_the_step_of_its_formula(form, strength):
    peers = PeerNormalization((3,), form, weight=0.03, momentum=0.9)
    product = torch.tensor([[1.0, -2.0, 3.0], [3.0, -4.0, 0.0]], requires_grad=True)
    activity = torch.relu(product)
    peers(product.mean(0), activity.detach()).backward()
    means = [0.9 * 0.5 + 0.1 * 2.0, 0.9 * 0.5, 0.9 * 0.5 + 0.1 * 1.5]  # activity means 2, 0 and 1.5
    torch.testing.assert_close(peers.means, torch.tensor(means))
    expected = [strength * (mean - sum(means) / 3) / 2 for mean in means]  # the silent second unit is pulled up as well
    torch.testing.assert_close(product.grad, torch.tensor([expected, expected]))
    assert product.grad[0, 1] < 0


def test_the_ports_peer_term_is_its_loss():
    """The port minimises the mean of (mean of all - mean of this one)^2, by autograd through the running means."""
    peers = PeerNormalization((4,), "port", weight=0.03, momentum=0.9)
    product = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    running = 0.9 * 0.5 + 0.1 * product.mean(0)  # activity = product: the port's ReLU lets all of the gradient through
    loss = 0.03 * (running.mean() - running).square().mean()
    [expected] = torch.autograd.grad(loss, product)
    [ours] = torch.autograd.grad(peers(product.mean(0), product.detach()), product)
    torch.testing.assert_close(ours, expected)


def test_peers_that_share_weights_share_a_mean():
    peers = PeerNormalization((2, 1, 1), "hinton", weight=1.0, momentum=0.0)
    activity = torch.rand(5, 2, 3, 3)
    peers(torch.zeros(2, 3, 3), activity)
    torch.testing.assert_close(peers.means.flatten(), activity.mean((0, 2, 3)))


@pytest.mark.parametrize(
    ("objective", "reference"),
    [
        (logistic, lambda p, n: softplus(2.0 - p) + softplus(n - 2.0)),
        (linear, lambda p, n: -p + (n - 2.0 if n > 2.0 else 0.0)),
    ],
)
def test_objective_with_a_threshold_equals_its_formula(objective, reference):
    value = objective(torch.tensor(POSITIVE), torch.tensor(NEGATIVE), 2.0)
    expected = sum(reference(p, n) for p, n in zip(POSITIVE, NEGATIVE, strict=True)) / 3
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_margin_equals_its_formula():
    value = margin(torch.tensor(POSITIVE), torch.tensor(NEGATIVE), alpha=4.0)
    expected = sum(softplus(-4.0 * (p - n)) for p, n in zip(POSITIVE, NEGATIVE, strict=True)) / 3
    assert value.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 4, 4)])
def test_goodness_equals_a_slow_sum(shape):
    activity = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    for row, total, mean in zip(activity, sum_square(activity), mean_square(activity), strict=True):
        squares = [value * value for value in row.flatten().tolist()]
        assert total.item() == pytest.approx(sum(squares), rel=1e-5)
        assert mean.item() == pytest.approx(sum(squares) / len(squares), rel=1e-5)


def test_goodness_of_bfloat16_is_summed_in_single_precision():
    activity = torch.ones(1, 1000, dtype=torch.bfloat16)
    assert sum_square(activity).dtype == torch.float32
    assert sum_square(activity).item() == 1000


def test_normalization_leaves_direction_and_hides_length():
    activity = torch.tensor([[3.0, 4.0], [30.0, 40.0]])
    torch.testing.assert_close(l2(activity), torch.tensor([[0.6, 0.8], [0.6, 0.8]]))
    torch.testing.assert_close(rms(activity), math.sqrt(2) * torch.tensor([[0.6, 0.8], [0.6, 0.8]]))


@pytest.mark.parametrize("normalize", [rms, l2])
def test_normalization_works_over_channels_and_keeps_silence_finite(normalize):
    maps = torch.zeros(2, 3, 4, 4)
    maps[0, :, 1, 2] = torch.tensor([1.0, 2.0, 2.0])
    normal = normalize(maps)
    assert normal.isfinite().all()
    assert normal[0, :, 1, 2].square().sum().item() == pytest.approx(3.0 if normalize is rms else 1.0, rel=1e-5)


@pytest.mark.parametrize("normalize", [rms, l2])
def test_normalization_of_whole_layers_leaves_what_one_position_has_more_than_another(normalize):
    maps = torch.rand(2, 3, 4, 4)
    maps[1] *= 7
    normal = normalize(maps, "layer")
    torch.testing.assert_close(normal.square().sum((1, 2, 3)), torch.full((2,), 48.0 if normalize is rms else 1.0))
    torch.testing.assert_close(normal / normal[:, :1, :1, :1], maps / maps[:, :1, :1, :1])
    torch.testing.assert_close(normalize(maps.flatten(1), "layer"), normalize(maps.flatten(1)))


def test_overlay_writes_the_label_and_leaves_the_rest():
    images = torch.rand(2, 1, 28, 28)
    embedded = overlay((1, 28, 28), 10)(images, torch.eye(10)[[3, 7]])
    assert embedded[0, 0, 0, :10].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert embedded[1, 0, 0, :10].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert torch.equal(embedded[:, :, 1:], images[:, :, 1:])
    assert torch.equal(embedded[:, :, 0, 10:], images[:, :, 0, 10:])


def test_label_planes_say_the_label_at_every_position():
    images = torch.rand(2, 3, 8, 8)
    embedded = channels((3, 8, 8), 4)(images, torch.eye(4)[[2, 0]])
    assert torch.equal(embedded[:, :3], images)
    assert embedded[0, 3:].mean((1, 2)).tolist() == [0, 0, 1, 0]
    assert embedded[1, 3:].mean((1, 2)).tolist() == [1, 0, 0, 0]


def test_without_labels_the_image_is_all_there_is():
    images = torch.rand(2, 1, 8, 8)
    rows = LabelEmbedding(torch.zeros(0, 1, 8, 8)).rows(images)
    assert torch.equal(rows, torch.cat([images, torch.zeros(1, 1, 8, 8)]))


def test_positions_are_judged_one_by_one():
    maps = torch.rand(2, 3, 4, 5)
    goodness, means = sum_square(maps, "position"), mean_square(maps, "position")
    for row, column in product(range(4), range(5)):
        by_hand = sum(maps[:, channel, row, column] ** 2 for channel in range(3))
        torch.testing.assert_close(goodness[:, row, column], by_hand)
        torch.testing.assert_close(means[:, row, column], by_hand / 3)
    activity = torch.rand(2, 3)
    assert torch.equal(sum_square(activity, "position"), sum_square(activity))


def test_neutral_overlay_is_a_tenth_of_each_label():
    embedded = overlay((1, 28, 28), 10)(torch.rand(1, 1, 28, 28), torch.full((1, 10), 0.1))
    torch.testing.assert_close(embedded[0, 0, 0, :10], torch.full((10,), 0.1))


def test_every_window_of_a_fourier_label_tells_the_classes_apart():
    patterns = fourier((1, 28, 28), 10, 0.35).patterns
    assert patterns.abs().max() <= 0.35 + 1e-6
    windows = patterns.unfold(2, 7, 7).unfold(3, 7, 7).reshape(10, 16, 49)  # (classes, windows, pixels)
    distances = torch.stack([torch.cdist(windows[:, k], windows[:, k]) for k in range(16)])
    assert distances[:, ~torch.eye(10, dtype=torch.bool)].min() > 0.5


def test_cooldown_is_hintons_at_the_middle_of_each_epoch():
    epochs = 8
    for epoch in range(1, epochs + 1):
        hinton = 1.0 if epoch <= epochs / 2 else (1 + 2 * (epochs - epoch)) / epochs
        assert schedule_gain("cooldown", (epoch - 0.5) / epochs) == pytest.approx(hinton)


@pytest.mark.parametrize("schedule", ["constant", "cooldown", "cosine", "onecycle"])
def test_schedules_stay_between_0_and_1(schedule):
    gains = [schedule_gain(schedule, step / 100) for step in range(101)]
    assert min(gains) >= 0
    assert max(gains) == pytest.approx(1.0)


def optimizer_step(name: str, weight: float, gradients: list[float], **changes: float) -> float:
    parameter = torch.nn.Parameter(torch.tensor([weight]))
    settings = OptimizerSettings(name=name, **({"lr": 0.1, "weight_decay": 0.0, "momentum": 0.9} | changes))
    optimizer = make_optimizer([{"params": [parameter], "lr": 0.1}], settings)
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient])
        optimizer.step()
    return parameter.item()


def test_optimizers_take_the_steps_of_their_formulas():
    gradients = [1.0, 0.5]
    assert optimizer_step("sgd", 1.0, gradients) == pytest.approx(1 - 0.1 - 0.05)
    velocity = [1.0, 0.9 * 1.0 + 0.5]
    assert optimizer_step("momentum", 1.0, gradients) == pytest.approx(1 - 0.1 * sum(velocity))
    ahead = [gradient + 0.9 * v for gradient, v in zip(gradients, velocity, strict=True)]
    assert optimizer_step("nesterov", 1.0, gradients) == pytest.approx(1 - 0.1 * sum(ahead))
    assert optimizer_step("adam", 1.0, [0.5]) == pytest.approx(1 - 0.1, rel=1e-5)  # first step: lr, whatever the size
    assert optimizer_step("sgd", 1.0, [0.0], weight_decay=0.5) == pytest.approx(1 - 0.1 * 0.5)
    assert optimizer_step("adamw", 1.0, [0.0], weight_decay=0.5) == pytest.approx(1 - 0.1 * 0.5)


def test_epoch_means_are_means_over_images_and_none_before_the_first():
    means = EpochMeans()
    assert means.by_name() == {}
    means.update({"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, 3)
    means.update({"a": torch.tensor(5.0), "b": torch.tensor(6.0)}, 1)
    assert means.by_name() == {"a": 2.0, "b": 3.0}  # (3 * 1 + 1 * 5) / 4 and (3 * 2 + 1 * 6) / 4
    means.update({"a": torch.tensor(8.0)}, 2)  # a batch without the other
    assert means.by_name() == {"a": 4.0, "b": 3.0}  # (3 * 1 + 1 * 5 + 2 * 8) / 6
    again = EpochMeans()
    again.load_state(means.state(), torch.device("cpu"))
    assert again.by_name() == means.by_name()
    assert again.broken() == []
    again.update({"b": torch.tensor(float("nan"))}, 1)
    assert again.broken() == ["b"]

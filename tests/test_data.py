"""Images: how they are split, and in what order they arrive."""

import pytest
import torch
from conftest import batches, needs_mnist, settings

from ffbp.build import build
from ffbp.data import Batches, ImageData, sources
from ffbp.data.batches import ShiftedImages
from ffbp.data.draws import Draws
from ffbp.errors import ConfigError


def image_data(*overrides: str) -> ImageData:
    chosen = settings(*overrides)
    return build("data", chosen["data"], seed=chosen["seed"])


def fingerprints(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_digits_are_1437_and_360_images_of_28_pixels_with_a_border_of_zeros():
    train, test = sources.digits()
    assert train.images.shape == (1437, 1, 28, 28)
    assert test.images.shape == (360, 1, 28, 28)
    assert train.images.dtype == torch.uint8
    assert train.images.max() == 255
    assert train.images[:, :, :2].max() == 0
    assert torch.bincount(test.labels).min() >= 34


def test_training_validation_and_test_images_are_disjoint():
    data = image_data()
    parts = [data.train, data.val, data.test]
    assert [len(part.labels) for part in parts] == [1237, 200, 360]
    prints = [fingerprints(part.images) for part in parts]
    everything, _ = sources.digits()
    assert prints[0] | prints[1] == fingerprints(everything.images)
    assert not prints[0] & prints[1]
    assert not (prints[0] | prints[1]) & prints[2]


@needs_mnist
def test_mnist_is_split_55000_5000_10000_stratified_and_disjoint():
    data = image_data("data=mnist", "data.download=false")
    assert [len(part.labels) for part in (data.train, data.val, data.test)] == [55_000, 5_000, 10_000]
    shares = [torch.bincount(part.labels, minlength=10) / len(part.labels) for part in (data.train, data.val)]
    torch.testing.assert_close(shares[0], shares[1], atol=2e-4, rtol=0)
    prints = [fingerprints(part.images) for part in (data.train, data.val, data.test)]
    assert not prints[0] & prints[1]
    assert not prints[0] & prints[2]
    assert not prints[1] & prints[2]


def test_the_split_depends_on_split_seed_alone():
    first, other_seed, other_split = image_data(), image_data("seed=1"), image_data("data.split_seed=1")
    assert torch.equal(first.val.images, other_seed.val.images)
    assert not torch.equal(first.val.images, other_split.val.images)


def test_without_validation_all_images_are_trained_on():
    data = image_data("data.val_size=0")
    assert data.val is None
    assert len(data.train.labels) == 1437


@pytest.mark.parametrize("wrong", ["data.val_size=9", "data.val_size=1430", "data.batch_size=1238", "data.shift=28"])
def test_sizes_that_do_not_fit_the_data_are_refused(wrong):
    with pytest.raises(ConfigError, match=wrong.split("=")[0]):
        image_data(wrong)


def test_shifted_images_equal_a_slow_shift():
    images = torch.randint(0, 256, (5, 2, 6, 7), dtype=torch.uint8)
    index, shift = torch.tensor([4, 0, 3, 4]), torch.tensor([[2, 2], [-2, 1], [0, -2], [-2, -2]])
    shifted = ShiftedImages(images, 2).take(index, shift)
    expected = torch.zeros(4, 2, 6, 7)
    for row, (which, (down, right)) in enumerate(zip(index.tolist(), shift.tolist(), strict=True)):
        for y in range(6):
            for x in range(7):
                if 0 <= y - down < 6 and 0 <= x - right < 7:
                    expected[row, :, y, x] = images[which, :, y - down, x - right] / 255
    assert torch.equal(shifted, expected)
    assert torch.equal(ShiftedImages(images, 0).take(index), images[index] / 255)


def test_an_epoch_brings_every_image_once_in_an_order_of_its_seed_and_number():
    loader = batches()
    orders = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        loader.seed = seed
        loader.set_epoch(epoch)
        orders[seed, epoch] = torch.cat([batch.images for batch in loader])
    assert len(fingerprints(orders[0, 0])) == len(fingerprints(loader.images.take(torch.arange(200))))
    loader.seed = 0
    loader.set_epoch(0)
    assert torch.equal(torch.cat([batch.images for batch in loader]), orders[0, 0])
    assert not torch.equal(orders[0, 0], orders[0, 1])
    assert not torch.equal(orders[0, 0], orders[1, 0])


def test_a_loader_goes_on_where_its_state_stood_with_the_same_draws():
    train, _ = sources.digits()
    whole = Batches(train.images, train.labels, batch_size=100, shuffle=True, shift=2)
    resumed = Batches(train.images, train.labels, batch_size=100, shuffle=True, shift=2)
    expected, state = [], None
    for number, batch in enumerate(whole):
        expected.append((batch.images, batch.draws.uniform(3)))
        state = whole.state_dict() if number == 6 else state
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert len(rest) == 15 - 7
    for batch, (images, draws) in zip(rest, expected[7:], strict=True):
        assert torch.equal(batch.images, images)
        assert torch.equal(batch.draws.uniform(3), draws)


def test_processes_share_a_batch_and_its_draws():
    train, _ = sources.digits()
    whole = Batches(train.images[:105], train.labels[:105], batch_size=50, shuffle=True, shift=1)
    shares = [
        Batches(train.images[:105], train.labels[:105], batch_size=50, shuffle=True, shift=1, rank=rank, world_size=2)
        for rank in (0, 1)
    ]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert torch.equal(batch.images, torch.cat([first.images, second.images]))
        both = torch.cat([first.draws.uniform(4), second.draws.uniform(4)])
        assert torch.equal(batch.draws.uniform(4), both)
        assert (first.loss_weight + second.loss_weight) / 2 == pytest.approx(1.0)


def test_draws_differ_between_batches_epochs_and_seeds():
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    drawn = [Draws(key, 4, slice(0, 4), torch.device("cpu")).uniform(8) for key in keys]
    for a in range(4):
        for b in range(a):
            assert not torch.equal(drawn[a], drawn[b])

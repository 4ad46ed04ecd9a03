"""Pictures of digits as people make them become images like those that a model was trained on."""

from pathlib import Path

import drawn_digits
import numpy as np
import pytest
from conftest import MNIST, needs_mnist
from drawn_digits import WAYS, mask, painted
from PIL import Image
from sklearn.linear_model import LogisticRegression

from ffbp.data.drawings import Frame, as_drawn, on_paper
from ffbp.data.sources import FRAMES, digits, idx_set
from ffbp.errors import ConfigError, DataError
from ffbp.evaluation import read_images, save_images

MNISTS, DIGITS = FRAMES["mnist"], FRAMES["digits"]


def seen(picture: Image.Image, frame: Frame = MNISTS, invert: bool | None = None) -> np.ndarray | None:
    return as_drawn(on_paper(picture), frame, invert)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The mean absolute difference of two images, but for a shift of a pixel, relative to the mean of the first."""
    shifted = [np.roll(other, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return min(float(np.abs(one.astype(float) - image).mean() / one.mean()) for image in shifted)


@needs_mnist
def test_an_image_of_mnist_comes_back_however_it_is_shown():
    _, test = idx_set("mnist", MNIST.parents[1])
    colours = [((0, 0, 0), (255, 255, 255)), ((0, 60, 190), (255, 235, 90)), ((255, 255, 255), (0, 0, 0))]
    for number, image in enumerate(test.images[:12, 0].numpy()):
        scale, (pen, paper) = (1, 2, 5, 9)[number % 4], colours[number % 3]
        ink = np.asarray(Image.fromarray(image).resize((28 * scale, 28 * scale), Image.Resampling.BILINEAR)) / 255
        ink = np.pad(ink, ((40, 7), (3, 90)))  # in a corner of a larger picture
        found = seen(painted(ink, pen, paper))
        assert difference(image, found) < (0.03 if scale == 1 else 0.4)  # which blurs it


@pytest.mark.parametrize("digit", [1, 4, 8])
def test_the_same_drawing_looks_the_same_in_any_colours_file_light_and_size(digit, tmp_path):
    def drawn() -> np.ndarray:
        return mask(digit, np.random.default_rng(digit))

    ink, straight = drawn(), seen(painted(drawn()))
    shade = np.linspace(0.4, 1, 300)[:, None] * np.linspace(0.7, 1, 300)
    corner = np.zeros((900, 700))
    corner[20:320, 380:680] = ink
    others = {
        "white on black": painted(ink, (255, 255, 255), (0, 0, 0)),
        "blue on yellow": painted(ink, (30, 60, 200), (250, 230, 80)),
        "as bright as the paper": painted(ink, (0, 150, 0), (200, 60, 40)),
        "shaded": painted(ink, paper=np.repeat(255 * shade[..., None], 3, 2)),
        "in a corner": painted(corner),
        "transparent": drawn_digits._with_alpha(ink, 0),
        "transparent around white paper": Image.merge(
            "LA", [painted(ink).convert("L"), Image.fromarray(np.pad(np.full((280, 280), 255, np.uint8), 10))]
        ),
        "enlarged": painted(ink).resize((1100, 1100)),
    }
    found = {way: difference(straight, seen(picture)) for way, picture in others.items()}
    assert max(found.values()) < 0.12, found
    assert np.array_equal(straight, seen(painted(ink), invert=True))
    rows, columns = np.nonzero(straight > 25)
    assert 19 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20
    weights = straight / straight.sum()
    middle = [float(np.arange(28) @ weights.sum(1)), float(np.arange(28) @ weights.sum(0))]
    assert np.abs(np.array(middle) - 14).max() <= 0.5  # as MNIST's
    assert straight.max() == 255


def test_strokes_become_as_wide_as_people_write_them():
    dice = np.random.default_rng
    masses = [int(seen(painted(mask(3, dice(0), (500, 500), 380, pen))).sum()) for pen in (2, 20, 70)]
    assert masses[0] > 0.5 * masses[1]
    assert masses[2] < 2 * masses[1]


def test_specks_and_what_comes_in_from_the_border_are_left_out():
    ink = mask(5, np.random.default_rng(1))
    spoiled = ink.copy()
    spoiled[:, :9] = spoiled[-6:, 40:] = 1.0  # the edge of a table
    for y, x in ((40, 40), (30, 250), (250, 50)):
        spoiled[y : y + 4, x : x + 4] = 1.0
    assert difference(seen(painted(ink)), seen(painted(spoiled))) < 0.1


@pytest.mark.parametrize("frame", [MNISTS, DIGITS])
def test_where_nothing_is_drawn_nothing_is_found(frame):
    noise = np.random.default_rng(0).normal(200, 12, (200, 300, 3)).clip(0, 255).astype(np.uint8)
    slope = np.repeat(np.linspace(60, 250, 300)[None, :, None], 200, 0).repeat(3, 2).astype(np.uint8)
    for blank in (
        Image.new("RGB", (1, 1)),
        Image.new("RGB", (90, 5), "red"),
        Image.fromarray(noise),
        Image.fromarray(slope),
    ):
        assert seen(blank, frame) is None
    assert seen(Image.new("RGBA", (30, 30)), frame) is None


def test_a_model_of_small_digits_reads_drawings(tmp_path):
    """A plain logistic regression: what is measured here is the pictures, not the model."""
    train, _ = digits()
    model = LogisticRegression(max_iter=50, C=0.1).fit(train.images.flatten(1) / 255, train.labels)
    drawings = drawn_digits.write(tmp_path, digits=(0, 5, 7))  # which people in both write alike
    pictures = read_images([path for path, _, _ in drawings], (1, 28, 28), None, DIGITS)
    assert not pictures.skipped
    assert not any(pictures.blank)
    right = model.predict(pictures.images.flatten(1) / 255) == np.array([digit for _, digit, _ in drawings])
    assert len(drawings) == 3 * len(WAYS)
    assert right.mean() > 0.85


def test_files_folders_and_patterns_are_read_and_what_is_none_is_named(tmp_path):
    for name in ("a.png", "b.webp", "[x].png", "notes.txt"):
        painted(mask(7, np.random.default_rng(0))).save(tmp_path / name, "PNG" if name.endswith("txt") else None)
    (tmp_path / "broken.png").write_bytes(b"none")
    Image.new("L", (50, 50), 255).save(tmp_path / "white.png")
    paths = [tmp_path, tmp_path / "[x].png", tmp_path / "?.png", tmp_path / "notes.txt", tmp_path / "gone.png"]
    pictures = read_images(paths, (1, 28, 28), None, MNISTS)
    names = ["[x].png", "a.png", "b.webp", "white.png", "[x].png", "a.png", "notes.txt"]
    assert [path.name for path in pictures.files] == names
    assert pictures.blank == [name == "white.png" for name in names]
    assert [line.partition(": ")[0] for line in pictures.skipped] == [f"{tmp_path}/broken.png", f"{tmp_path}/gone.png"]
    with pytest.raises(DataError, match=r"y\*: no images found"):
        read_images([tmp_path / "y*"], (1, 28, 28))

    save_images(pictures, tmp_path / "seen")
    save_images(pictures, tmp_path / "seen")  # over its own
    again = np.asarray(Image.open(tmp_path / "seen" / "a_2.png"))
    assert np.array_equal(again, pictures.images[5, 0].numpy())
    with pytest.raises(ConfigError, match=r"\[x\]\.png: was not written by evaluate"):
        save_images(pictures, tmp_path)


def test_evaluate_says_class_and_score_and_skips_what_it_cannot_read(warm):
    words = ("data=digits", "trainer.max_epochs=4", "logger=none", "algo=ff", "hydra.run.dir=run")
    assert warm(*words).wait() == 0
    folder: Path = warm.folder
    painted(mask(0, np.random.default_rng(0))).save(folder / "zero.png")
    (folder / "broken.png").write_bytes(b"none")
    one = warm("run=run", "images=zero.png", "save=seen", "goodness=true", script="evaluate.py")
    assert (one.wait(), one.stderr) == (0, "")
    line, labels, layer = one.stdout.splitlines()
    assert line.startswith("zero.png\t0\t")
    assert labels.split() == ["goodness", *map(str, range(10))]
    assert len(layer.split()) == 2 + 10
    assert (folder / "seen" / "zero.png").exists()
    two = warm("run=run", "images=[z*.png,broken.png]", script="evaluate.py")
    assert two.wait() == 3
    assert two.stdout.startswith("zero.png\t0\t")
    assert "skipped: broken.png: cannot be read" in two.stderr
    assert "1 of 2 pictures" in two.stderr
    for wrong in ("invert=maybe", "goodness=true"):
        refused = warm("run=run", wrong, script="evaluate.py")
        assert (refused.wait(), refused.stderr.count("\n")) == (2, 1)

"""Models and rules on images of any size, colour and number of classes; and runs on images of one's own."""

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import settings
from shapes import make_folder
from test_own_images import THREE, save, shapes  # noqa: F401, fixture

import ffbp
from ffbp.algorithms import Algorithm
from ffbp.algorithms.forward_forward.labels import channels, fourier, overlay
from ffbp.build import build_algorithm
from ffbp.data import Batch
from ffbp.data.draws import Draws
from ffbp.errors import CheckpointError, ConfigError
from ffbp.files import CONF
from ffbp.lifecycle import train as run
from ffbp.lifecycle.checkpoint import read_checkpoint, write_checkpoint
from ffbp.lifecycle.directory import RunDirectory
from ffbp.lifecycle.saved import settings_of
from ffbp.settings import Settings

SMALL = {
    "mlp": "model.widths=[16,12]",
    "cnn": "model.dropout=0.0",
    "conv": "model.channels=[8,8,8]",
    "local": "model.channels=[8,8,8]",
}
composed = cache(lambda *words: settings(*words))
SHAPES = [(3, 32, 32), (1, 16, 16), (3, 64, 64), (3, 20, 48)]
TOO_SMALL = {
    ("cnn", (1, 16, 16)): "18 x 18 pixels expected, 16 x 16",
    ("local", (1, 16, 16)): "2 x 2 does not fit into 1 x 1; take smaller kernel_sizes or strides",
    ("local", (3, 20, 48)): "2 x 2 does not fit into 1 x 6",
}


def small(algo: str, model: str, shape: tuple[int, ...], classes: int, **changes: object) -> Algorithm:
    chosen = composed(f"algo={algo}", f"model={model}", SMALL[model])
    torch.manual_seed(0)
    return build_algorithm(chosen["algo"] | changes, chosen["model"], shape, classes)


def batch_of(shape: tuple[int, ...], classes: int, size: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size, *shape, generator=generator)
    return Batch(images, torch.arange(size) % classes, Draws((0, 0, 0), size, slice(0, size), torch.device("cpu")))


def losses(algorithm: Algorithm, batch: Batch) -> list[torch.Tensor]:
    found: Iterator[torch.Tensor] | None = algorithm.losses(batch) if hasattr(algorithm, "losses") else None
    return [algorithm.step(batch).loss] if found is None else list(found)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("model", SMALL)
def test_every_model_learns_from_images_of_any_shape_or_says_why_not(model, shape):
    kinds = [("bp", {}), ("ff", {}), *[("ff", {"negatives": kind}) for kind in ("all", "hybrid", "blend", "noise")]]
    for algo, changes in kinds:
        if (model, shape) in TOO_SMALL:
            with pytest.raises(ConfigError, match=TOO_SMALL[model, shape]):
                small(algo, model, shape, 7, **changes)
            continue
        algorithm, batch = small(algo, model, shape, 7, **changes), batch_of(shape, 7)
        for loss in losses(algorithm, batch):
            loss.backward()
            assert loss.isfinite()
        assert all(parameter.grad is not None for parameter in algorithm.stack.blocks[0].parameters())
        assert algorithm.answer(batch.images).shape == (4, 7)
        for logits in algorithm.readouts(batch.images).values():
            assert logits.shape == (4, 7)


@pytest.mark.parametrize(
    ("model", "name"), [("mlp", "overlay"), ("conv", "fourier"), ("conv", "channels"), ("local", "overlay")]
)
def test_the_product_of_a_label_in_a_coloured_image_is_that_of_the_labelled_image(model, name):
    algorithm = small("ff", model, (3, 28, 48), 60, label_embedding=name).double()
    images = batch_of((3, 28, 48), 60).images.double()
    products = algorithm.passes.first(images)
    for label in (0, 1, 59):
        weights = torch.eye(60).double()[[label] * 4]
        expected = algorithm.stack.blocks[0].product(algorithm.passes.embedding(images, weights))
        torch.testing.assert_close(products.images + products.labels[label], expected, rtol=1e-6, atol=1e-12)


def test_an_overlay_goes_on_in_the_next_row_and_in_every_colour():
    images = torch.rand(2, 3, 4, 5)
    embedded = overlay((3, 4, 5), 7, 2.0)(images, torch.eye(7)[[1, 6]])
    expected = images.clone()
    expected[:, :, 0, :] = expected[:, :, 1, :2] = 0
    expected[0, :, 0, 1] = expected[1, :, 1, 1] = 2.0
    assert torch.equal(embedded, expected)


@pytest.mark.parametrize(
    ("embedding", "shape", "classes", "says"),
    [
        (overlay, (3, 4, 5), 20, "more than 20 pixels, one for each class; these are 4 x 5"),
        (fourier, (1, 7, 30), 10, "8 x 8 pixels or more"),
        (fourier, (1, 30, 30), 301, "at most 300 classes"),
        (channels, (3, 64, 64), 300, "372,326,400 numbers"),
    ],
)
def test_a_label_that_does_not_fit_is_refused_with_the_reason(embedding, shape, classes, says):
    with pytest.raises(ValueError, match=says):
        embedding(shape, classes)


@pytest.mark.parametrize("algo", sorted(path.stem for path in (CONF / "algo").glob("*.yaml")))
def test_every_rule_trains_on_a_folder(algo, shapes, tmp_path):  # noqa: F811
    chosen = settings(f"algo={algo}", "model=conv", SMALL["conv"], *on(shapes), "trainer.limit_train_batches=2")
    metrics = run.train(chosen, tmp_path / "run", bar=False)
    assert 0 <= metrics["test/acc"] <= 1
    model = ffbp.load(tmp_path / "run")
    assert model.class_names == THREE
    assert model.stack.image_shape == (3, 12, 20)


def on(folder: Path) -> list[str]:
    return ["data=folder", f"data.path={folder}", "data.batch_size=7", "trainer.max_epochs=1"]


# -- from start to answer


def test_a_run_is_resumed_and_tested_from_anywhere_with_the_same_images_only(shapes, warm, warm_process):  # noqa: F811
    pictures, elsewhere = warm.folder / "my (shapes)", warm.folder / "elsewhere"
    shutil.copytree(shapes, pictures)
    elsewhere.mkdir()
    done = warm("algo=ff", "model=mlp", "model.widths=[8]", *on(pictures.relative_to(warm.folder)))
    assert done.wait() == 0, done.stderr
    (folder,) = warm.folder.glob("logs/ff/*")
    known = json.loads((folder / "metrics.json").read_text())
    assert known["data"] == "folder"
    assert not any(b"my (shapes)" in path.read_bytes() for path in folder.glob("checkpoints/*"))

    def there(*words: str, script: str = "evaluate.py"):
        ended = warm_process.start(*words, cwd=elsewhere, script=script)
        return ended.wait(), ended.stdout + ended.stderr

    code, said = there(f"run={folder}")
    assert code == 0, said
    assert json.loads(said)["test/acc"] == known["test/acc"]
    assert there(f"resume=../{folder.relative_to(warm.folder)}", "trainer.max_epochs=2", script="train.py")[0] == 0
    assert json.loads((folder / "metrics.json").read_text())["epochs"] == 2
    # another image
    file = pictures / "cross" / "0000.png"
    content = file.read_bytes()
    save(file, torch.zeros(12, 20, 3))
    for words in ((f"run={folder}",), (f"resume={folder}", "trainer.max_epochs=3")):
        code, said = there(*words, script="train.py" if len(words) > 1 else "evaluate.py")
        assert (code, said.count("\n")) == (4, 1)
        assert "trained on other images than its data.path contains today" in said
    file.write_bytes(content)
    # another place
    pictures.rename(elsewhere / "moved")
    for words in ((f"run={folder}",), (f"resume={folder}", "trainer.max_epochs=3")):
        script = "train.py" if len(words) > 1 else "evaluate.py"
        code, said = there(*words, script=script)
        assert (code, said.count("\n")) == (3, 1)
        assert "no such folder" in said
    code, said = there(f"run={folder}", "data.path=moved")
    assert code == 0, said
    assert json.loads(said)["test/acc"] <= 1
    code, said = there(f"run={folder}", "images=[moved/circle/0001.png,moved/cross]")
    assert code == 0, said
    assert len(said.splitlines()) == 11
    # which is kept, whatever its name looks like
    (elsewhere / "moved").rename(elsewhere / "[2] #1")
    longer = (f"resume={folder}", "trainer.max_epochs=3")
    code, said = there(*longer, "data.path=[2] #1", script="train.py")
    assert code == 0, said
    code, said = there(f"resume={folder}", "trainer.max_epochs=4", script="train.py")
    assert code == 0, said


@pytest.fixture
def stranger(shapes, tmp_path) -> tuple[RunDirectory, Settings]:  # noqa: F811
    """A run that says that its images are in a folder of the victim's."""
    chosen = settings("algo=bp", "model=mlp", "model.widths=[8]", *on(shapes))
    run.train(chosen, tmp_path / "run", bar=False)
    directory = RunDirectory(tmp_path / "run")
    chosen["paths"] = {"data_dir": "data"}
    directory.write_settings(chosen, [])
    settings_of(directory, [])  # which are not refused: the data set is one of ours
    return directory, chosen


def test_a_run_without_a_checkpoint_does_not_choose_the_images(stranger, tmp_path, warm):
    directory, chosen = stranger
    private = make_folder(tmp_path / "private", 5, (20, 12), seed=1, classes=3)
    directory.write_settings(chosen | {"data": chosen["data"] | {"path": str(private)}}, [])
    refused = warm(f"resume={directory}", "trainer.max_epochs=2")
    assert (refused.wait(), "trained on other images" in refused.stderr) == (4, True)
    shutil.rmtree(directory.last.parent)
    directory.rows.unlink()
    directory.metrics.unlink()
    shutil.move(private, tmp_path / "gone")  # it is not even looked for
    refused = warm(f"resume={directory}")
    assert (refused.wait(), refused.stderr.count("\n")) == (4, 1)
    assert (
        f"no checkpoint yet, by which its images would be known; say that they are yours with data.path={private}"
        in (refused.stderr)
    )
    done = warm(f"resume={directory}", f"data.path={tmp_path / 'gone'}")
    assert done.wait() == 0, done.stderr


def test_what_a_checkpoint_says_of_places_and_names(stranger, warm):
    directory, _ = stranger
    content = read_checkpoint(directory.best)
    content["ffbp"]["data"]["path"] = "/nowhere"  # which is not asked
    write_checkpoint(directory.best, content)
    tested = warm(f"run={directory}", script="evaluate.py")
    assert tested.wait() == 0, tested.stderr
    for wrong, says in (
        (["a", "b"], "3 names of classes expected, 2 found"),
        (["a", "b", 3], "class_names.2"),
        (["a", "b", "c" * 301], "class_names.2"),
        ("abc", "class_names"),
    ):
        write_checkpoint(directory.best, content | {"ffbp": content["ffbp"] | {"class_names": wrong}})
        with pytest.raises(CheckpointError, match=says):
            ffbp.load(directory.path)
    del content["ffbp"]["class_names"]  # as in earlier versions
    write_checkpoint(directory.best, content)
    assert ffbp.load(directory.path).class_names == ["0", "1", "2"]
    (directory.config).unlink()
    refused = warm(f"run={directory}", script="evaluate.py")
    assert (refused.wait(), refused.stderr.count("\n")) == (4, 1)
    assert "does not say where its images are; name their place with data.path=" in refused.stderr

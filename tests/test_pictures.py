"""What TensorBoard shows of a run: pictures that change nothing, curves that belong together, settings, a table."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from conftest import a_batch, fresh, settings
from lightning.pytorch.loggers.logger import Logger
from same_run import assert_equal, assert_same_run, no_times
from sklearn.linear_model import Ridge
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from test_resume import BreakAt, Broken

from ffbp.callbacks import Pictures
from ffbp.callbacks.answers import Answers
from ffbp.callbacks.charts import layout
from ffbp.callbacks.contrast_pictures import Examples, spread
from ffbp.callbacks.layers import RIDGE, goodness_of_both, looking, ridge_logits
from ffbp.data import Labelled
from ffbp.data.draws import Draws
from ffbp.errors import CheckpointError
from ffbp.files import CONF
from ffbp.lifecycle.checkpoint import read_checkpoint
from ffbp.lifecycle.train import train
from ffbp.lifecycle.trust import require_trust

RULES = sorted(path.stem for path in (CONF / "algo").glob("*.yaml"))
SHORT = ("model.widths=[12,10]", "trainer.max_epochs=2", "trainer.limit_train_batches=3")


def with_tensorboard(directory: Path, *overrides: str) -> dict:
    chosen = settings("logger=default", *overrides)
    chosen["logger"]["tensorboard"]["save_dir"] = str(directory)
    return chosen


def events_of(directory: Path) -> EventAccumulator:
    found = EventAccumulator(str(directory), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    return found.Reload()


# -- a run does not notice


ONE_EPOCH = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
SAME = {
    "bp": ("model=mlp", "model.input_dropout=0.1", "model.batch_norm=true"),
    "ff": ("model=mlp", "model.input_dropout=0.1", "model.batch_norm=true", "model.widths=[12,10]"),
    "ff cnn": ("algo=ff", "model=cnn", "algo.negatives=uniform", "data.shift=1"),
    "softhebb": ("model=mlp", "model.widths=[12,10]"),
}


@pytest.mark.parametrize("case", SAME)
def test_a_run_that_is_drawn_ends_with_the_same_bits(case, tmp_path):
    words = (f"algo={case.split()[0]}", *SAME[case], *ONE_EPOCH)
    drawn, plain = tmp_path / "drawn", tmp_path / "plain"
    train(with_tensorboard(drawn, *words), drawn, bar=False)
    train(settings(*words, "~callbacks.pictures"), plain, bar=False)
    for name in ("last.ckpt", "best.ckpt"):
        contents = [read_checkpoint(path / "checkpoints" / name) for path in (drawn, plain)]
        contents[0]["callbacks"].pop("Pictures", None)
        assert_equal(*map(no_times, contents), name)
    header, other = ((path / "metrics.csv").read_text().splitlines()[0] for path in (drawn, plain))
    assert header == other


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_drawn_and_what_does_not_apply_is_left_out(rule, tmp_path):
    train(
        with_tensorboard(tmp_path, f"algo={rule}", "model=mlp", "model.widths=[12,10]", *ONE_EPOCH), tmp_path, bar=False
    )
    events = events_of(tmp_path)
    tags = set(events.Tags()["images"])
    everywhere = {
        "weights/first_layer",
        *(f"{part}/{what}" for part in ("val", "test") for what in ("confusion", "mistakes")),
    }
    only_here = {"ff/examples", "ff/layer_0/goodness", "ff/layer_1/goodness", "ff/goodness_of_labels"}
    assert tags == (everywhere | only_here if rule == "ff" else everywhere)
    assert all(point.value > 0.3 for k in (0, 1) for point in events.Scalars(f"readout/layer_{k}/acc"))


@pytest.mark.parametrize("moment", [("batch", 4), ("validation", 1), ("test", 0)])
def test_a_drawn_run_that_was_broken_off_ends_as_if_it_had_not_been(moment, tmp_path):
    words = ("algo=ff", "model=mlp", *SHORT, "checkpoint.every_n_steps=2", "trainer.max_epochs=3", "data.shift=1")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(with_tensorboard(whole, *words), whole, bar=False)
    chosen = with_tensorboard(broken, *words)
    breaking = {"break": {"_target_": f"{BreakAt.__module__}.BreakAt", "moment": moment[0], "number": moment[1]}}
    with pytest.raises(Broken):
        train(chosen | {"callbacks": chosen["callbacks"] | breaking}, broken, bar=False)
    train(chosen, broken, resume=True, bar=False)
    assert_same_run(whole, broken)
    kept = read_checkpoint(broken / "checkpoints" / "last.ckpt")["callbacks"]["Pictures"]["spreads"]
    assert [[row[0] for row in layer] for layer in kept] == [[0, 1, 2]] * 2  # the third is drawn, and no milestone
    last = [events_of(path).Images("ff/layer_1/goodness")[-1] for path in (whole, broken)]
    assert last[0].encoded_image_string == last[1].encoded_image_string


@pytest.mark.parametrize(
    "words", [("data.val_size=0",), ("trainer.limit_val_batches=0",), ("trainer.max_steps=4", "trainer.max_epochs=9")]
)
def test_without_validation_and_with_an_end_within_an_epoch(words, tmp_path):
    train(with_tensorboard(tmp_path, "algo=ff", "model=mlp", *SHORT, *words), tmp_path, bar=False)
    tags = events_of(tmp_path).Tags()
    assert ("val/confusion" in tags["images"]) == ("readout/layer_0/acc" in tags["scalars"]) == (len(words) == 2)
    steps = [image.step for image in events_of(tmp_path).Images("ff/layer_0/goodness")]
    assert steps == ([0, 3, 4] if len(words) == 2 else [0, 3, 6])


def test_nothing_is_drawn_in_a_rehearsal_or_for_other_loggers(tmp_path, monkeypatch):
    monkeypatch.setattr("ffbp.callbacks.pictures.looking", None)  # which would be called
    chosen = with_tensorboard(tmp_path / "rehearsal", "algo=ff", "model=mlp", "trainer.fast_dev_run=true")
    train(chosen, tmp_path / "rehearsal", bar=False)
    chosen = settings("algo=ff", "model=mlp", *SHORT)
    chosen["logger"] = {"noted": {"_target_": f"{__name__}.Noted"}}
    train(chosen, tmp_path / "noted", bar=False)
    assert not list(tmp_path.glob("**/events.*"))
    assert "Pictures" not in read_checkpoint(tmp_path / "noted" / "checkpoints" / "last.ckpt")["callbacks"]
    assert Noted.params["algo"]["optimizer"]["lr"] == 3e-3  # as MLflow and others are told
    assert Noted.params["trainer"]["max_epochs"] == 2


class Noted(Logger):
    """A logger of somebody else's."""

    params: dict
    name, version = "noted", 0

    def log_hyperparams(self, params, *args, **kwargs):
        Noted.params = params

    def log_metrics(self, metrics, step=None):
        assert "readout/layer_0/acc" not in metrics


@pytest.mark.parametrize("spreads", [3, [3], [[[0, 0.0, 1.0, [1.0], "x"]]], [[]] * 10_001])
def test_what_a_strangers_checkpoint_keeps_of_pictures_is_checked(spreads):
    with pytest.raises(CheckpointError, match="earlier pictures"):
        Pictures(every_epoch=False).load_state_dict({"spreads": spreads})


def test_a_run_that_names_the_pictures_of_earlier_versions_goes_on(tmp_path):
    chosen = with_tensorboard(tmp_path, "algo=bp", "model=mlp", *SHORT, "algo.schedule=constant")
    earlier = {"_target_": "ffbp.callbacks.FirstLayerPictures", "every_n_epochs": 1, "count": 8}
    chosen["callbacks"] = {"pictures": earlier}
    require_trust(chosen, [], tmp_path)
    train(chosen, tmp_path, bar=False)
    longer = chosen | {"trainer": chosen["trainer"] | {"max_epochs": 3}}
    train(longer, tmp_path, resume=True, bar=False)
    assert [image.step for image in events_of(tmp_path).Images("layers/first")] == [0, 3, 6, 6, 9]


# -- what is told


def test_settings_are_told_without_places_of_this_machine(tmp_path):
    chosen = with_tensorboard(tmp_path, "algo=ff", "model=mlp", *SHORT, "algo.optimizer.lr=0.004")
    train(chosen, tmp_path, bar=False)
    told = yaml.safe_load((tmp_path / "hparams.yaml").read_text())
    assert told["algo"]["optimizer"]["lr"] == 0.004
    assert (told["model"]["widths"], told["seed"], told["trainer"]["max_epochs"]) == ([12, 10], 0, 2)
    events = events_of(tmp_path)
    [text] = events.Tensors("settings/text_summary")
    assert b"    lr: 0.004" in text.tensor_proto.string_val[0]
    assert "epoch" not in events.Tags()["scalars"]
    content = b"".join(path.read_bytes() for path in (*tmp_path.glob("events.*"), tmp_path / "hparams.yaml"))
    assert str(tmp_path).encode() not in content
    assert socket.gethostname().encode() not in content or len(socket.gethostname()) < 4
    plugin = events.PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(plugin["_hparams_/session_start_info"]).session_start_info
    assert start.hparams["algo.optimizer.lr"].number_value == 0.004
    experiment = HParamsPluginData.FromString(plugin["_hparams_/experiment"]).experiment
    assert {info.name.tag for info in experiment.metric_infos} == {"test/acc", "val/acc"}
    assert "_hparams_/session_end_info" in plugin


def test_curves_that_belong_together_share_a_chart():
    names = [f"ff/layer_{k}/{what}" for k in (10, 9) for what in ("goodness_pos", "goodness_neg", "loss")]
    names += ["train/acc", "val/acc", "val/acc_softmax", "readout/layer_0/acc", "alignment/layer_0"]
    charts = layout(names)
    both = charts["Layers"]["layer 9: goodness of positives and negatives"]
    assert both == ["Multiline", ["^ff/layer_9/goodness_pos$", "^ff/layer_9/goodness_neg$"]]
    assert list(charts["Layers"])[:2] == [f"layer {k}: goodness of positives and negatives" for k in (9, 10)]
    drawn = {title: tags for chart in charts.values() for title, (_, tags) in chart.items()}
    for name in names:
        assert any(re.match(tag, name) for tags in drawn.values() for tag in tags), name
    assert drawn["loss of each layer (ff)"] == [r"^ff/layer_\d+/loss$"]
    assert drawn["alignment of each layer (alignment)"] == [r"^alignment/layer_\d+$"]
    assert drawn["accuracy in training and validation"] == ["^train/acc$", "^val/acc$"]
    assert layout(["train/acc"])["Accuracy and loss"] == {
        "accuracy in training and validation": charts["Accuracy and loss"]["accuracy in training and validation"]
    }  # whatever else a run measures


# -- what is drawn is right


def test_the_goodness_that_is_drawn_is_that_of_the_layers_losses():
    """Against the measures of a training step, in evaluation mode, on the same images with the same false labels."""
    for words in (("model=mlp",), ("model=conv", "algo.goodness_per=position"), ("model=mlp", "algo.negatives=all")):
        algorithm = fresh("algo=ff", "algo.goodness=sum_square", *words).eval()
        batch = a_batch(60)
        with torch.no_grad():
            found = goodness_of_both(algorithm, Labelled((batch.images * 255).round().byte(), batch.labels), 60)
            list(algorithm.losses(batch._replace(draws=Draws((0, 0, 0), 60, slice(0, 60), torch.device("cpu")))))
        means = {name: float(total / 60) for names, (sums, _) in algorithm.train_means.sums.items()
                 for name, total in zip(names, sums, strict=True)}  # fmt: skip
        for k, (positive, negative) in enumerate(found):
            assert float(positive.mean()) == pytest.approx(means[f"ff/layer_{k}/goodness_pos"], rel=1e-5)
            assert float(negative.mean()) == pytest.approx(means[f"ff/layer_{k}/goodness_neg"], rel=1e-5)
            assert float((positive > negative).float().mean()) == pytest.approx(means[f"ff/layer_{k}/separation"])


def test_histograms_are_shares_over_common_bins():
    found = spread(5, torch.tensor([0.0, 4.0, 4.0, 2.0]), torch.tensor([1.0, 1.0]))
    assert (found.epoch, found.low, found.high) == (5, 0.0, 4.0)
    assert [share for share in found.positive if share] == [0.25, 0.25, 0.5]
    assert [share for share in found.negative if share] == [1.0]
    assert found.negative[len(found.negative) // 4] == 1.0


def test_examples_are_those_of_the_first_step():
    """The false labels that are drawn are those that the step draws, which draws the same as without a picture."""
    algorithm, batch = fresh("algo=ff", "model=mlp", "algo.negatives=uniform"), a_batch()
    batch.draws.uniform(2)  # such as shifts, before the step
    examples, seen = Examples(batch), []
    false_labels = algorithm.contrast.false_labels
    algorithm.contrast.false_labels = lambda *given: seen.append(false_labels(*given)) or seen[-1]
    with torch.no_grad():
        picture = examples.picture(algorithm)
        list(algorithm.losses(batch))
    assert torch.equal(*seen)
    assert picture.dtype == np.uint8


def test_a_confusion_matrix_counts_and_mistakes_are_the_worst():
    answers, batch = Answers(3), a_batch(6)
    labels, logits = torch.tensor([0, 0, 1, 2, 2, 2]), torch.zeros(6, 3)
    for row, answer in enumerate([0, 1, 1, 2, 0, 1]):
        logits[row, answer] = float(row)
    answers.add(batch._replace(labels=labels), logits)
    assert answers.counts.view(3, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 1, 1]]
    margins, images, _, of = answers.worst[0]
    assert margins[:4].tolist() == [5.0, 4.0, 1.0, 0.0]
    assert of[:3].tolist() == [2, 2, 0]
    assert torch.equal(images[0], batch.images[5])
    assert answers.mistakes("x", as_goodness=True).shape[2] == answers.confusion("x").shape[2] == 3
    answers.add(batch._replace(labels=labels, loss_weight=0.0), logits)  # the copy of a process without a share
    assert int(answers.counts.sum()) == 6


def test_a_read_out_is_ridge_regression():
    x, other = torch.randn(50, 8) * torch.arange(1, 9), torch.randn(20, 8)
    targets = torch.nn.functional.one_hot(torch.randint(0, 3, (50,)), 3).float()
    centred = x - x.mean(0)
    penalty = RIDGE * float(centred.square().sum(0).mean()) + 1e-6
    expected = Ridge(alpha=penalty).fit(x.double().numpy(), targets.double().numpy()).predict(other.double().numpy())
    assert np.allclose(ridge_logits(x, targets, other).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert ridge_logits(torch.zeros(50, 8), targets, other).isfinite().all()  # of a dead layer


def test_looking_leaves_the_mode_of_each_part():
    algorithm = fresh("algo=bp", "model=mlp", "model.batch_norm=true")
    algorithm.stack.blocks[0].eval()
    before = [module.training for module in algorithm.modules()]
    with looking(pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), algorithm):
        assert not any(module.training for module in algorithm.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in algorithm.modules()] == before


# -- TensorBoard itself


@pytest.fixture
def tensorboard(tmp_path):
    """Serve tmp_path; the address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path), "--host", "localhost"]
    served = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address, deadline = f"http://localhost:{port}", time.monotonic() + 60
    try:
        while served.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{address}/data/runs", timeout=5) as answer:
                    if answer.read().count(b",") >= 1:  # both runs have been read
                        break
            except OSError:
                pass
            time.sleep(0.2)
        yield address
    finally:
        served.terminate()
        served.wait(20)


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def two_runs(tmp_path):
    for algo in ("bp", "ff"):
        words = (f"algo={algo}", "model=mlp", *SHORT)
        train(with_tensorboard(tmp_path / algo, *words), tmp_path / algo, bar=False)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_tensorboard_shows_both_runs_and_forward_forwards_pictures(two_runs, tensorboard):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        asked: list[str] = []
        page.route(lambda url: not url.startswith((tensorboard, "data:", "blob:")), lambda route: route.abort())
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{tensorboard}/#images")
        for run in ("bp", "ff"):
            page.get_by_text(run, exact=True).first.wait_for(timeout=60_000)
        page.goto(f"{tensorboard}/?tagFilter=ff%2Flayer_0%2Fgoodness$#timeseries")
        page.get_by_text("ff/layer_0/goodness").first.wait_for(timeout=60_000)
        picture = page.locator("image-card img").first
        picture.wait_for(timeout=60_000)
        assert picture.evaluate("async image => (await image.decode(), image.naturalWidth)") == 640
        page.goto(f"{tensorboard}/#custom_scalars")
        page.get_by_text("layer 0: goodness of positives and negatives").first.wait_for(timeout=60_000)
        browser.close()
    assert all(url.startswith((tensorboard, "data:", "blob:", "about:")) for url in asked)

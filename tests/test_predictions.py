"""A finished run keeps its answers to the test images, and the comparison reads them with suspicion."""

import base64
import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import settings
from PIL import Image
from test_report import a_run

import ffbp
from ffbp.data import Batch
from ffbp.data.sources import digits
from ffbp.errors import CheckpointError
from ffbp.lifecycle import train as run
from ffbp.lifecycle.predictions import TestAnswers
from ffbp.report import mistakes
from ffbp.report.runs import Group, Run

SHORT = ("model.widths=[16]", "trainer.max_epochs=1", "data.eval_batch_size=359")  # leaves a batch of one image


@pytest.mark.parametrize("algo", ["bp", "ff"])
def test_a_run_keeps_the_answers_that_its_test_counted(algo, tmp_path):
    metrics = run.train(settings(f"algo={algo}", "model=mlp", *SHORT), tmp_path)
    kept, test = mistakes.read_answers(tmp_path / "predictions.npz"), digits()[1]
    assert np.array_equal(kept.labels, test.labels)
    assert np.array_equal(kept.answers, ffbp.load(tmp_path).predict(test.images))
    assert (kept.labels == kept.answers).mean() == pytest.approx(metrics["test/acc"])
    assert -kept.scores[np.arange(360), kept.labels].mean(dtype=float) == pytest.approx(metrics["test/loss"], rel=1e-3)
    assert np.array_equal(kept.mistakes, np.flatnonzero(kept.labels != kept.answers))
    assert np.array_equal(kept.images, test.images[kept.mistakes])
    assert (tmp_path / "predictions.npz").stat().st_size < 200_000


def test_a_rehearsal_keeps_none(tmp_path):
    run.train(settings("algo=bp", "model=mlp", *SHORT, "trainer.fast_dev_run=true"), tmp_path)
    assert not (tmp_path / "predictions.npz").exists()


def test_a_copy_that_stands_in_for_a_missing_share_is_left_out(tmp_path):
    answers, images = TestAnswers(), torch.arange(6 * 4, dtype=torch.uint8).view(6, 1, 2, 2)
    for labels, weight in (([0, 1, 2], 1.0), ([1], 0.0), ([2, 2, 1], 1.0)):
        batch = Batch(torch.zeros(len(labels), 1, 2, 2), torch.tensor(labels), None, weight)
        answers.on_test_batch_end(None, None, torch.eye(3)[[0] * len(labels)] * 1e6, batch, 0)
    answers.on_test_end(None, None)
    answers.write(tmp_path / "predictions.npz", images)
    kept = mistakes.read_answers(tmp_path / "predictions.npz")
    assert kept.labels.tolist() == [0, 1, 2, 2, 2, 1]
    assert kept.mistakes.tolist() == [1, 2, 3, 4, 5]
    assert np.array_equal(kept.images, images[1:])
    assert np.isfinite(kept.scores).all()


def test_answers_of_a_huge_test_set_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("ffbp.lifecycle.predictions.MOST_SCORES", 8)
    answers = TestAnswers()
    answers.on_test_batch_end(None, None, torch.eye(3), SimpleNamespace(labels=torch.arange(3), counted=3), 0)
    answers.on_test_end(None, None)
    answers.write(tmp_path / "predictions.npz", torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    assert not list(tmp_path.iterdir())


def save(path: Path, labels: list[int], answers: list[int], sure: float = 0.75, changed: dict | None = None) -> Path:
    """A predictions.npz, with an image of one brightness for each mistake: ten times its number."""
    wrong = np.flatnonzero(np.array(labels) != np.array(answers))
    scores = np.full((len(labels), 3), -9.0, np.float16)
    scores[np.arange(len(labels)), answers] = np.log(sure)
    arrays = {
        "labels": np.array(labels, np.uint8), "answers": np.array(answers, np.uint8), "scores": scores,
        "mistakes": wrong.astype(np.int32),
        "images": (10 * wrong[:, None, None, None] + np.zeros((1, 1, 2, 2))).astype(np.uint8),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays | (changed or {}))
    return path


def groups_of(tmp_path: Path, *answers: list[list[int]]) -> list[Group]:
    """A group for each list of runs' answers to images of classes 0, 1, 2, 0, 1."""
    groups = []
    for number, runs in enumerate(answers):
        found = []
        for seed, of_run in enumerate(runs):
            name = f"{number}/{seed}"
            save(tmp_path / name / "predictions.npz", [0, 1, 2, 0, 1], of_run, sure=0.5 + 0.25 * seed)
            found.append(Run(a_run("bp", "mlp", seed, 0.9).metrics, {}, [], {}, name))
        groups.append(Group(f"group {number}", tuple(found)))
    return groups


def test_groups_are_right_or_wrong_by_the_majority_of_their_runs(tmp_path):
    groups = groups_of(
        tmp_path, [[0, 2, 2, 1, 1], [0, 2, 2, 0, 1]], [[0, 1, 1, 0, 0], [0, 1, 1, 0, 1], [0, 2, 0, 0, 2]]
    )
    shown, lines = mistakes.for_page(groups, tmp_path)
    assert lines == []
    assert shown["labels"] == "01201"
    assert [group["answers"] for group in shown["groups"]] == [".2. .", "..1.0"]
    assert shown["groups"][0]["confusion"] == [3, 1, 0, 0, 2, 2, 0, 0, 2]
    assert shown["pictured"] == [1, 2, 4]  # not image 3, on which no group is wrong
    assert shown["groups"][0]["sure"] == [62, 0, 0]  # (0.5 + 0.75) / 2
    assert shown["groups"][1]["sure"][1] == int(100 * (0.5 + 0.75 + np.exp(-9.0)) / 3)
    sprite = np.array(Image.open(io.BytesIO(base64.b64decode(shown["sprite"]["png"]))))
    assert sprite.shape == (2, 64)
    assert sprite[:, :8].tolist() == [[10, 10, 20, 20, 40, 40, 0, 0]] * 2


def test_runs_without_answers_or_on_other_images_are_compared_without_them(tmp_path):
    groups = groups_of(tmp_path, [[0, 2, 2, 1, 1]], [[0, 1, 1, 0, 0]], [[0, 1, 1, 0, 0]])
    (tmp_path / "1" / "0" / "predictions.npz").unlink()
    save(tmp_path / "2" / "0" / "predictions.npz", [0, 1, 2], [0, 1, 1])
    shown, lines = mistakes.for_page(groups, tmp_path)
    assert [group is None for group in shown["groups"]] == [False, True, True]
    assert lines == ["mnist: the answers of 1 runs are left out, of other test images."]
    assert mistakes.for_page(groups[1:2], tmp_path) == (None, [])
    json.dumps(shown)


class Unpickled:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


DAMAGED = {
    "a pickle": {"labels": np.array([Unpickled()] * 3, dtype=object)},
    "a label out of range": {"labels": np.array([0, 1, 3], np.uint8)},
    "a negative number": {"mistakes": np.array([-1], np.int32)},
    "another length": {"answers": np.array([0, 1], np.uint8)},
    "floats for labels": {"labels": np.zeros(3)},
    "more images than mistakes": {"images": np.zeros((2, 1, 2, 2), np.uint8)},
    "images of no size": {"images": np.zeros((1, 1, 0, 2), np.uint8)},
    "a large image": {"images": np.zeros((1, 1, 2, 300), np.uint8)},
    "too many classes": {"scores": np.zeros((3, 1001), np.float16)},
    "something that is compressed well": {"images": np.zeros((1, 1, 4_001, 4_000), np.uint8)},
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_answers_that_are_not_ours_are_refused_in_a_line(kind, tmp_path):
    path = save(tmp_path / "predictions.npz", [0, 1, 2], [0, 1, 1], changed=DAMAGED[kind])
    with pytest.raises(CheckpointError, match=r"predictions\.npz: cannot be read \(.*\); its answers are left out"):
        mistakes.read_answers(path)


def test_damaged_files_are_refused_and_so_are_headers_that_promise_too_much(tmp_path):
    path = save(tmp_path / "predictions.npz", [0, 1, 2], [0, 1, 1])
    content = path.read_bytes()
    mistakes.read_answers(path)
    for damaged in (b"", b"x", content[:200], content[:-30], content[:60] + bytes(40) + content[100:]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            mistakes.read_answers(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name in mistakes.Answers._fields:
            header = io.BytesIO()
            shape = {"descr": "|u1", "fortran_order": False, "shape": (10**12,)}
            np.lib.format.write_array_header_1_0(header, shape)
            archive.writestr(f"{name}.npy", header.getvalue() + bytes(10))
    with pytest.raises(CheckpointError, match="not of the shape"):
        mistakes.read_answers(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="ordinary file"):
        mistakes.read_answers(path)

"""Looking into a run's net: features, neighbours, checkpoints that cannot be used."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import penultimate, registry
from model.effective_receptive_field import EffectiveField
from model.errors import ModelError
from model.grad_cam import NoGradient
from tests.checkpoint_helpers import save_checkpoint
from tests.training_helpers import binary_folder, tiny_run
from trainer.cli import inspect, main
from trainer.errors import DataError, UserError
from trainer.inspection import answers as inspection
from trainer.inspection import features
from trainer.inspection.answers import Inspection, NotTrusted, open_inspection
from trainer.lifecycle.session import train_run
from trainer.runs import checkpoint, predictions
from trainer.runs.control import Control
from trainer.runs.rundir import RunDir


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("inspection")
    data = binary_folder(folder / "data")
    run = tiny_run(folder, f"data='{data}'", "train.precision=fp32")
    assert train_run(run, Control(run)).state == "completed"
    return run


@pytest.fixture
def last_checkpoint(trained: RunDir) -> Iterator[Path]:
    """A test may spoil it."""
    path = trained.checkpoint("last")
    before = path.read_bytes()
    yield path
    path.unlink(missing_ok=True)  # which may be a pipe by now
    path.write_bytes(before)


def no_gradient(*_: object) -> None:
    raise NoGradient("nothing comes through")


def no_place(*_: object, **__: object) -> None:
    raise ModelError("the gradient probe fails")


def opened(run: RunDir, role: str = "last") -> Inspection:
    return open_inspection(run, role, device="cpu", trusted=True)


def test_probabilities_are_those_of_the_saved_evaluation(trained: RunDir) -> None:
    found = opened(trained)
    saved = predictions.load(trained.predictions(2, "plain"))
    assert found.epoch == 2
    for index in range(len(saved.labels)):
        mine = found.probabilities(index).numpy()
        assert np.allclose(mine, saved.probabilities[index], atol=2e-3)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet8", "stages.2.0.conv2.conv"),  # not the 1x1 shortcut after it
        ("resnet20", "stages.2.2.conv2.conv"),
        ("tiny", "late.3.pointwise"),
        ("fast", "groups.3.conv2"),
    ],
)
def test_the_layer_that_sees_the_most_is_looked_at_unasked(
    trained: RunDir, name: str, layer: str
) -> None:
    found = replace(opened(trained), net=registry.build(name).eval())
    assert found.check(0) == layer
    assert found.check(0, found.layers[0]) == found.layers[0]


def test_neighbours_are_those_of_brute_force(trained: RunDir) -> None:
    found = opened(trained)
    asked: list[tuple[int, int]] = []
    found.compute_features(lambda done, total: asked.append((done, total)))
    assert asked == [(0, 100)]
    net = found.net
    body = torch.nn.Sequential(*list(net.children())[:-1])  # all but the linear layer
    with torch.no_grad():
        train = body(found.normalised("train", 0, 100)).double().numpy()
        query = body(found.normalised("test", 7)).double().numpy()[0]
    cosine = train @ query / np.linalg.norm(train, axis=1) / np.linalg.norm(query)
    near = found.nearest(7, 5)
    best = np.sort(cosine)[::-1][:5]
    assert np.allclose([one.similarity for one in near], best, atol=2e-3)
    assert np.allclose([cosine[one.index] for one in near], best, atol=2e-3)
    assert [one.label for one in near] == [found.dataset.train.labels[n.index] for n in near]


def test_features_are_kept_and_belong_to_their_weights(
    trained: RunDir, last_checkpoint: Path
) -> None:
    found = opened(trained)
    found.compute_features()
    again = opened(trained)
    assert again.has_features
    assert again.nearest(3) == found.nearest(3)
    state = checkpoint.load(last_checkpoint)
    state.pop("format")
    state["net"]["0.bias"] += 1
    save_checkpoint(state, last_checkpoint)
    other = opened(trained)
    assert not other.has_features
    with pytest.raises(UserError, match="not computed yet"):
        other.nearest(3)


def test_training_images_of_others_are_not_looked_at(tmp_path: Path) -> None:
    """They say how the net's input is normalised, and which images are near."""
    data, true = binary_folder(tmp_path / "data"), binary_folder(tmp_path / "true")
    run = tiny_run(tmp_path, f"data='{data}'", "train.precision=fp32", "train.epochs=1")
    assert train_run(run, Control(run)).state == "completed"
    before = opened(run).probabilities(5)
    batch = data / "cifar-10-batches-bin" / "data_batch_1.bin"
    batch.write_bytes(
        bytes(value // 4 if i % 3073 else value for i, value in enumerate(batch.read_bytes()))
    )
    with pytest.raises(DataError, match="the training images are not those") as refused:
        opened(run)
    assert "\n" not in str(refused.value)
    with pytest.raises(DataError, match="the training images are not those"):
        open_inspection(run, data=str(tmp_path / "none"), device="cpu", trusted=True)
    found = open_inspection(run, "last", data=str(true), device="cpu", trusted=True)
    assert torch.equal(found.probabilities(5), before)


@pytest.mark.parametrize("damage", ["cut", "pickle", "other shape", "not finite"])
def test_a_damaged_cache_is_computed_again(trained: RunDir, damage: str) -> None:
    found = opened(trained)
    found.compute_features()
    path = trained.features("last")
    rows = np.zeros((100, 16), np.float16)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "pickle":
        identity = np.array(found.identity)
        np.savez(path, features=np.array([{}], object), identity=identity)
    elif damage == "other shape":
        features.save(rows[:99], found.identity, path)
    else:
        features.save(np.full_like(rows, np.nan), found.identity, path)
    again = opened(trained)
    assert not again.has_features
    again.compute_features()
    assert again.nearest(0) == found.nearest(0)


def test_an_aborted_computation_leaves_nothing(trained: RunDir) -> None:
    trained.features("last").unlink(missing_ok=True)
    found = opened(trained)

    def leave(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found.compute_features(leave)
    assert not found.has_features
    assert not list(trained.path.glob("cache/*"))


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("open('hacked', 'w')",))


@pytest.mark.parametrize(
    "damage", ["gone", "pipe", "huge", "cut", "hostile", "no net", "other net", "no data"]
)
def test_an_unusable_checkpoint_is_one_line(
    trained: RunDir,
    last_checkpoint: Path,
    damage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    state = checkpoint.load(last_checkpoint)
    state.pop("format")
    if damage == "gone":
        last_checkpoint.unlink()
    elif damage == "pipe":
        last_checkpoint.unlink()
        os.mkfifo(last_checkpoint)
    elif damage == "huge":
        os.truncate(last_checkpoint, 1 << 40)
    elif damage == "cut":
        last_checkpoint.write_bytes(last_checkpoint.read_bytes()[:500])
    elif damage == "hostile":
        last_checkpoint.write_bytes(pickle.dumps(Payload(), 2))
    elif damage == "no net":
        save_checkpoint({**state, "net": 3}, last_checkpoint)
    elif damage == "other net":
        save_checkpoint({**state, "net": {"a": torch.zeros(3)}}, last_checkpoint)
    else:
        save_checkpoint({**state, "fingerprint": "0" * 64}, last_checkpoint)
    with pytest.raises(UserError) as caught:
        opened(trained)
    reason = {
        "gone": "there is no checkpoint last.pt",
        "pipe": "cannot read the checkpoint last.pt: it is no file",
        "huge": "the checkpoint last.pt has 1099.5 GB: of more than 4.3 GB none is opened",
        "cut": "is damaged",
        "hostile": "",
        "no net": "do not fit",
        "other net": "do not fit",
        "no data": "other test images",
    }[damage]
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("hacked").exists()


def test_a_net_of_a_file_is_not_run_unasked(trained: RunDir) -> None:
    with pytest.raises(NotTrusted, match=r"tiny\.py:Tiny"):
        open_inspection(trained, "last", device="cpu")


def test_short_memory_is_said(trained: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "SPARE_BYTES", 1 << 60)
    with pytest.raises(UserError, match="memory is short"):
        opened(trained)


@pytest.mark.parametrize("name", registry.names())
def test_features_are_what_the_last_layer_takes(name: str) -> None:
    torch.manual_seed(0)
    net = registry.build(name).eval()
    images = torch.randn(3, 3, 32, 32)
    layer = penultimate.last_layer(net, images[:2])
    found, scores = penultimate.features(net, images, layer)
    last = net.get_submodule(layer)
    assert isinstance(last, torch.nn.Linear | torch.nn.Conv2d)
    assert found.shape == (3, last.weight.shape[1])
    with torch.no_grad():
        assert torch.equal(scores, net(images))
        # the classifier is linear: of the mean features it makes the scores, up to a factor
        mine = found @ last.weight.flatten(1).T
        mine += 0 if last.bias is None else last.bias
        other = scores.flatten()
        factor = float(mine.flatten() @ other / (other @ other))
        assert torch.allclose(mine, factor * scores, atol=1e-3)


def test_the_command_line_prints_it(
    trained: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    where = ("--runs-dir", str(trained.path.parent))
    assert main.run(["inspect", "last", "5", "--layer", "4", "--json", *where]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["index"] == 5
    assert abs(sum(found["probabilities"].values()) - 1) < 1e-5
    assert found["receptive_field"] == [7, 7]
    assert found["receptive_field_box"] == [13, 19, 13, 19]
    assert len(found["neighbours"]) == 8
    assert np.array(found["grad_cam"]).shape == (32, 32)
    assert main.run(["inspect", "last", "5", "--layer", "4", "--top", "2", *where]) == 0
    text = capsys.readouterr().out
    assert "7 x 7 in theory, rows 13 to 19, columns 13 to 19" in text
    with monkeypatch.context() as patch:
        patch.setattr(inspection, "gradient_intervals", no_place)
        blank = EffectiveField(torch.zeros(32, 32), None)
        patch.setattr(inspection, "effective_receptive_field", lambda *_: blank)
        assert main.run(["inspect", "last", "5", "--layer", "4", "--top", "0", *where]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "7 x 7 in theory, its place in the image unknown; no pixel changes it" in words
    for function in ("effective_receptive_field", "grad_cam"):
        monkeypatch.setattr(inspection, function, no_gradient)
    assert main.run(["inspect", "last", "5", "--top", "0", *where]) == 0
    assert "the effective one is not known, the net keeps no grad" in capsys.readouterr().out
    assert main.run(["inspect", "last", "5", "--json", "--top", "0", *where]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["grad_cam"] is found["effective_box"] is None
    assert not found["effective_known"]
    for wrong, reason in (
        (("last", "30"), "there is no test image 30: 0 to 29"),
        (("last", "5", "--layer", "x"), "the net has no convolution 'x': 0, 4"),
        (("last", "5", "--checkpoint", "x"), "best or last"),
        (("last", "5", "--data", "/nonexistent"), "data '/nonexistent' does not exist"),
        (("last", "5", "--data", "synthetic"), "has other test images"),
    ):
        assert main.run(["inspect", *wrong, *where]) == 2
        assert reason in capsys.readouterr().err


def test_a_net_without_convolutions_is_looked_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    data, net = binary_folder(tmp_path / "data"), tmp_path / "mlp.py"
    net.write_text(
        "from torch import nn\n\n\n"
        "def mlp(classes):\n"
        "    head = nn.ReLU(), nn.Linear(16, classes)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), *head)\n"
    )
    name = f"model.name='{net}:mlp'"
    run = tiny_run(tmp_path, f"data='{data}'", name, "train.precision=fp32", "train.epochs=1")
    assert train_run(run, Control(run)).state == "completed"
    where = ("--runs-dir", str(run.path.parent), "--trust-net")
    assert main.run(["inspect", "last", "5", "--json", *where]) == 0
    found = json.loads(capsys.readouterr().out)
    assert abs(sum(found["probabilities"].values()) - 1) < 1e-5
    assert len(found["neighbours"]) == 8
    nothing = ("layer", "receptive_field", "receptive_field_box", "effective_box", "grad_cam")
    assert [found[key] for key in nothing] == [None] * 5
    assert not found["effective_known"]
    assert main.run(["inspect", "last", "5", *where]) == 0
    text = capsys.readouterr().out
    assert "the net has no convolution over images: no Grad-CAM, no receptive field\n" in text
    assert "nearest training image" in text
    assert main.run(["inspect", "last", "5", "--layer", "1", *where]) == 2
    assert "no convolution '1': it has none over images" in capsys.readouterr().err


def test_classes_are_named_as_the_run_names_them(
    trained: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = binary_folder(tmp_path / "other")
    names = other / "cifar-10-batches-bin" / "batches.meta.txt"
    names.write_text("".join(f"k{i}\n" for i in range(10)))
    monkeypatch.setattr(inspection.pictures, "candidates", lambda *_: (str(other),))
    found = opened(trained).dataset
    assert str(other) in found.source
    assert found.classes[:2] == ("airplane", "automobile")


def test_classes_of_one_name_are_told_apart(
    trained: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(trained)
    labels = found.dataset.test.labels.copy()
    labels[5] = found.probabilities(5).argmin()
    test = replace(found.dataset.test, labels=labels)
    found = replace(found, dataset=replace(found.dataset, classes=("x",) * 10, test=test))
    monkeypatch.setattr(inspection, "open_inspection", lambda *_, **__: found)
    monkeypatch.setattr(inspect, "MOST_CLASSES", 3)
    where = ("--runs-dir", str(trained.path.parent), "--top", "0")
    assert main.run(["inspect", "last", "5", "--json", *where]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["probabilities"]) == 10
    assert main.run(["inspect", "last", "5", *where]) == 0
    lines = capsys.readouterr().out.splitlines()
    (actual,) = (line for line in lines if line.endswith("actual"))
    (predicted,) = (line for line in lines if line.endswith("predicted"))
    assert actual.split("  ")[0].strip() == answer["actual"]
    assert predicted.split("  ")[0].strip() == answer["predicted"]

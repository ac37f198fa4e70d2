from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests import sample_log
from trainer.cli import main
from trainer.cli import output as outputs
from trainer.runs import predictions
from trainer.runs.predictions import Predictions
from trainer.runs.rundir import RunDir

Cli = Callable[..., tuple[int, str, str]]
LABELS = [0, 0, 1, 2, 1, 2]


def predicting(
    run: RunDir,
    epoch: int,
    predicted: list[int],
    fingerprint: str = "0",
    labels: Sequence[int] = LABELS,
) -> None:
    made = Predictions(
        probabilities=np.eye(3, dtype=np.float16)[predicted],
        labels=np.array(labels[: len(predicted)], np.int64),
        split="test",
        fingerprint=fingerprint * 64,
        epoch=epoch,
    )
    predictions.save(made, run.predictions(epoch, "plain"))


def made_run(path: Path) -> RunDir:
    run = RunDir(path)
    run.path.mkdir()
    run.log.write_bytes(sample_log.lines())
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Epoch 1: 1, 3 and 4 wrong. Epoch 3: 0, 3 and 4 wrong, 4 in the same way."""
    run = made_run(tmp_path / sample_log.RUN)
    predicting(run, 1, [0, 1, 1, 0, 0, 2])
    predicting(run, 3, [1, 0, 1, 1, 0, 2])
    return run


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    monkeypatch.setattr(outputs.out, "lost", None)
    monkeypatch.setenv("CIFAR_TUI_RUNS", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main.run(["diff", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_two_epochs_of_one_run(cli: Cli, run: RunDir) -> None:
    code, text, err = cli("last", "--epoch", 1, "--list", "both-wrong")
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert lines[1].split()[:4] == ["first", sample_log.RUN, "1", "50.00"]
    assert [line.split()[-2:] for line in lines if line.startswith("first ")][1:] == [
        ["2", "1"],
        ["1", "2"],
    ]
    assert "fixes 1 and breaks 1 of 6 test images: McNemar's exact p = 1; of 2 wrong" in text
    assert "1 are the same mistake" in text
    assert any(line.split() == ["stripes", "ring", "-1"] for line in lines)
    assert [line.split()[0] for line in lines[-2:]] == ["3", "4"]
    assert "no image is both-right" not in text


def test_json(cli: Cli, run: RunDir) -> None:
    report = json.loads(cli("last", "last", "--epoch", 3, "--other-epoch", 1, "--json")[1])
    assert (report["first"]["epoch"], report["second"]["epoch"]) == (3, 1)
    assert report["counts"] == {"fixed": 1, "broken": 1, "both_wrong": 2, "both_right": 2}
    assert (report["fixed"], report["broken"]) == ([0], [1])
    assert (report["both_wrong"], report["both_right"]) == ([3, 4], [2, 5])
    assert report["same_mistake"] == [4]
    assert report["mcnemar_exact_p"] == 1
    assert report["mcnemar_exact_log10_p"] == 0
    assert np.sum(report["confusion_difference"]) == 0
    assert report["first"]["calibration"]["error"] == 0.5


def test_two_runs(cli: Cli, run: RunDir, tmp_path: Path) -> None:
    other = made_run(tmp_path / "20261123-150000-other-0000")
    predicting(other, 3, LABELS)
    report = json.loads(cli("quick", "other", "--json")[1])
    assert report["first"]["run"] == sample_log.RUN
    assert report["second"] == {**report["second"], "run": other.id, "accuracy": 1.0}
    assert report["fixed"] == [0, 3, 4]


def test_a_p_value_below_any_float_is_not_0(cli: Cli, run: RunDir, tmp_path: Path) -> None:
    other = made_run(tmp_path / "20261123-150000-other-0000")
    predicting(run, 3, [0] * 3000, labels=[0] * 3000)
    predicting(other, 3, [1] * 3000, labels=[0] * 3000)
    text = cli("other", "quick")[1]
    assert "p < 1e-300" in text
    report = json.loads(cli("other", "quick", "--json")[1])
    assert report["mcnemar_exact_p"] is None
    assert report["mcnemar_exact_log10_p"] == pytest.approx(-2999 * np.log10(2))


@pytest.mark.parametrize(
    ("predicted", "fingerprint", "part"),
    [(LABELS, "1", "different test images"), (LABELS[:4], "0", "one is of 6 images")],
)
def test_other_test_images(
    cli: Cli, run: RunDir, tmp_path: Path, predicted: list[int], fingerprint: str, part: str
) -> None:
    other = made_run(tmp_path / "20261123-150000-other-0000")
    predicting(other, 3, predicted, fingerprint)
    code, text, err = cli("quick", "other")
    assert (code, text, err.count("\n")) == (2, "", 1)
    assert part in err


def test_bad_input(cli: Cli, run: RunDir, tmp_path: Path) -> None:
    code, _, err = cli("last")
    assert code == 2
    assert "both are epoch 3" in err
    code, _, err = cli("last", "--epoch", 9)
    assert code == 2
    assert "no predictions of epoch 9" in err
    code, _, err = cli("last", "--epoch", 1, "--list", "fixed", "--json")
    assert code == 2
    assert "leave out --list" in err
    code, _, err = cli("last", "nobody")
    assert code == 2
    assert "no run 'nobody'" in err
    code, _, err = cli("last", "--other-epoch", 2)
    assert code == 2
    assert "epoch-0002-plain.npz are gone" in err
    run.predictions(1, "plain").write_bytes(b"PK damaged")
    code, text, err = cli("last", "--epoch", 1)
    assert (code, text, err.count("\n")) == (2, "", 1)
    assert "cannot be read" in err
    other = made_run(tmp_path / "20261123-150000-other-0000")
    other.log.write_bytes(sample_log.lines(sample_log.whole()[:3]))
    code, text, err = cli("quick", "other")
    assert (code, text, err.count("\n")) == (2, "", 1)
    assert "no predictions: its log tells of no evaluation" in err

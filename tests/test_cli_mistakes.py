from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import sample_log
from trainer import predictions
from trainer.cli import main
from trainer.cli import output as outputs
from trainer.predictions import Predictions
from trainer.rundir import RunDir

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """The sample run with predictions of its last epoch: images 1, 3 and 4 are wrong."""
    run = RunDir(tmp_path / sample_log.RUN)
    run.path.mkdir()
    run.log.write_bytes(sample_log.lines())
    probabilities = [
        [0.9, 0.05, 0.05],
        [0.2, 0.7, 0.1],
        [0.1, 0.8, 0.1],
        [1.0, 0.0, 0.0],
        [0.3, 0.3, 0.4],
        [0.0, 0.0, 1.0],
    ]
    made = Predictions(
        probabilities=np.array(probabilities, np.float16),
        labels=np.array([0, 0, 1, 2, 0, 2]),
        split="test",
        fingerprint="0" * 64,
        epoch=3,
    )
    predictions.save(made, run.predictions(3, "plain"))
    return run


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    monkeypatch.setattr(outputs.out, "lost", None)
    monkeypatch.setenv("CIFAR_TUI_RUNS", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main.run(["mistakes", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_table(cli: Cli, run: RunDir) -> None:
    code, text, _ = cli("last")
    assert code == 0
    first, head, *rows = text.splitlines()
    assert first == (
        "3 of 6 test images misclassified: 50.00 % test accuracy, epoch 3, data synthetic"
    )
    assert "p(predicted)" in head
    assert [row.split()[0] for row in rows] == ["3", "1", "4"]
    assert rows[0].split()[1:] == ["stripes", "ring", "100.00", "%", "0.00", "%", "16.636"]


@pytest.mark.parametrize(
    ("order", "indices"), [("confidence", [3, 1, 4]), ("loss", [3, 1, 4]), ("index", [1, 3, 4])]
)
def test_orders(cli: Cli, run: RunDir, order: str, indices: list[int]) -> None:
    report = json.loads(cli("last", "--json", "--sort", order)[1])
    assert [m["index"] for m in report["mistakes"]] == indices
    assert report["misclassified"] == 3
    assert report["split"] == "test"
    assert report["data"] == "synthetic"


def test_losses_and_probabilities(cli: Cli, run: RunDir) -> None:
    report = json.loads(cli("last", "--json", "--sort", "index")[1])
    one = report["mistakes"][0]
    assert (one["actual"], one["predicted"]) == ("ring", "disc")
    assert one["p_predicted"] == pytest.approx(0.7, abs=1e-3)
    assert one["p_actual"] == pytest.approx(0.2, abs=1e-3)
    assert one["loss"] == pytest.approx(-np.log(0.2), abs=1e-3)


def test_top_and_pair(cli: Cli, run: RunDir) -> None:
    assert [m["index"] for m in json.loads(cli("last", "--json", "--top", 1)[1])["mistakes"]] == [3]
    report = json.loads(cli("last", "--json", "--pair", "ring, disc")[1])
    assert [m["index"] for m in report["mistakes"]] == [1]
    assert json.loads(cli("last", "--json", "--pair", "disc,ring")[1])["mistakes"] == []
    for bad in ("ring", "ring,cat", "a,b,c", ""):
        code, _, err = cli("last", "--pair", bad)
        assert code == 2
        assert "ring, disc, stripes" in err


def test_csv(cli: Cli, run: RunDir) -> None:
    code, text, _ = cli("last", "--csv")
    assert code == 0
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["index"] for row in rows] == ["3", "1", "4"]
    assert rows[0]["actual"] == "stripes"
    assert cli("last", "--csv", "--json")[0] == 2


def test_epochs(cli: Cli, run: RunDir) -> None:
    assert cli("last", "--epoch", 3)[0] == 0
    code, _, err = cli("last", "--epoch", 1)
    assert code == 2
    assert "epoch-0001-plain.npz are gone" in err
    code, _, err = cli("last", "--epoch", 9)
    assert code == 2
    assert "no predictions of epoch 9, but of 1, 2, 3" in err


def test_no_predictions(cli: Cli, run: RunDir) -> None:
    run.log.write_bytes(sample_log.lines(sample_log.whole()[:3]))
    code, _, err = cli("last")
    assert code == 2
    assert "no predictions yet" in err


def test_a_log_that_names_a_file_elsewhere(cli: Cli, run: RunDir) -> None:
    data = run.log.read_bytes().replace(b"predictions/epoch-0003", b"../../../epoch-0003")
    run.log.write_bytes(data)
    code, _, err = cli("last")
    assert code == 2
    assert "outside the run's folder" in err


def test_damaged_predictions(cli: Cli, run: RunDir) -> None:
    path = run.predictions(3, "plain")
    path.write_bytes(path.read_bytes()[:100])
    code, _, err = cli("last")
    assert code == 2
    assert "cannot be read" in err
    assert err.count("\n") == 1

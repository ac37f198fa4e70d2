from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import data_helpers, sample_log
from tests.data_helpers import entry
from tests.tui_helpers import held
from trainer.analysis.mistakes_filter import FLAGS, QUANTITIES, parse_filter
from trainer.cli import main
from trainer.cli import output as outputs
from trainer.data import sources, synthetic
from trainer.events import (
    LOG_GAP,
    NOT_SAVED,
    AnyEvent,
    EvalEnded,
    Notice,
    PredictionsSaved,
    RunEnded,
)
from trainer.runs import predictions
from trainer.runs.predictions import Predictions
from trainer.runs.rundir import RunDir

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


DRAWN = cache(synthetic.load_test)
"""Drawn once, where the paths of the run's images are looked for."""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    monkeypatch.setattr(outputs.out, "lost", None)
    monkeypatch.setenv("CIFAR_TUI_RUNS", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(synthetic, "load_test", DRAWN)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main.run(["mistakes", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_predictions_of_another_split_are_no_test_figures(cli: Cli, run: RunDir) -> None:
    path = run.predictions(3, "plain")
    predictions.save(replace(predictions.load(path), split="train"), path)
    code, text, err = cli("last")
    assert (code, text) == (2, "")
    assert "predictions/epoch-0003-plain.npz are of another split than test" in err


def test_the_table(cli: Cli, run: RunDir) -> None:
    code, text, _ = cli("last")
    assert code == 0
    first, confused, calibration, head, *rows = text.splitlines()
    assert first == (
        "3 of 6 test images misclassified: 50.00 % test accuracy, epoch 3, data synthetic"
    )
    assert confused == (
        "most confused: ring > disc 1 (33.33 %), ring > stripes 1 (33.33 %), "
        "stripes > ring 1 (50.00 %)"
    )
    assert calibration.startswith("calibration: mean confidence 80.00 %, expected calibration")
    assert "p(predicted)" in head
    assert [row.split()[0] for row in rows] == ["3", "1", "4"]
    assert rows[0].split()[1:] == ["stripes", "ring", "≥99.97", "%", "<0.01", "%", "≥16.23"]


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
        assert "…" not in err


def named(run: RunDir, *names: str) -> None:
    """As if the run's classes had these names."""
    old, new = (
        '"classes":' + json.dumps(n, separators=(",", ":")) for n in (sample_log.CLASSES, names)
    )
    log = run.log.read_text()
    assert old in log
    run.log.write_text(log.replace(old, new))


def test_classes_of_one_name_are_told_apart(cli: Cli, run: RunDir) -> None:
    named(run, "cat", "a,b", "cat")  # as logs of earlier versions may have it
    assert "cat > a,b 1 (33.33 %), cat > cat (2) 1" in cli("last")[1]
    assert indices(cli("last", "--json", "--pair", "cat (2),cat")[1]) == [3]
    assert indices(cli("last", "--json", "--where", '"cat">"cat (2)"')[1]) == [4]
    assert json.loads(cli("last", "--json")[1])["classes"] == ["cat", "a,b", "cat (2)"]


def test_a_bad_pair_is_told_what_to_write(cli: Cli, run: RunDir) -> None:
    assert "PREDICTED: did you mean stripes or ring?\n" in cli("last", "--pair", "strips,rng")[2]
    path = run.predictions(3, "plain")
    made = predictions.load(path)
    more = np.pad(made.probabilities, ((0, 0), (0, 17)))
    predictions.save(replace(made, probabilities=more), path)
    named(run, "a,b", *(f"n{i}" for i in range(19)))
    _, _, err = cli("last", "--pair", "a,b,n1")
    assert "out of a,b, n0, n1" in err
    assert "n10, …; names with a comma: --where '\"a,b\">cat'\n" in err


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
    with held(run):
        code, _, err = cli("last")
    assert code == 2
    assert "no predictions yet" in err
    code, _, err = cli("last")
    assert code == 2
    assert "no predictions: its log tells of no evaluation" in err, "it has crashed"
    ended = sample_log.envelope(3, RunEnded(state="stopped"))
    rest = [*sample_log.whole()[:3], ended]
    run.log.write_bytes(sample_log.lines(rest))
    code, _, err = cli("last")
    assert code == 2
    assert "no predictions: its log tells of no evaluation" in err
    run.log.write_bytes(b"")
    code, _, err = cli("last")
    assert (code, err.count("\n")) == (2, 1)
    assert "no predictions: the log is empty" in err
    run.log.unlink()
    os.mkfifo(run.log)
    code, _, err = cli("last")
    assert (code, err.count("\n")) == (2, 1)
    assert "no predictions: the log cannot be read: it is no file" in err


def test_why_there_are_no_predictions_is_what_the_log_tells(cli: Cli, run: RunDir) -> None:
    events = [e.event for e in sample_log.whole() if not isinstance(e.event, PredictionsSaved)]

    def why(*found: AnyEvent, start: int = 0) -> str:
        kept = enumerate(found, start)
        run.log.write_bytes(sample_log.lines([sample_log.envelope(i, e) for i, e in kept]))
        return cli("last")[2].partition("has no predictions")[2].strip()

    assert why(*events) == ": its log tells of none"
    assert why(*events, start=7) == ": its log is incomplete, and tells of none"
    gap = Notice(level="warning", code=LOG_GAP, message="")
    assert why(*events, gap) == ": its log is incomplete, and tells of none"
    unsaved = Notice(level="error", code=f"predictions{NOT_SAVED}", message="")
    not_saved = ": those of its evaluations were not saved, see its notices (cifar-tui show)"
    assert why(*events, unsaved) == not_saved
    others = [e for e in events if not isinstance(e, EvalEnded) or e.variant != "plain"]
    assert why(*others, unsaved) != not_saved


def test_a_log_that_names_a_file_elsewhere(cli: Cli, run: RunDir) -> None:
    data = run.log.read_bytes().replace(b"predictions/epoch-0003", b"../../../epoch-0003")
    run.log.write_bytes(data)
    code, _, err = cli("last")
    assert code == 2
    assert "outside the run's folder" in err


def test_predictions_of_another_epoch(cli: Cli, run: RunDir) -> None:
    of_third = run.predictions(3, "plain")
    found = predictions.load(of_third)
    predictions.save(replace(found, epoch=1), of_third)
    code, text, err = cli("last")
    assert (code, text, err.count("\n")) == (2, "", 1)
    assert "are of epoch 1, not 3 as the run's log says; there are other epochs" in err


def test_damaged_predictions(cli: Cli, run: RunDir) -> None:
    path = run.predictions(3, "plain")
    path.write_bytes(path.read_bytes()[:100])
    code, _, err = cli("last")
    assert code == 2
    assert "cannot be read" in err
    assert err.count("\n") == 1
    assert "there are other epochs (--epoch): 1, 2\n" in err


# ---- filters, people, pictures ----------------------------------------------------------------


def indices(text: str) -> list[int]:
    return [m["index"] for m in json.loads(text)["mistakes"]]


def test_where(cli: Cli, run: RunDir) -> None:
    assert indices(cli("last", "--json", "--where", "ring> loss>1")[1]) == [1, 4]
    assert indices(cli("last", "--json", "--where", "conf=0.5-0.9")[1]) == [1]
    assert indices(cli("last", "--json", "--pair", "ring,disc", "--where", "loss<1")[1]) == []
    everything = cli("last", "--json", "--all", "--sort", "index")[1]
    assert indices(everything) == [0, 1, 2, 3, 4, 5]
    assert "2 of ring>" in cli("last", "--where", "ring>")[1]
    assert cli("last", "--where", " ") == cli("last")
    for where, part in (("zebra", "nothing known as 'zebra'"), ("human<0.5", "--human FILE")):
        code, text, err = cli("last", "--where", where)
        assert (code, text, err.count("\n")) == (2, "", 1)
        assert part in err
    code, _, err = cli("last", "--pair", "ring,disc", "--where", "ring>disc")
    assert code == 2
    assert "either with --pair or with --where" in err


def test_the_report(cli: Cli, run: RunDir) -> None:
    report = json.loads(cli("last", "--json")[1])
    assert report["accuracy"] == 0.5
    assert report["confusion"] == [[1, 1, 1], [0, 1, 0], [1, 0, 1]]
    first = report["most_confused"][0]
    assert first == {"actual": "ring", "predicted": "disc", "count": 1, "share": 1 / 3}
    assert report["per_class"][1]["precision"] == 0.5
    assert report["calibration"]["error"] == pytest.approx(
        (0.1 + 0.7 + 0.2 + 1 + 0.4 + 0) / 6, abs=1e-3
    )
    assert "guess" in report["label_doubt"]["is"]
    assert "human" not in report
    assert "review" not in report


COUNTS = [[10, 0, 0], [4, 6, 0], [0, 10, 0], [0, 0, 10], [7, 0, 3], [0, 5, 5]]


@pytest.fixture
def human(tmp_path: Path) -> Path:
    path = tmp_path / "human.npy"
    np.save(path, np.array(COUNTS, np.uint8))
    return path


@pytest.fixture
def review(tmp_path: Path) -> Path:
    path = tmp_path / "review.json"
    path.write_text(json.dumps([entry(1, 0, 1, (1, 4, 0, 0)), entry(3, 2, 0, (5, 0, 0, 0))]))
    return path


def test_whose_fault(cli: Cli, run: RunDir, human: Path, review: Path) -> None:
    code, text, err = cli("last", "--human", human, "--review", review, "--sort", "human")
    assert (code, err) == (0, "")
    _, _, _, fault, right, reviewed, head, *rows = text.splitlines()
    assert "1 where people are sure" in fault
    assert "2 where people doubt it too (66.67 %)" in fault
    assert right.startswith("right: 2 where people are sure, 1 where people doubt")
    assert "50.00 % accuracy with the 1 doubtful labels, 60.00 % without" in reviewed
    assert "1 of these predicted as people would say" in reviewed
    assert "people agree" in head
    assert [row.split()[0] for row in rows] == ["1", "4", "3"]
    assert rows[0].split()[-3:] == ["40.00", "%", "disc"]
    report = json.loads(cli("last", "--json", "--human", human, "--review", review)[1])
    assert (report["human"]["wrong_doubt"], report["human"]["unasked"]) == (2, 0)
    assert report["human"]["doubted_share_of_mistakes"] == pytest.approx(2 / 3)
    assert -1 <= report["human"]["entropy_spearman"] <= 1
    assert report["review"]["without_doubtful"] == 0.6
    assert [m["human"] for m in report["mistakes"]] == [1.0, 0.4, 0.7]
    assert indices(cli("last", "--json", "--review", review, "--where", "doubtful")[1]) == [1]


def test_a_human_file_in_another_order(cli: Cli, run: RunDir, human: Path) -> None:
    np.save(human, np.roll(np.array(COUNTS), 1, axis=1))
    code, _, err = cli("last", "--human", human)
    assert code == 0
    assert "another order" in err


@pytest.mark.parametrize("kind", ["human", "review"])
def test_files_that_do_not_fit(cli: Cli, run: RunDir, human: Path, review: Path, kind: str) -> None:
    np.save(human, np.array(COUNTS)[:5])
    review.write_text(json.dumps([entry(6, 0, 1, (1, 4, 0, 0))]))
    code, text, err = cli("last", f"--{kind}", human if kind == "human" else review)
    assert (code, text, err.count("\n")) == (2, "", 1)
    wanted = {"human": "[5, 3], but these predictions need [6, 3]", "review": "outside 0 to 5"}
    assert wanted[kind] in err
    code, _, err = cli("last", f"--{kind}", human.parent / "missing")
    assert code == 2
    assert "No such file" in err


@pytest.fixture
def folder(run: RunDir, tmp_path: Path) -> Path:
    """Image folders with the run's six test images."""
    pixels = data_helpers.some_images(6)
    names = ("a/0", "a/1", "b/0", "c/0", "a/2", "c/1")
    for split in ("train", "test"):
        for name, image in zip(names, pixels, strict=True):
            path = tmp_path / "images" / split / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(path)
    data = sources.load_test(str(tmp_path / "images"))
    path = run.predictions(3, "plain")
    found = replace(predictions.load(path), fingerprint=data.fingerprint, labels=data.test.labels)
    predictions.save(found, path)
    return tmp_path / "images"


def test_help_and_docstring_name_every_word_of_a_filter(cli: Cli) -> None:
    told = cli("--help")[1]
    for word in (*FLAGS, *QUANTITIES):
        if word not in ("confidence", "p_actual"):  # the long names of two that are there
            assert re.search(rf"\b{word}\b", told), word
            assert f"``{word}``" in str(parse_filter.__doc__)


def test_paths_in_csv(cli: Cli, run: RunDir, folder: Path) -> None:
    code, text, err = cli("last", "--csv", "--all", "--sort", "index", "--data", folder)
    assert (code, err) == (0, "")
    paths = [Path(row["path"]) for row in csv.DictReader(text.splitlines())]
    assert [f"{p.parent.name}/{p.stem}" for p in paths] == [
        "a/0", "a/1", "a/2", "b/0", "c/0", "c/1",
    ]  # fmt: skip
    assert all(path.is_file() for path in paths)


def test_paths_in_json(cli: Cli, run: RunDir, folder: Path) -> None:
    code, text, err = cli("last", "--json", "--all", "--sort", "index", "--data", folder)
    assert (code, err) == (0, "")
    paths = [Path(row["path"]) for row in json.loads(text)["mistakes"]]
    assert [path.stem for path in paths] == ["0", "1", "2", "0", "0", "1"]
    assert all(path.is_file() for path in paths)
    code, text, err = cli("last", "--json")
    assert code == 0
    assert err.startswith("cifar-tui: no paths: ")
    assert not any("path" in row for row in json.loads(text)["mistakes"])


def test_the_run_is_called_by_its_folder(cli: Cli, run: RunDir) -> None:
    run.path.rename(run.path.with_name("20261123-143005-copy-3f9c"))
    assert json.loads(cli("last", "--json")[1])["run"] == "20261123-143005-copy-3f9c"


def test_a_picture(cli: Cli, run: RunDir, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "grid.png"
    code, text, err = cli("last", "--png", target, "--top", 2, "--data", folder)
    assert (code, err) == (0, "")
    assert text.startswith("2 of ")
    with Image.open(target) as picture:
        assert picture.format == "PNG"
        assert picture.width > 2 * 128
    code, _, err = cli("last", "--png", target, "--where", "#0 loss>9", "--data", folder)
    assert code == 2
    assert "no images to draw" in err
    assert cli("last", "--png", target, "--json")[0] == 2


def test_data_that_is_gone_or_differs(cli: Cli, run: RunDir, tmp_path: Path, folder: Path) -> None:
    target = tmp_path / "grid.png"
    for source, part in (
        (folder.parent / "missing", "does not exist"),
        ("synthetic", "has other test images"),
    ):
        for arguments in (("--png", target), ("--csv",)):
            code, text, err = cli("last", *arguments, "--data", source)
            assert (code, text, err.count("\n")) == (2, "", 1)
            assert part in err
    code, text, err = cli("last", "--csv")
    assert code == 0, "the list itself needs no images"
    assert "no paths: the images of this run are not here" in err
    assert {row["path"] for row in csv.DictReader(text.splitlines())} == {""}
    assert not target.exists()


def test_an_accuracy_is_without_a_rounding_error(cli: Cli, run: RunDir) -> None:
    made = Predictions(
        probabilities=np.eye(3, dtype=np.float16)[[0] * 9 + [1] * 41],
        labels=np.zeros(50, np.int64),
        split="test",
        fingerprint="0" * 64,
        epoch=3,
    )
    predictions.save(made, run.predictions(3, "plain"))
    assert json.loads(cli("last", "--json")[1])["accuracy"] == 0.18

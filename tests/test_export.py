"""Lists of images as rows and as CSV."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from trainer.analysis import export, mistakes
from trainer.analysis.human import People
from trainer.analysis.mistakes import Mistakes
from trainer.analysis.mistakes_filter import select
from trainer.runs.predictions import Predictions


@pytest.fixture
def images() -> Mistakes:
    probabilities = [[0.75, 0.25, 0.0], [0.25, 0.125, 0.625], [0.0, 0.0, 1.0]]
    labels = np.array([0, 0, 1])
    made = Predictions(np.array(probabilities, np.float16), labels, "test", "", 1)
    counts = np.array([[3, 1, 0], [0, 0, 0], [2, 2, 0]])
    return mistakes.table(made).beside(People(counts, labels), None)


def test_rows_name_their_split(images: Mistakes) -> None:
    paths = ["a.png", "b.png", "c\x1b,d.png"]
    listed = export.rows(images, select(images), ("cat", "de\ner", "dog"), paths)
    assert listed[0] == {
        "index": 2,
        "actual": "de\ner",
        "predicted": "dog",
        "p_predicted": 1.0,
        "p_actual": 0.0,
        "loss": pytest.approx(-math.log(1.5 * 2**-24)),
        "margin": -1.0,
        "entropy": 0.0,
        "doubt": images.doubt[2],
        "human": 0.5,
        "split": "test",
        "path": "c\x1b,d.png",
        "exact": False,
    }
    assert listed[1]["human"] is None, "nobody was asked"
    text = export.to_csv(listed)
    assert "\x1b" not in text
    read = list(csv.DictReader(text.splitlines()))
    assert tuple(read[0]) == export.FIELDS
    assert [row["index"] for row in read] == ["2", "1"]
    assert {row["split"] for row in read} == {"test"}
    assert read[0]["actual"] == "de\N{REPLACEMENT CHARACTER}er"
    assert read[0]["path"] == "c\N{REPLACEMENT CHARACTER},d.png"
    assert read[1]["human"] == ""
    assert float(read[1]["margin"]) == -0.375


def test_without_people_and_paths(images: Mistakes) -> None:
    bare = images.beside(None, None)
    (row,) = export.rows(bare, np.array([0]), ("cat", "deer", "dog"))
    assert row["human"] is None
    assert "path" not in row
    assert export.to_csv([row]).endswith(",test,,False\n")
    assert export.to_csv([]) == ",".join(export.FIELDS) + "\n"


@pytest.mark.parametrize("name", ["@SUM(1)", '=HYPERLINK("http://x")', "+1", "-1"])
def test_names_are_no_formulas(images: Mistakes, name: str) -> None:
    listed = export.rows(images, np.array([0]), (name, "deer", "dog"), [name] * 3)
    (row,) = csv.DictReader(export.to_csv(listed).splitlines())
    assert (row["actual"], row["predicted"], row["path"]) == (f"'{name}",) * 3
    assert export.inert(-1.5) == -1.5, "numbers stay numbers"

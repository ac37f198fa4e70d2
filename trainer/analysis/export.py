"""A list of images as rows: for CSV, for JSON, for whoever reads on. Torch-free."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from typing import Any

from trainer.analysis.mistakes import Indices, Mistakes
from trainer.data.dataset import printable

FIELDS = (
    "index",
    "actual",
    "predicted",
    "p_predicted",
    "p_actual",
    "loss",
    "margin",
    "entropy",
    "doubt",
    "human",
    "split",
    "path",
)
"""Of a row: ``human`` and ``path`` are ``None`` where they are not known."""


def rows(
    images: Mistakes,
    chosen: Indices,
    classes: Sequence[str],
    paths: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """The chosen images as rows of ``FIELDS``; the split is always named.

    Args:
        images: all images of the evaluation.
        chosen: int64 [K], indices.
        classes: names, index = label.
        paths: where each of all images lies.
    """
    asked = images.people.asked if images.people is not None else None
    columns = {
        "p_predicted": images.confidence,
        "p_actual": images.p_actual,
        "loss": images.loss,
        "margin": images.margin,
        "entropy": images.entropy,
        "doubt": images.doubt,
    }
    return [
        {
            "index": int(i),
            "actual": classes[int(images.actual[i])],
            "predicted": classes[int(images.predicted[i])],
            **{name: float(column[i]) for name, column in columns.items()},
            "human": float(images.human[i]) if asked is not None and asked[i] else None,
            "split": images.source.split,
            "path": None if paths is None else paths[int(i)],
        }
        for i in chosen
    ]


def to_csv(listed: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV with a header; text is made printable, what is not known is empty."""
    text = StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in listed:
        writer.writerow({k: printable(v) if isinstance(v, str) else v for k, v in row.items()})
    return text.getvalue()

"""A list of images as rows: for CSV, for JSON, for whoever reads on. Torch-free."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from typing import Any

from trainer.analysis.mistakes import Indices, Mistakes
from trainer.foreign import printable

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
    "exact",
)
"""Of a row: ``human`` is ``None`` and ``path`` is left out where it is not known. ``exact``:
whether the figures come from the logits; else a loss of 16.23 means at least that, a probability
of 1 at least 0.9997."""


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
        paths: where each of all images lies; ``None`` leaves the field out.
    """
    numbers = {
        "p_predicted": images.confidence,
        "p_actual": images.p_actual,
        "loss": images.loss,
        "margin": images.margin,
        "entropy": images.entropy,
        "doubt": images.doubt,
    }
    human: list[float | None] = [None] * len(chosen)
    if images.people is not None:
        asked = images.people.asked[chosen] > 0
        human = [
            h if a else None for h, a in zip(images.human[chosen].tolist(), asked, strict=True)
        ]
    columns: dict[str, list[Any]] = {
        "index": chosen.tolist(),
        "actual": [classes[k] for k in images.actual[chosen].tolist()],
        "predicted": [classes[k] for k in images.predicted[chosen].tolist()],
        **{name: column[chosen].tolist() for name, column in numbers.items()},
        "human": human,
        "split": [images.source.split] * len(chosen),
    }
    if paths is not None:
        columns["path"] = [paths[i] for i in chosen.tolist()]
    columns["exact"] = [images.exact] * len(chosen)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def to_csv(listed: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV with a header; text is made printable and inert, what is not known is empty."""
    text = StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in listed:
        shown = {k: printable(v) if isinstance(v, str) else v for k, v in row.items()}
        writer.writerow({k: inert(v) for k, v in shown.items()})
    return text.getvalue()


def inert(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula becomes text; names are never formulas."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return f"'{value}"
    return value

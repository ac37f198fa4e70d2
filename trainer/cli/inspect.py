"""``inspect``: what a run's net makes of one test image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainer.cli.options import (
    ChangedNetOption,
    DataDirOption,
    DataOption,
    JsonOption,
    RunsDirOption,
    TrustNetOption,
    data_dir,
    runs_dir,
)
from trainer.cli.output import Column, clean, out, table, warn
from trainer.files.paths import check_working_directory
from trainer.lifecycle.submit import read_config
from trainer.runs.origin import check_owner
from trainer.runs.rundir import find
from trainer.words import NO_CONVOLUTION, UNKNOWN, probability

if TYPE_CHECKING:
    from trainer.inspection.answers import Inspection

MOST_CLASSES = 10
"""Rows of the table of probabilities; the actual class has one in any case."""


def inspect(
    run: Annotated[str, typer.Argument(help="A run's id, a part of it, or last.")],
    index: Annotated[int, typer.Argument(help="The test image's index, from 0.", min=0)],
    json: JsonOption = False,
    layer: Annotated[
        str,
        typer.Option(
            "--layer",
            help="A convolution as 'cifar-tui layers' names it, c2.0.conv; by default the last "
            "that sees most.",
        ),
    ] = "",
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint",
            help="best or last; by default best where there is one.",
            metavar="ROLE",
            show_default=False,
        ),
    ] = "",
    top: Annotated[
        int,
        typer.Option("--top", help="So many nearest training images; 0: none.", min=0, max=1000),
    ] = 8,
    data: DataOption = None,
    directory: DataDirOption = None,
    runs: RunsDirOption = None,
    trust_net: TrustNetOption = False,
    changed_net: ChangedNetOption = False,
) -> None:
    """Look into a run's net: probabilities, nearest training images, receptive fields.

    --json has Grad-CAM of the layer as well.
    """
    if json:
        out.alone()
    found = find(runs_dir(runs), run)
    if not trust_net:
        check_owner(read_config(found))
    check_working_directory()
    from trainer.inspection.answers import open_inspection

    inspection = open_inspection(
        found,
        checkpoint,
        data=data or "",
        only_there=True,
        data_dir=data_dir(directory),
        trusted=True,
        changed_net=changed_net,
    )
    layer = inspection.check(index, layer)
    if top and not inspection.has_features:
        images = len(inspection.dataset.train.labels)
        warn(f"computing the features of {images:,} training images, kept for the next time")
        inspection.compute_features()
    answer = _answer(inspection, index, layer, top)
    if json:
        out.json(answer)
    else:
        out.lines(*_lines(answer))


def _answer(inspection: Inspection, index: int, layer: str, top: int) -> dict[str, Any]:
    """All of it, as JSON has it."""
    classes, field = inspection.dataset.classes, inspection.receptive_field(layer)
    probabilities = inspection.probabilities(index)
    predicted = int(probabilities.argmax())
    cam = inspection.grad_cam(index, layer, predicted)
    return {
        "run": inspection.run.id,
        "checkpoint": inspection.role,
        "epoch": inspection.epoch,
        "index": index,
        "actual": classes[int(inspection.dataset.test.labels[index])],
        "predicted": classes[predicted],
        "probabilities": dict(zip(classes, probabilities.tolist(), strict=True)),
        "layer": layer or None,
        "receptive_field": field.size,
        "receptive_field_box": field.box,
        "effective_known": field.effective is not None,
        "effective_box": field.effective.box if field.effective is not None else None,
        "grad_cam": None
        if cam is None
        else [[round(value, 3) for value in row] for row in cam.tolist()],
        "neighbours": [
            {
                "index": one.index,
                "label": classes[one.label],
                "similarity": round(one.similarity, 6),
            }
            for one in (inspection.nearest(index, top) if top else ())
        ],
    }


def _lines(answer: dict[str, Any]) -> list[Any]:
    lines: list[Any] = [
        f"test image {answer['index']}: {clean(answer['actual'])}, "
        f"predicted {clean(answer['predicted'])}, "
        f"checkpoint {answer['checkpoint']}, epoch {answer['epoch']}",
        "",
    ]
    ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
    lower = [item for item in ranked[MOST_CLASSES:] if item[0] == answer["actual"]]
    rows = [
        (
            clean(name),
            probability(value, 4),
            "actual" * (name == answer["actual"]),
            "predicted" * (name == answer["predicted"]),
        )
        for name, value in ranked[:MOST_CLASSES] + lower
    ]
    lines += table(
        (Column("class", flexible=True), Column("p", right=True), Column(""), Column("")), rows
    )
    lines += ["", _field(answer) if answer["layer"] else NO_CONVOLUTION]
    if answer["neighbours"]:
        near = [
            (str(one["index"]), clean(one["label"]), f"{one['similarity']:.4f}")
            for one in answer["neighbours"]
        ]
        columns = (
            Column("nearest training image", right=True),
            Column("label", flexible=True),
            Column("cosine", right=True),
        )
        lines += ["", *table(columns, near)]
    return lines


def _field(answer: dict[str, Any]) -> str:
    size = answer["receptive_field"]
    theory = f"{size[0]} x {size[1]}" if size else UNKNOWN
    place = answer["receptive_field_box"]
    part = f"{_box(place)} of the image" if place else "its place in the image unknown"
    if not answer["effective_known"]:
        told = "the effective one is not known, the net keeps no gradients"
    elif answer["effective_box"]:
        told = f"95 % of the gradient in {_box(answer['effective_box'])}"
    else:
        told = "no pixel changes it"
    return (
        f"layer {clean(answer['layer'])}, receptive field of its centre: {theory} in theory, "
        f"{part}; {told}"
    )


def _box(box: tuple[int, int, int, int]) -> str:
    top, bottom, left, right = box
    return f"rows {top} to {bottom}, columns {left} to {right}"

"""An evaluation's predictions on disk: probabilities of every image of a split. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from trainer.errors import RunError, first_line
from trainer.events import PredictionsSaved
from trainer.files.regular_file import open_regular
from trainer.files.whole_file import whole_file
from trainer.runs.rundir import RunDir

ZIP = b"PK"
"""How an archive begins."""
UNPACKED_BYTES = 1 << 29
"""At most; 100,000 images of 1,000 classes are less than half of it."""


@dataclass(frozen=True, eq=False)
class Figures:
    """What the logits say of ``N`` images where float16 probabilities are 0 or 1, float32 [N]."""

    loss: NDArray[np.float32]
    """Cross-entropy -ln p of the actual class, in nats."""
    log_rest: NDArray[np.float32]
    """ln of 1 - p of the predicted class: what all other classes have."""
    log_entropy: NDArray[np.float32]
    """ln of the entropy of the probabilities in nats."""
    log_second: NDArray[np.float32] | None = None
    """ln of the largest p of a class other than the predicted one; not in files of before."""

    def columns(self) -> dict[str, NDArray[np.float32]]:
        """Those that are there, by name."""
        return {name: column for name, column in vars(self).items() if column is not None}


FIGURES = tuple(one.name for one in fields(Figures))


@dataclass(frozen=True)
class Predictions:
    """Predictions of ``N`` images, in the split's own order.

    ``probabilities`` float16 [N, C], ``labels`` int64 [N] (the actual classes), ``split`` the
    split's name, ``fingerprint`` the data's checksum, ``epoch`` counted from 1, ``predicted``
    int64 [N]: the class of the largest logit, kept apart because float16 probabilities can tie,
    ``figures`` what float16 cannot say; ``None`` in files of before they were kept.
    """

    probabilities: NDArray[np.float16]
    labels: NDArray[np.int64]
    split: str
    fingerprint: str
    epoch: int
    predicted: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    figures: Figures | None = None

    def __post_init__(self) -> None:
        if not len(self.predicted):
            object.__setattr__(self, "predicted", self.probabilities.argmax(1).astype(np.int64))

    @property
    def wrong(self) -> NDArray[np.int64]:
        """Indices of the misclassified images, ascending."""
        return np.flatnonzero(self.predicted != self.labels)


def save(predictions: Predictions, path: Path) -> None:
    """Write atomically: a reader sees the whole file or none.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    figures: dict[str, Any] = {} if predictions.figures is None else predictions.figures.columns()
    with whole_file(path) as file:
        np.savez(
            file,
            probabilities=predictions.probabilities,
            labels=predictions.labels.astype(np.int16),
            predicted=predictions.predicted.astype(np.int16),
            split=np.array(predictions.split),
            fingerprint=np.array(predictions.fingerprint),
            epoch=np.array(predictions.epoch),
            **figures,
        )


def of_run(run: RunDir, saved: PredictionsSaved) -> Predictions:
    """Read the predictions on the test split that a run's log tells of.

    Raises:
        RunError: the file lies outside the run's folder, is of another split, or as ``load``.
    """
    found = load(run.inside(saved.path))
    if found.split != "test":
        # figures of other images must not be taken for test figures
        raise RunError(f"the predictions {saved.path} are of another split than test")
    if found.epoch != saved.epoch:
        raise RunError(
            f"the predictions {saved.path} are of epoch {found.epoch}, not {saved.epoch} as the "
            "run's log says"
        )
    return found


def load(path: Path) -> Predictions:
    """Read predictions; nothing in the file can run code.

    Raises:
        RunError: the file is missing, damaged or of a wrong shape.
    """
    try:
        with open_regular(path) as raw, np.load(_archive(raw), allow_pickle=False) as file:
            _check_size(file)
            found = Predictions(
                probabilities=file["probabilities"],
                labels=_whole(file["labels"]),
                split=str(file["split"]),
                fingerprint=str(file["fingerprint"]),
                epoch=int(file["epoch"]),
                predicted=_whole(file["predicted"]),
                figures=_figures(file),
            )
    except FileNotFoundError:
        raise RunError(f"the predictions {path.name} are gone from the run's folder") from None
    except Exception as error:  # a damaged archive raises nearly anything
        raise RunError(f"the predictions {path.name} cannot be read: {_short(error)}") from None
    shape = found.probabilities.shape
    if len(shape) != 2:
        raise RunError(f"the predictions {path.name} have a wrong shape {shape}")
    _check_kind(found.probabilities, np.float16, path.name)
    for column in (found.labels, found.predicted):
        if column.shape != shape[:1]:
            raise RunError(f"the predictions {path.name} have a wrong shape {column.shape}")
        if len(column) and not 0 <= column.min() <= column.max() < shape[1]:
            raise RunError(f"the predictions {path.name} name classes outside 0 to {shape[1] - 1}")
    # also false for not-a-number
    if not ((found.probabilities >= 0) & (found.probabilities <= 1)).all():
        raise RunError(f"the predictions {path.name} hold probabilities outside 0 to 1")
    if found.figures is not None:
        _check_figures(found.figures, len(found.labels), path.name)
    return found


def _archive(file: FileIO) -> FileIO:
    """The file; else numpy would call it a pickle, and tell how to load that."""
    if file.read(len(ZIP)) != ZIP:
        raise ValueError("it is no .npz file")
    file.seek(0)
    return file


def _check_kind(column: NDArray[Any], kind: type[np.floating[Any]], name: str) -> None:
    if column.dtype != kind:
        raise RunError(f"the predictions {name} hold {column.dtype}, not {np.dtype(kind)}")


def _figures(file: NpzFile) -> Figures | None:
    present = [name for name in FIGURES if name in file]
    wanted = [name for name in FIGURES if name in file or name != "log_second"]
    return Figures(**{name: file[name] for name in wanted}) if present else None


def _check_figures(found: Figures, images: int, name: str) -> None:
    for column in found.columns().values():
        if column.shape != (images,):
            raise RunError(f"the predictions {name} have a wrong shape {column.shape}")
        _check_kind(column, np.float32, name)
    # also false for not-a-number
    second = found.log_rest if found.log_second is None else found.log_second
    logs = (found.log_rest <= 0) & (second <= 0) & (found.log_entropy < np.inf)
    if not ((found.loss >= 0) & logs).all():
        raise RunError(f"the predictions {name} hold figures that no probabilities have")


def _check_size(file: NpzFile) -> None:
    """What is packed small may unpack to more than there is memory."""
    members = [] if file.zip is None else file.zip.infolist()
    unpacked: int = sum(int(member.file_size) for member in members)
    if unpacked > UNPACKED_BYTES:
        raise ValueError(f"it unpacks to {unpacked / 1e9:.1f} GB")


def _whole(column: NDArray[np.generic]) -> NDArray[np.int64]:
    if column.dtype.kind not in "iu":
        raise ValueError(f"whole numbers expected, not {column.dtype}")
    return column.astype(np.int64)


def _short(error: Exception) -> str:
    return first_line(error)[:120]

"""Whether data are those that a run was trained on, as its checkpoint knows them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trainer.config import RunConfig
from trainer.data import sources
from trainer.data.dataset import Dataset
from trainer.errors import DataError


def load(source: str, config: RunConfig, *, data_dir: Path | None = None) -> Dataset:
    """A data set as a run trains on it, with no more training images than its settings allow.

    Raises:
        DataError: as of ``sources.load``.
    """
    dataset = sources.load(source, data_dir=data_dir)
    return dataset.limited(config.train_limit) if config.train_limit else dataset


def check(state: Mapping[str, object], dataset: Dataset) -> None:
    """Compare both splits with what a checkpoint has of them.

    Args:
        state: the checkpoint's; those of earlier versions have nothing of the training images.
        dataset: as of ``load``.

    Raises:
        DataError: they differ.
    """
    if state.get("fingerprint") != dataset.fingerprint:
        raise DataError(
            "the data set is not the one the run was trained on: give the same one with --data"
        )
    if state.get("train_sample", dataset.train_sample) != dataset.train_sample:
        raise DataError(
            "the training images are not those that the run was trained on: put them back, or "
            "give the same ones with --data"
        )

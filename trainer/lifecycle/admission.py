"""What a new run must fulfil before its folder is made, whoever asks for it. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from model.errors import ModelError
from trainer.errors import ConfigError, DataError
from trainer.files.paths import absolute

if TYPE_CHECKING:  # the app's first paint needs the names of the data sets alone
    from trainer.config import RunConfig
    from trainer.data.sources import Availability

TRAIN_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "synthetic": 10_000}
"""What is known without reading a data set."""


def admitted(config: RunConfig, data_dir: Path | None = None) -> RunConfig:
    """The configuration with absolute paths: the run may be resumed from another folder.

    What is known to be impossible is refused before a run's folder is made and torch is loaded.

    Args:
        config: of a new run.
        data_dir: where downloaded sets lie.

    Raises:
        UserError: no such model, file or class, the data is missing, a batch larger than the
            training split.
    """
    from model import registry, user_file

    config = _anchored(config)
    try:
        if registry.look_up(config.model.name):
            user_file.check_class(config.model.name)
    except ModelError as error:
        raise ConfigError(str(error)) from None
    found = check_data(config.data, data_dir)
    check_batch(config, TRAIN_IMAGES.get(found.kind))
    return config


def _anchored(config: RunConfig) -> RunConfig:
    from model import user_file

    data, model = anchored_data(config.data), config.model
    if user_file.is_file(model.name):
        file, _, name = model.name.rpartition(":")
        if file:
            model = msgspec.structs.replace(model, name=f"{absolute(file)}:{name}")
    return msgspec.structs.replace(config, data=data, model=model)


def anchored_data(data: str) -> str:
    """A data set by name stays; a folder gets an absolute path.

    Raises:
        ConfigError: as ``trainer.files.paths.absolute``.
    """
    return data if data in TRAIN_IMAGES else str(absolute(data))


def check_data(data: str, data_dir: Path | None = None) -> Availability:
    """Look whether a data set is there, without reading its images.

    Raises:
        DataError: it is not.
    """
    from trainer.data import sources

    found = sources.available(data, data_dir=data_dir)
    if not found.ready:
        raise DataError(found.message)
    return found


def most_images(config: RunConfig, images: int | None) -> int | None:
    """Images that are trained on at most, of a training split of so many; None: not known."""
    if config.train_limit:
        return min(images or config.train_limit, config.train_limit)
    return images


def check_batch(config: RunConfig, images: int | None) -> None:
    """Compare the batch with a training split of so many images; None: not known.

    Raises:
        ConfigError: it is larger.
    """
    most = most_images(config, images)
    if most is not None and config.train.batch_size > most:
        raise ConfigError(
            f"batch size {config.train.batch_size} is above the data set's {most} training images: "
            "lower --batch-size"
        )

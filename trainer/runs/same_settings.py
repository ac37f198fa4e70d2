"""Whether settings are those that a run has trained with. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from trainer import config as settings
from trainer.config import RunConfig
from trainer.errors import ConfigError


def check(config: RunConfig, before: RunConfig) -> None:
    """Compare what a run is asked to go on with to what it has trained with.

    As settings, not as text: a later version may have more of them.

    Raises:
        ConfigError: they differ in what a later attempt may not change.
    """
    if _lasting(config) != _lasting(before):
        raise ConfigError("config.toml was changed after the checkpoint: start a new run instead")


def check_checkpoint(config: RunConfig, state: Mapping[str, object]) -> None:
    """The same with those that a checkpoint has.

    Raises:
        ConfigError: they differ.
    """
    check(config, settings.from_toml(str(state.get("config")), origin="checkpoint"))


def _lasting(config: RunConfig) -> RunConfig:
    """Without what may be another in the next attempt; that the data are the same is compared."""
    train = msgspec.structs.replace(config.train, processes=1, max_restarts=0)
    return msgspec.structs.replace(config, train=train, data="")

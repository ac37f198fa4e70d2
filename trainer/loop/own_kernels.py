"""Whether a run computes by the program's own kernels, and for which layers."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch
from torch import nn

from trainer.config import RunConfig
from trainer.device import Precision
from trainer.errors import first_line
from trainer.kernels import fused
from trainer.kernels.build import BuildError, library
from trainer.loop import step_recording


def find(
    config: RunConfig, device: torch.device, precision: Precision, *, grouped: bool
) -> tuple[bool, str]:
    """Whether they are there and wanted, and what is to be told where they are not.

    Args:
        config: the run's settings.
        device: where it trains.
        precision: in which.
        grouped: whether several processes train together.
    """
    wanted = config.train.kernels
    if wanted == "off" or (wanted == "auto" and device.type != "cpu"):
        return False, ""
    if reason := _no_use(config, device, precision, grouped=grouped):
        return False, f"training without own kernels: {reason}" if wanted == "on" else ""
    try:
        if device.type == "cuda":
            _on_gpu().check(device)
        else:
            library()
    except BuildError as error:
        return False, f"training takes longer than it need: {error}"
    return True, ""


def choose_per_layer(net: nn.Module, device: torch.device) -> None:
    """Exchange norms, and what can be computed with them, for those with kernels."""
    if device.type == "cuda":
        _on_gpu().choose_per_layer(net)
    else:
        fused.choose_per_layer(net)


def _no_use(config: RunConfig, device: torch.device, precision: Precision, *, grouped: bool) -> str:
    """Why there are none for such a run; empty: there are."""
    if device.type not in ("cpu", "cuda"):
        return f"there are none for {device.type}"
    if precision != "bf16":
        return f"they are for bf16, not {precision}"
    if device.type == "cpu":
        return ""  # of a compiled net augmentation and Muon are left
    if config.train.compile:
        return "train.compile makes its own"
    if config.train.cuda_graphs == "off":
        return "they are for steps that are recorded, and train.cuda_graphs is off"
    why_not = step_recording.why_not(config, grouped=grouped, scaling=False)
    return why_not and f"they are for steps that are recorded, and {why_not}"


def _on_gpu() -> ModuleType:
    """Those in Triton, which takes a while to import and is not everywhere.

    Raises:
        BuildError: it is not here.
    """
    try:
        return import_module("trainer.kernels.gpu")
    except ImportError as error:
        raise BuildError(f"Triton cannot be imported: {first_line(error)}") from error

"""torch.compile for the training steps: fused norms and activations, or the net as it is.

What is compiled depends on the machine: a C++ compiler on a CPU, Triton on a GPU. Where that lacks
or fails, the run goes on uncompiled and says so, instead of ending.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from trainer.kernels.build import compiler

Forward = Callable[[Tensor], Tensor]


class Compiled:
    """A net's forward pass in training, compiled at its first call.

    Args:
        forward: the net, or what wraps it.
        device: where the net is.
        on_problem: told once, in one line, why training goes on uncompiled.
    """

    def __init__(
        self, forward: Forward, device: torch.device, on_problem: Callable[[str], None]
    ) -> None:
        self._uncompiled, self._on_problem = forward, on_problem
        self._forward: Forward | None = None
        self.lacks = _lacks(device)
        """What is known beforehand to be missing; empty: nothing."""

    def __call__(self, images: Tensor) -> Tensor:
        """[N, C, H, W] to logits [N, classes]."""
        if self._forward is None:
            if self.lacks:
                return self._give_up(images, self.lacks)
            # tells of a CUDA toolkit that nothing here needs
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
            try:
                # images of a few sizes, each compiled for itself
                self._forward = torch.compile(self._uncompiled, dynamic=False)
            except RuntimeError as error:  # not for this version of Python
                return self._give_up(images, _first_line(error))
        if self._forward is self._uncompiled:
            return self._forward(images)
        from torch._dynamo.exc import TorchDynamoException  # seconds to import: not before

        try:
            return self._forward(images)
        except TorchDynamoException as error:
            return self._give_up(images, _first_line(error))

    def _give_up(self, images: Tensor, reason: str) -> Tensor:
        self._on_problem(f"training without torch.compile: {reason}")
        self._forward = self._uncompiled
        return self._forward(images)


def _lacks(device: torch.device) -> str:
    """What is known beforehand to be missing; empty: nothing."""
    if device.type == "mps":
        return "it is not made for Apple GPUs yet"
    if device.type == "cpu" and not compiler():
        return "no C++ compiler is installed (g++)"
    return ""


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]

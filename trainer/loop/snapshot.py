"""The state of a training at a moment, made a checkpoint while the training goes on.

To pack a state takes as long as some steps. On a GPU only copies of its tensors are queued behind
the last step; another thread fetches and packs them. On a CPU, whose cores all have training to
do, that would come to more work, not less.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainer.runs import checkpoint

ASIDE = ("cuda",)
"""Kinds of devices whose states are packed on another thread."""
ROOM = 4
"""How many copies of a state must fit into a GPU's free memory, so that there is one: two wait at
most for a slow disk, and the steps need what they find free."""

Pack = Callable[[], memoryview]


def packing(state: dict[str, Any], device: torch.device) -> Pack:
    """What packs a state as it is now, once, on any thread; the state may change meanwhile.

    Args:
        state: tensors, numbers, strings, lists and dicts, as ``checkpoint.pack`` takes.
        device: where its training is.
    """
    if device.type in ASIDE and _has_room(state, device):
        return Snapshot(state, device).pack
    packed = checkpoint.pack(state)
    return lambda: packed


class Snapshot:
    """Copies of a state where it is; to take one waits for nothing.

    Args:
        state: see ``packing``.
        device: on whose current stream it is written.
    """

    def __init__(self, state: dict[str, Any], device: torch.device) -> None:
        self._device = device
        with torch.no_grad():
            self._state = _each(state, Tensor.clone)
        self._there: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._there = torch.cuda.Event(blocking=True)  # waits asleep, not in a loop
            self._there.record(torch.cuda.current_stream(device))

    def pack(self) -> memoryview:
        """Its checkpoint's bytes. Call it once: a GPU's memory is given back.

        Raises:
            RuntimeError: work of the GPU has failed, here or before.
        """
        state, self._state = self._state, {}
        if self._there is not None:
            self._there.synchronize()
            # on the training's own stream each copy would wait for the steps that are queued; it
            # returns when it is done, so the memory may be used again
            with torch.cuda.stream(torch.cuda.Stream(self._device)):
                state = _each(state, Tensor.cpu)
        return checkpoint.pack(state)


def _has_room(state: dict[str, Any], device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    needed = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal needed
        needed += tensor.nbytes
        return tensor

    _each(state, count)
    free, _ = torch.cuda.mem_get_info(device)
    return free >= ROOM * needed


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of what may be in a state, with changed tensors."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        new = copy.copy(value)  # of its kind, with the versions that torch notes on a net's state
        for key, item in value.items():
            new[key] = _each(item, change)
        return new
    if isinstance(value, (list, tuple)):
        return type(value)(_each(item, change) for item in value)
    return copy.deepcopy(value)

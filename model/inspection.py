"""Running a net without leaving a trace in it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from model.errors import ModelError


def first_device(net: nn.Module) -> torch.device:
    """The device of a net's first parameter or buffer; the CPU where it has none."""
    for tensors in (net.parameters(), net.buffers()):
        for tensor in tensors:
            return tensor.device
    return torch.device("cpu")


def submodule(net: nn.Module, path: str) -> nn.Module:
    """A module of a net; the net itself where the path is empty.

    Raises:
        ModelError: the net has no such module.
    """
    try:
        return net.get_submodule(path)
    except AttributeError:
        raise ModelError(f"the net has no layer {path!r}") from None


@contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards modes, parameters, buffers and generators are as they were.

    The generators are torch's, Python's and numpy's.
    """
    # a frozen TorchScript module has no mode: it stays in eval mode
    modes = [(m, m.training) for m in net.modules() if hasattr(m, "training")]
    tensors: list[tuple[Any, str, torch.Tensor, torch.Tensor]] = [
        (held, name, t, t.detach().clone())
        for m in net.modules()
        for held in (m._parameters, m._buffers)
        for name, t in held.items()
        if t is not None and not nn.parameter.is_lazy(t)
    ]
    try:
        with same_draws(net):
            net.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for held, name, tensor, saved in tensors:
                if name not in held or held[name] is not tensor:
                    held[name] = tensor
                if tensor.shape != saved.shape:
                    tensor.data = saved
                elif tensor.device.type != "meta" and not torch.equal(tensor, saved):
                    tensor.copy_(saved)


@contextmanager
def same_draws(net: nn.Module) -> Iterator[None]:
    """Afterwards the generators of torch, Python and numpy are as they were."""
    device = first_device(net)
    forked = [device] if device.type not in ("cpu", "meta") else []
    kind = device.type if forked else "cuda"
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(forked, device_type=kind):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)

"""Running a net without leaving a trace in it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

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
    """Eval mode inside; afterwards modes, buffers and generators are as they were.

    The generators are torch's, Python's and numpy's.
    """
    # a frozen TorchScript module has no mode: it stays in eval mode
    modes = [(m, m.training) for m in net.modules() if hasattr(m, "training")]
    buffers = [
        (m, name, b, b.detach().clone())
        for m in net.modules()
        for name, b in m._buffers.items()
        if b is not None and not nn.parameter.is_lazy(b)
    ]
    device = first_device(net)
    forked = [device] if device.type not in ("cpu", "meta") else []
    kind = device.type if forked else "cuda"
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(forked, device_type=kind):
            net.eval()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, saved in buffers:
                module._buffers[name] = buffer
                if buffer.device.type != "meta" and not torch.equal(buffer, saved):
                    buffer.copy_(saved)

"""A net whose weights are an exponential moving average of those of the net that is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Average(AveragedModel):
    """Begins as the net is after its first step, buffers included.

    Args:
        net: the net that is trained, of which this is a copy on the same device.
        decay: the share of the average that stays at each step, 0 to 1.
    """

    n_averaged: Tensor

    def __init__(self, net: nn.Module, decay: float) -> None:
        super().__init__(net, use_buffers=True)
        self._decay = decay

    @torch.no_grad()
    def follow(self, net: nn.Module) -> None:
        """After a step: as ``update_parameters`` does, which would wait for a GPU at every step."""
        mine = [*self.module.parameters(), *self.module.buffers()]
        theirs = [*net.parameters(), *net.buffers()]
        first = not int(self.n_averaged)
        old, new = [], []
        for m, t in zip(mine, theirs, strict=True):
            if first or not m.is_floating_point():
                m.copy_(t)
            else:
                old.append(m)
                new.append(t)
        if old:
            torch._foreach_lerp_(old, new, 1 - self._decay)
        self.n_averaged += 1

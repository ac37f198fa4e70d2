"""Norms, gradients, updates and dead channels of each layer, measured a few times per epoch.

Reading only: with and without it a run is the same to the last bit; of a compiled net the steps
that are measured run uncompiled, and differ in rounding. What is measured stays on the device until
a copy to the host is done, so no step waits for it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer import events
from trainer.device import HostCopy
from trainer.loop.channels import ChannelAxes

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
)
"""Modules whose channels count as dead when they give nothing above 0."""
DIGITS = 4
"""Significant digits in the log."""
CALLS = 100
"""Calls of a module that are told apart; of more the mean is told."""
WIDE = 256
"""Numbers in a row of a reduction on a CPU."""


class LayerStats:
    """Measures one optimizer step out of many.

    For each module with parameters of its own: the norm of its weights before the step, of its
    gradient (after loss scaling is undone, before clipping), and log10 of the norm of the update
    over that of the weights; about -3 is usual for SGD and Adam (Karpathy 2019, "A recipe for
    training neural networks"; CS231n). For each call of each activation module: the share of dead
    channels, which are those without one value above 0 in the whole batch, of several processes in
    rank 0's images of it; nothing where it is not known which dimension holds the channels.

    Args:
        net: the net that is trained, not wrapped.
        per_epoch: measurements per epoch; 0 for none.
    """

    def __init__(self, net: nn.Module, per_epoch: int) -> None:
        self._per_epoch = per_epoch
        self._weights: dict[str, list[nn.Parameter]] = {}
        self._activations: dict[str, nn.Module] = {}
        self._net = net
        for path, module in net.named_modules():
            own = [p for p in module.parameters(recurse=False) if p.requires_grad]
            if own:
                self._weights[path or "(net)"] = own
            if isinstance(module, ACTIVATIONS):
                self._activations[path] = module
        self._dead: dict[str, list[Tensor | None]] = {}
        """Of each call; None where the channels are not known."""
        self._hooks: list[Any] = []
        self._before: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._left: dict[int, tuple[Tensor, tuple[str, ...]]] = {}
        """By the images' side: what a step was measured to be, and which activations it called."""
        self._found: deque[tuple[int, int, tuple[str, ...], HostCopy]] = deque()
        """Several, where a GPU is further behind than two measured steps are apart."""

    def due(self, batch: int, steps: int) -> bool:
        """Whether the step of this batch of an epoch is measured: in the middle of each share.

        Not at its end: the very last step of most schedules changes nothing.
        """
        n = self._per_epoch
        passed = (2 * batch * n + steps) // (2 * steps)
        return bool(n) and (2 * (batch + 1) * n + steps) // (2 * steps) > passed

    def watch(self) -> None:
        """Before the forward pass: look at the activations."""
        self._dead = {}
        if not self._activations:  # nor has a scripted net, which takes no hooks
            return
        axes = ChannelAxes()
        begin = self._net.register_forward_pre_hook(lambda _, given: axes.begin(*given[:1]))
        self._hooks.append(begin)
        for module in self._net.modules():
            if axes.tells(module):
                self._hooks.append(
                    module.register_forward_hook(lambda module, _, out: axes.hear(module, out))
                )
        for path, module in self._activations.items():
            self._hooks.append(module.register_forward_hook(self._looker(path, axes)))

    def before_step(self) -> None:
        """After the backward pass: take gradients, and the weights as they are."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        with torch.no_grad():
            self._before = [p.detach().clone() for p in self._parameters()]
            grads = [
                torch.zeros_like(p) if p.grad is None else p.grad.detach()
                for p in self._parameters()
            ]
            self._norms = [self._by_layer(self._before), self._by_layer(grads)]

    @torch.no_grad()
    def after_step(self, side: int) -> None:
        """After the optimizer's step: the update. What was measured stays on the device.

        Args:
            side: of the step's images, in pixels: a step is recorded once for each size.
        """
        new = [p.detach() for p in self._parameters()]
        updates = torch._foreach_sub(new, self._before)
        dead = {path: found for path, calls in self._dead.items() if (found := _by_call(calls))}
        activations = tuple(path for path, found in dead.items() for _ in found)
        shares = [share.view(1) for found in dead.values() for share in found]
        values = torch.cat([*self._norms, self._by_layer(updates), *shares])
        kept, _ = self._left.get(side, (None, ()))
        if kept is None or len(kept) != len(values):
            kept = torch.empty_like(values)
        self._left[side] = kept, activations
        kept.copy_(values)  # a recorded step writes to where the first one did
        self._before, self._norms, self._dead = [], [], {}

    def begin_read(self, *, epoch: int, step: int, side: int) -> None:
        """After a step that was measured, recorded or not: its figures go to the host."""
        values, activations = self._left[side]
        self._found.append((epoch, step, activations, HostCopy(values)))

    def forget(self) -> None:
        """A step that was to be measured has failed: leave nothing of it in the net."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._before, self._norms, self._dead = [], [], [], {}

    def take(self) -> events.LayerStats | None:
        """The oldest of what was measured, once it is on the host."""
        if not self._found or not self._found[0][3].ready():
            return None
        epoch, step, activations, copy = self._found.popleft()
        count = len(self._weights)
        numbers = copy.numbers()
        weights, gradients, updates = (numbers[i * count : (i + 1) * count] for i in range(3))
        return events.LayerStats(
            epoch=epoch,
            step=step,
            layers=tuple(self._weights),
            weight_norm=tuple(map(_rounded, weights)),
            gradient_norm=tuple(map(_rounded, gradients)),
            update_ratio=tuple(map(_log_ratio, updates, weights)),
            activations=activations,
            dead=tuple(map(_rounded, numbers[3 * count :])),
        )

    def _looker(self, path: str, axes: ChannelAxes) -> Any:
        def look(module: nn.Module, inputs: object, output: Tensor) -> None:
            calls = self._dead.setdefault(path, [])
            if output.ndim < 2 or output.shape[0] == 0 or (axis := axes.of(output)) is None:
                calls.append(None)
                return
            with torch.no_grad():
                calls.append((peaks(output.detach(), axis) <= 0).float().mean())

        return look

    def _parameters(self) -> Iterable[nn.Parameter]:
        return [p for own in self._weights.values() for p in own]

    def _by_layer(self, tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        """Norm over the tensors of each layer, float32 [layers]."""
        norms = [n.float() for n in torch._foreach_norm(list(tensors))]
        found, at = [], 0
        for own in self._weights.values():
            found.append(torch.linalg.vector_norm(torch.stack(norms[at : at + len(own)])))
            at += len(own)
        return torch.stack(found)


def _by_call(calls: list[Tensor | None]) -> list[Tensor]:
    """What is told of a module: not-a-number for a call that nothing is known of, and nothing at
    all where that is so of each."""
    known = [share for share in calls if share is not None]
    if not known:
        return []
    if len(calls) > CALLS:
        return [torch.stack(known).mean()]
    return [torch.full_like(known[0], math.nan) if share is None else share for share in calls]


def peaks(values: Tensor, axis: int) -> Tensor:
    """The greatest value of each channel, [C]; ``axis``: the dimension of the channels.

    On a CPU the reduction of channels-last activations takes ten times as long where the channels
    are few, for then its inner loop is short: so several positions are made one row first.
    """
    rows = values.movedim(axis, -1)
    channels, count = rows.shape[-1], rows.numel() // max(1, rows.shape[-1])
    side_by_side = min(count, WIDE // max(1, channels))
    if values.device.type != "cpu" or side_by_side < 2 or not rows.is_contiguous():
        return values.amax([d for d in range(values.ndim) if d != axis])
    rows = rows.reshape(count, channels)
    whole = count - count % side_by_side
    found = rows[:whole].reshape(-1, side_by_side * channels).amax(0)
    found = found.view(side_by_side, channels).amax(0)
    return found if whole == count else torch.maximum(found, rows[whole:].amax(0))


def _rounded(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _log_ratio(update: float, weight: float) -> float | None:
    """log10(update / weight); None where one is 0 or not a number."""
    if not (math.isfinite(update) and math.isfinite(weight) and update > 0 and weight > 0):
        return None
    return round(math.log10(update) - math.log10(weight), 3)

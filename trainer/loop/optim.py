"""Optimizers from settings: parameter groups, Muon, L1."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from trainer.config import OptimizerSettings
from trainer.device import multiplies_bf16
from trainer.errors import ConfigError
from trainer.kernels import tiles

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
HOW = ("fused", "capturable", "foreach")
"""Settings of torch's optimizers that say how they compute, not what."""


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz iterations, for the filters of convolutions.

    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". The filters
    [out, in, kh, kw] of a layer count as a matrix [out, in·kh·kw]; those of one shape are
    orthogonalised in one batch. As in airbench, a layer's filters are scaled to norm sqrt(out)
    before their update, so the learning rate is relative, and the weight decay acts within its
    step only: the next one's scaling undoes it.

    Not ``torch.optim.Muon``: that takes matrices alone, scales no filters, and has no streams for
    shapes side by side.

    Args:
        params: filters.
        lr: learning rate.
        momentum: Nesterov's.
        weight_decay: within a step.
        tiled: by the kernels for matrix tiles (``trainer.kernels.tiles``), which are there.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float | Tensor,
        momentum: float,
        weight_decay: float = 0.0,
        *,
        tiled: bool = False,
    ) -> None:
        super().__init__(
            list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )
        self._tiled = tiled
        self._streams: list[torch.cuda.Stream] = []

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters with gradients."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)
            if self._tiled:
                params = self._update_by_tiles(params, group)
            shapes: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for p in params:
                shapes.setdefault((*p.shape,), []).append(p)
            for same in self._side_by_side(list(shapes.values())):
                self._update(same, group["lr"], group["momentum"], group["weight_decay"])

    def _update_by_tiles(
        self, params: list[nn.Parameter], group: dict[str, Any]
    ) -> list[nn.Parameter]:
        """Update those that the kernels take; the others are returned."""
        work = [(p, p.grad, self.state[p]["momentum_buffer"]) for p in params if p.grad is not None]
        taken = [some for some in work if tiles.muon_takes(*some)]
        if taken:
            how = {"lr": group["lr"], "momentum": group["momentum"]}
            tiles.muon(*zip(*taken, strict=True), **how, decay=group["weight_decay"])
        done = {id(p) for p, *_ in taken}
        return [p for p in params if id(p) not in done]

    def _update(
        self, params: list[nn.Parameter], lr: float | Tensor, momentum: float, weight_decay: float
    ) -> None:
        """Of filters of one shape."""
        grads = [p.grad for p in params if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, grads)
        nesterov = torch._foreach_add(grads, buffers, alpha=momentum)
        updates = orthogonalise(torch.stack([as_matrix(g) for g in nesterov]))
        norms = torch.stack(torch._foreach_norm([p.detach() for p in params])).clamp_min_(1e-12)
        scales = norms.reciprocal_() * (len(params[0]) ** 0.5 * (1 - lr * weight_decay))
        for p, matrix, scale in zip(params, updates, scales.unbind(), strict=True):
            update = from_matrix(matrix, p).to(p.dtype)
            p.mul_(scale)
            if isinstance(lr, Tensor):
                p.sub_(update * lr)
            else:
                p.add_(update, alpha=-lr)

    def _side_by_side(self, work: list[list[nn.Parameter]]) -> Iterator[list[nn.Parameter]]:
        """Each part of the work on a stream of its own: one of these products fills no GPU."""
        if not work or work[0][0].device.type != "cuda":
            yield from work
            return
        device = work[0][0].device
        main = torch.cuda.current_stream(device)
        while len(self._streams) < len(work) - 1:
            self._streams.append(torch.cuda.Stream(device))
        streams = self._streams[: len(work) - 1]
        for stream in streams:
            stream.wait_stream(main)
        try:
            # the last, the largest in most nets, where the others are waited for
            for stream, part in zip(streams, work, strict=False):
                with torch.cuda.stream(stream):
                    yield part
            yield work[-1]
        finally:
            for stream in streams:
                main.wait_stream(stream)


def as_matrix(filters: Tensor) -> Tensor:
    """Filters [out, in, kh, kw] as [out, in·kh·kw], columns in the order they have in memory.

    Which order it is does not matter to orthogonalisation, a copy in another one costs time.
    """
    if filters.ndim == 4 and filters.is_contiguous(memory_format=torch.channels_last):
        filters = filters.permute(0, 2, 3, 1)
    return filters.reshape(len(filters), -1)


def from_matrix(matrix: Tensor, like: Tensor) -> Tensor:
    """The other way, in the shape and order of these filters."""
    if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
        count, inputs, height, width = like.shape
        return matrix.reshape(count, height, width, inputs).permute(0, 3, 1, 2)
    return matrix.reshape(like.shape)


def orthogonalise(matrices: Tensor, steps: int = 3) -> Tensor:
    """Nearest (semi-)orthogonal matrices of a batch [B, m, n], roughly: singular values near 1.

    Quintic Newton-Schulz iteration with Jordan's coefficients, in bf16 where the device is fast
    at it, else in fp32.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16() if multiplies_bf16(matrices.device) else matrices.float()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    result: Tensor = x.mT if tall else x
    return result


class Optimizers:
    """The optimizer(s) of a net behind one interface: set the rate, step, save, load.

    Weights (two dimensions or more) take the weight decay and L1; biases and norm parameters
    take neither. With muon its own are the filters of two-dimensional convolutions that have more
    than one input; all else, linear layers and depthwise filters too, is SGD's. On a GPU the rates
    lie in its memory, so that a recorded step reads the new ones.

    Raises:
        ConfigError: there is nothing to train.
    """

    def __init__(
        self,
        net: nn.Module,
        settings: OptimizerSettings,
        device: torch.device,
        *,
        kernels: bool = False,
    ) -> None:
        self._l1 = settings.l1
        on_gpu = device.type == "cuda"
        named = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
        if not named:
            raise ConfigError("the net has no parameters to train")
        of_norms = {
            id(p)
            for m in net.modules()
            if isinstance(m, NORMS)
            for p in m.parameters(recurse=False)
        }
        weights = [
            p
            for n, p in named
            if p.ndim >= 2 and id(p) not in of_norms and n.rpartition(".")[2] != "bias"
        ]
        chosen = {id(p) for p in weights}
        others = [p for _, p in named if id(p) not in chosen]
        self._weights = weights
        fused = device.type in ("cuda", "cpu")
        self.all: list[torch.optim.Optimizer]
        if settings.name == "muon":
            # a depthwise filter has one input: nothing to orthogonalise
            filters = [p for p in weights if p.ndim == 4 and p.shape[1] > 1]
            matrices = {id(p) for p in filters}
            rest = [p for p in weights if id(p) not in matrices]
            self.all = []
            if filters:
                how = settings.lr, settings.momentum, settings.weight_decay
                self.all.append(Muon(filters, *how, tiled=kernels and not on_gpu and tiles.ready()))
            aux_lr = settings.aux_lr or settings.lr
            if rest or others:
                groups = _groups(rest, others, settings.weight_decay)
                self.all.append(_sgd(groups, aux_lr, settings.momentum, fused=fused))
        else:
            groups = _groups(weights, others, settings.weight_decay)
            self.all = [_plain(groups, settings, fused=fused, on_gpu=on_gpu)]
        self._peaks = [[float(g["lr"]) for g in o.param_groups] for o in self.all]
        self._factor = 1.0
        self.peak = self._peaks[0][0]
        """The largest rate of the first parameters."""
        self.lr = settings.lr
        if on_gpu:
            for group in self._param_groups():
                group["lr"] = torch.tensor(group["lr"], device=device)

    def set_factor(self, factor: float) -> None:
        """Set all learning rates to a share of their peaks; ``lr`` is the first one's."""
        self._factor = factor
        for optimizer, peaks in zip(self.all, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(peak * factor)
                else:
                    group["lr"] = peak * factor
        self.lr = self.peak * factor

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer in self.all:
            optimizer.zero_grad(set_to_none=True)

    def used(self) -> list[torch.optim.Optimizer]:
        """Those that have a gradient to step by: the scaler of fp16 refuses the others."""
        return [
            optimizer
            for optimizer in self.all
            if any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
        ]

    @torch.no_grad()
    def add_l1(self) -> None:
        """Add the subgradient of the L1 penalty to the weights' gradients."""
        if not self._l1:
            return
        weights: list[Tensor] = [p for p in self._weights if p.grad is not None]
        grads = [p.grad for p in weights if p.grad is not None]
        torch._foreach_add_(grads, torch._foreach_sign(weights), alpha=self._l1)

    def state_dict(self) -> list[dict[str, Any]]:
        """States of all optimizers, of the same form on all devices."""
        states = [o.state_dict() for o in self.all]
        for state, peaks in zip(states, self._peaks, strict=True):
            for group, peak in zip(state["param_groups"], peaks, strict=True):
                group["lr"] = peak * self._factor
        return states

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Set the states of all optimizers; the checkpoint may be another device's."""
        rates = [group["lr"] for group in self._param_groups()]
        for optimizer, state in zip(self.all, states, strict=True):
            pairs = zip(state["param_groups"], optimizer.param_groups, strict=True)
            # how to compute is this device's matter; where state is put depends on it
            groups = [{**saved, **{k: own[k] for k in HOW if k in own}} for saved, own in pairs]
            optimizer.load_state_dict({**state, "param_groups": groups})
        for group, rate in zip(self._param_groups(), rates, strict=True):
            if isinstance(rate, Tensor):  # a recorded step looks for it where it is
                group["lr"] = rate

    def _param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.all for group in optimizer.param_groups]


def _groups(
    weights: list[nn.Parameter], others: list[nn.Parameter], decay: float
) -> list[dict[str, Any]]:
    groups = [
        {"params": weights, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


def _plain(
    groups: list[dict[str, Any]], settings: OptimizerSettings, *, fused: bool, on_gpu: bool
) -> torch.optim.Optimizer:
    if settings.name == "sgd":
        return _sgd(groups, settings.lr, settings.momentum, fused=fused)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    betas = (settings.momentum, settings.beta2)
    # steps before the recording, and where there is none
    warnings.filterwarnings("ignore", message="This instance was constructed with capturable")
    return kind(groups, lr=settings.lr, betas=betas, fused=fused, capturable=on_gpu)


def _sgd(
    groups: list[dict[str, Any]], lr: float, momentum: float, *, fused: bool
) -> torch.optim.Optimizer:
    made = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    if momentum:
        # in fp16 a first step that overflows is left out, but only after torch's fused SGD has made
        # its buffers, without a number in them
        for group in made.param_groups:
            for p in group["params"]:
                made.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return made

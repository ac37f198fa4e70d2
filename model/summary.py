"""The table of a net's layers: shapes, parameters, multiply-adds, receptive field.

A forward pass of two small images is followed operator by operator (``model.trace``), so that
functional and residual code is seen as modules are; two before it tell what is done for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.errors import ModelError
from model.growth import BATCH, LARGER, Event, Growth, Trail, alike
from model.inspection import first_device, same_draws, untouched
from model.layers import Layer, Recorder, added, dilated
from model.layout import POOLINGS, Seen, image
from model.receptive_field import Axis
from model.trace import Op, Tracer
from model.user_file import reason

__all__ = ["Layer", "Summary", "summarize"]


@dataclass(frozen=True)
class Summary:
    """A net's layers and totals."""

    layers: tuple[Layer, ...]
    parameters: int
    trainable_parameters: int
    buffers: int
    """Elements of all buffers."""
    macs: int | None
    """Multiply-adds per image; None where a layer's are unknown, or what the image went through."""
    macs_reason: str
    """Why they are unknown."""
    receptive_field: tuple[int, int] | None
    """Before global pooling, theoretical, not clipped: what the coursework's limits mean."""
    receptive_field_global: tuple[int, int] | None
    """After global pooling, clipped to the image; None without one."""
    receptive_field_unclipped: tuple[int, int] | None
    """After global pooling, not clipped."""
    reason: str
    """Why the receptive field is unknown."""
    depthwise_separable: int | None
    """None where it is unknown what comes after a depthwise convolution."""
    dilated: int
    strided3x3: int
    max_pools: int
    global_average_pooling: bool | None
    """Whether that is what mixes the positions before the output; None where that is unknown."""
    fc_after_pooling: bool | None
    """Whether a linear layer, or 1x1 convolution, follows it; None where that is unknown."""
    input_shape: tuple[int, ...]
    """Of one image, [C, H, W]: a first layer may take a padded or cropped one."""


def summarize(net: nn.Module, input_shape: tuple[int, ...] = (3, 32, 32)) -> Summary:
    """Follow a forward pass, in eval mode and without gradients.

    Parameters, buffers, modes and generators stay as they were.

    Args:
        net: on any device.
        input_shape: of one image, [C, H, W].

    Raises:
        ModelError: the net cannot be run on such images.
    """
    device = first_device(net)
    with untouched(net), torch.no_grad():
        dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
        more = torch.rand(LARGER, *input_shape, device=device, dtype=dtype)
        images = more[:BATCH].clone()
        growth = _growth(net, images, more)
        recorder = Recorder(net, growth)
        parameters = list(net.parameters())
        tracer = Tracer(images, image(images.shape), parameters, recorder.hear, growth)
        recorder.tracer = tracer
        try:
            output = _pass(net, images, tracer, recorder)
        except (Exception, SystemExit) as error:
            shape = [BATCH, *input_shape]
            raise ModelError(f"the net fails on a batch {shape}: {reason(error)}") from None
        recorder.add_unused()
        first = next((t for t in tree_leaves(output) if isinstance(t, Tensor)), None)
        end = None if first is None else tracer.seen(first)
    return _totals(net, recorder, end, input_shape)


def _growth(net: nn.Module, images: Tensor, more: Tensor) -> Growth:
    two = _trail(net, images)
    four = two and _trail(net, more)
    if two and four and not alike(two, four):  # a first pass makes what later ones keep
        two = _trail(net, images)
    return Growth(two, four)


def _trail(net: nn.Module, images: Tensor) -> list[Event] | None:
    """What a pass does; None where it fails. The next one draws the same numbers."""
    trail = Trail(net)
    try:
        with same_draws(net):
            _pass(net, images, trail, trail)
    except (Exception, SystemExit):  # of two images: told when they are followed
        return None
    return trail.events


def _pass(
    net: nn.Module, images: Tensor, mode: TorchDispatchMode, modules: Recorder | Trail
) -> Any:
    """Run the net, each operator of it dispatched by itself."""
    handles = []
    try:
        for module in net.modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes none: its operators are rows
                continue
            handles.append(module.register_forward_pre_hook(modules.enter, with_kwargs=True))
            handles.append(module.register_forward_hook(modules.leave))
        # scripted code is not optimised: operators that it fuses are not seen
        unfused = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
        with (
            _plain_attention(),
            _Replicating(),
            mode,
            torch.autocast(images.device.type, enabled=False),
            unfused,
        ):
            return net(images)
    finally:
        for handle in handles:
            handle.remove()


def _totals(
    net: nn.Module, recorder: Recorder, end: Seen | str | None, shape: tuple[int, ...]
) -> Summary:
    layers, ops = recorder.layers(), recorder.ops
    convs = [op for op in ops if op.kind == "conv" and op.window is not None and not op.fixed]
    reason, macs_reason = "", ""
    macs = added(layer.macs for layer in layers)
    if macs is None:
        uncounted = next(layer for layer in layers if layer.macs is None)
        macs_reason = f"those of {uncounted.path or 'the net'} ({uncounted.type}) are not known"
    before: tuple[int, int] | None = None
    clipped = unclipped = before
    head: list[str] | None = []
    if end is None:  # or it went through numpy or numbers, and who knows what was done there
        reason, head = "the output does not depend on the image, as far as torch tells", None
        macs, macs_reason = None, reason
    elif isinstance(end, str):
        reason, head = end, None
    else:
        head = end.head.split("+") if end.pooled else []
        rows, cols = end.settled().axes
        before = _before(rows), _before(cols)
        if rows.far is not None and cols.far is not None:
            unclipped = rows.extent, cols.extent
            clipped = _clip(rows.far, shape[1]), _clip(cols.far, shape[2])
    pairs = {op.pair for op in ops if op.pair is not None and not op.depthwise}
    lost = end is None or any(op.depthwise and isinstance(op.seen, str) for op in convs)
    parameters = list(net.parameters())
    return Summary(
        layers=layers,
        parameters=sum(p.numel() for p in parameters),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        buffers=sum(b.numel() for b in net.buffers()),
        macs=macs,
        macs_reason=macs_reason,
        receptive_field=before,
        receptive_field_global=clipped,
        receptive_field_unclipped=unclipped,
        reason=reason,
        depthwise_separable=None if lost else len(pairs),
        dilated=sum(dilated(op.window) for op in convs),
        strided3x3=sum(_strided(op) for op in convs),
        max_pools=sum(op.kind == "pool" and "max" in op.name for op in ops),
        global_average_pooling=None if head is None else head[:1] == ["average"],
        fc_after_pooling=None if head is None else _linear_after_pooling(head),
        input_shape=shape,
    )


def _linear_after_pooling(head: list[str]) -> bool:
    pools = [at for at, name in enumerate(head) if name in POOLINGS]
    return bool(pools) and "linear" in head[pools[0] :]


class _Replicating(TorchFunctionMode):
    """Circular padding, which writes in place, as replicating one: both see the same away from the
    borders, as reflecting one does.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "pad":
            args = tuple("replicate" if _is_circular(arg) else arg for arg in args)
            kwargs = {k: "replicate" if _is_circular(v) else v for k, v in kwargs.items()}
        return func(*args, **kwargs)


def _is_circular(argument: Any) -> bool:
    return isinstance(argument, str) and argument == "circular"


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as the products it is made of, which are followed and counted; not one kernel."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _before(axis: Axis) -> int:
    return axis.before if axis.near is None else axis.extent


def _clip(span: tuple[int, int], size: int) -> int:
    return max(0, min(span[1], size - 1) - max(span[0], 0) + 1)


def _strided(op: Op) -> bool:
    if op.window is None or "transpose" in op.name:  # which strides in its output
        return False
    return op.window.kernel == (3, 3) and op.window.stride == (2, 2)

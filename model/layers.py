"""Rows of the layer table, recorded while a forward pass is followed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from model.growth import Growth, Shape, entering, leaving, shapes_of, tensors_in
from model.layout import Seen
from model.operator_call import Window
from model.trace import Op, Tracer


@dataclass(frozen=True)
class Layer:
    """One row of the table: a module without children, or an operator called outside one.

    Sizes are (height, width), shapes without the batch. Functional views, copies and scaling have
    no row.
    """

    path: str
    """Of the module, ``c2.block.conv``; an operator's own name comes last, ``c2.block.add``."""
    type: str
    """Class of the module, or name of the operator."""
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    """Those not counted in an earlier row: shared ones count once."""
    share: float
    """Of all parameters, 0 to 1."""
    macs: int | None
    """Multiply-adds per image, bias left out; 1 multiply-add = 1 MAC. None where unknown."""
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    padding: tuple[int, int] | None = None
    """On either side; None where both are not the same."""
    dilation: tuple[int, int] | None = None
    groups: int | None = None
    jump: tuple[int, int] | None = None
    """Image pixels between neighbouring positions of the output; None after global pooling."""
    receptive_field: tuple[int, int] | None = None
    """Theoretical, of one position of the output; not clipped to the image."""
    pooled: bool = False
    """Whether a position sees pooled features besides, as behind a gate: its receptive field is the
    greater of both, and does not follow from that of its input."""
    reason: str = ""
    """Why the receptive field is unknown."""
    joins: bool = False
    """Whether it joins several tensors, as an addition: it sees the union of what they see."""
    is_depthwise: bool = False
    is_separable: bool = False
    """Depthwise or pointwise half of a depthwise separable convolution."""
    is_dilated: bool = False


@dataclass
class _Frame:
    """A module whose forward is running."""

    path: str
    module: nn.Module
    leaf: bool
    input: Shape | None
    """Of its first tensor, without the batch."""
    inputs: int
    ops: list[Op] = field(default_factory=list)


_ROWS = frozenset(("conv", "pool", "matmul", "reduce", "join", "act", "norm", "unknown"))
_MAIN = frozenset(("conv", "pool", "matmul", "reduce", "join", "unknown"))

_FORWARDS = (nn.Conv1d.forward, nn.Conv2d.forward)


class Recorder:
    """Turns operators, and the modules around them, into rows."""

    tracer: Tracer

    def __init__(self, net: nn.Module, growth: Growth) -> None:
        self._growth = growth
        self.rows: list[Layer] = []
        self.ops: list[Op] = []
        self._pairs: dict[int, list[int]] = {}
        self._paths = {id(m): path for path, m in net.named_modules()}
        self._sizes = {id(p): p.numel() for p in net.parameters()}
        self._total = max(1, sum(self._sizes.values()))
        self._counted: set[int] = set()
        self._owners = {
            id(p): (self._paths[id(m)], m) for m in net.modules() for p in m.parameters(False)
        }
        self._stack: list[_Frame] = []
        self._names: Counter[str] = Counter()

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Before a module's forward."""
        tensors = tensors_in((args, kwargs))
        step = self._growth.step(entering(self._paths, module), shapes_of(tensors[:1]))
        inside = bool(self._stack) and self._stack[-1].leaf
        self._stack.append(
            _Frame(
                path=self._paths.get(id(module), type(module).__name__),
                module=module,
                # what runs inside a leaf computes its weights: weight norm and the like
                leaf=inside or _is_leaf(module),
                input=step.shape(0) if tensors else None,
                inputs=len(tensors),
            )
        )

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """After a module's forward."""
        tensors = tensors_in(output)
        step = self._growth.step(leaving(self._paths, module), shapes_of(tensors[:1]))
        frame = self._stack.pop()
        if frame.module is not module:
            raise RuntimeError("modules were left in another order than entered")
        if self._stack and self._stack[-1].leaf:
            self._stack[-1].ops += frame.ops
            return
        if not frame.leaf or not tensors or isinstance(module, nn.Identity):
            return
        main = [op for op in frame.ops if op.kind in _MAIN]
        if len(main) > 1:
            for op in frame.ops:
                self._row_of_op(op, frame.path)
            return
        own = {id(p) for p in module.parameters()}
        own.update(*(op.parameters for op in frame.ops))
        shape = step.shape(0)
        self._add(
            frame.path,
            type(module).__name__,
            own,
            (shape if frame.input is None else frame.input, shape),
            tensors[0],
            frame.ops,
            main[0] if main else None,
            module,
            one_input=frame.inputs < 2,
        )

    def hear(self, op: Op) -> None:
        """An operator has run on something of the image, or for each image."""
        self.ops.append(op)
        if self._stack and self._stack[-1].leaf:
            self._stack[-1].ops.append(op)
        else:
            self._row_of_op(op, self._stack[-1].path if self._stack else "")

    def add_unused(self) -> None:
        """Rows for modules whose parameters had no part, so that the rows add up to the total."""
        left: dict[str, tuple[nn.Module, int]] = {}
        for key, (path, module) in self._owners.items():
            if key not in self._counted:
                left[path] = module, left.get(path, (module, 0))[1] + self._sizes[key]
        for path, (module, size) in left.items():
            self.rows.append(
                Layer(
                    path=path,
                    type=type(module).__name__,
                    input_shape=(),
                    output_shape=(),
                    parameters=size,
                    share=size / self._total,
                    macs=0,
                    reason="not used in the forward pass",
                )
            )

    def _row_of_op(self, op: Op, path: str) -> None:
        if op.kind not in _ROWS and not op.parameters - self._counted:
            return
        owners = {self._owners[p][0] for p in op.parameters if p in self._owners}
        if len(owners) == 1 and (owner := owners.pop()) not in ("", path):
            path = owner  # F.conv2d(x, self.conv.weight): the layer is self.conv
        else:
            name = f"{path}.{op.name}" if path else op.name
            self._names[name] += 1
            path = name if self._names[name] == 1 else f"{name}_{self._names[name]}"
        self._add(path, op.name, op.parameters, op.shapes, op.output, [op], op)

    def _add(
        self,
        path: str,
        kind: str,
        parameters: set[int] | frozenset[int],
        shapes: tuple[Shape, Shape],
        output: Tensor,
        ops: list[Op],
        main: Op | None,
        module: nn.Module | None = None,
        *,
        one_input: bool = False,
    ) -> None:
        new = sum(self._sizes.get(p, 0) for p in parameters if p not in self._counted)
        self._counted.update(p for p in parameters if p in self._sizes)
        window = main.window if main else None
        fields = _window_fields(window, main is not None and main.kind == "conv")
        if main is not None and module is not None and _larger(main.shapes[0], shapes[0]):
            fields["padding"] = _padding(module)
        row = Layer(
            path=path,
            type=kind,
            input_shape=shapes[0],
            output_shape=shapes[1],
            parameters=new,
            share=new / self._total,
            macs=added(op.macs for op in ops),
            **fields,
            **_seen_fields(self.tracer.seen(output)),
            joins=main is not None and main.kind == "join" and not one_input,
            is_depthwise=main is not None and main.depthwise,
            is_dilated=dilated(window),
        )
        if main is not None and main.pair is not None:
            self._pairs.setdefault(main.pair, []).append(len(self.rows))
        self.rows.append(row)

    def layers(self) -> tuple[Layer, ...]:
        """All rows, the halves of depthwise separable convolutions marked."""
        rows = list(self.rows)
        for pair in self._pairs.values():
            if len(pair) > 1:
                for i in pair:
                    rows[i] = replace(rows[i], is_separable=True)
        return tuple(rows)


def _is_leaf(module: nn.Module) -> bool:
    children = dict(module.named_children())
    return not children or "parametrizations" in children


def _window_fields(window: Window | None, conv: bool) -> dict[str, Any]:
    if window is None:
        return {}
    names = ("kernel", "stride", "padding", "dilation")
    fields: dict[str, Any] = {
        n: _two(getattr(window, n), across=0 if n == "padding" else 1) for n in names
    }
    return {**fields, "groups": window.groups if conv else None}


def _larger(shape: Shape, than: Shape) -> bool:
    """Whether a window slid over more than the layer was given: it was padded before."""
    return len(shape) == len(than) and any(map(int.__gt__, shape[1:], than[1:]))


def _padding(module: nn.Module) -> tuple[int, int] | None:
    """Of a convolution that pads by itself: what reflects, and 'same' of an even kernel."""
    if not isinstance(module, nn.Conv1d | nn.Conv2d) or type(module).forward not in _FORWARDS:
        return None
    if not isinstance(module.padding, str):
        return _two(module.padding, across=0)
    totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    return None if any(t % 2 for t in totals) else _two([t // 2 for t in totals], across=0)


def _two(values: Sequence[int], *, across: int) -> tuple[int, int] | None:
    """(height, width); a one-dimensional window lies along the width, ``across`` is its height."""
    if len(values) == 1:
        return across, values[0]
    return (values[0], values[1]) if len(values) == 2 else None


def _seen_fields(seen: Seen | str | None) -> dict[str, Any]:
    if seen is None:
        return {"reason": "does not depend on the image"}
    if isinstance(seen, str):
        return {"reason": seen}
    rows, cols = seen.settled().axes
    apart = rows.near is not None and cols.near is not None
    return {
        "jump": (rows.jump, cols.jump) if apart else None,
        "receptive_field": (rows.extent, cols.extent),
        "pooled": apart and not (rows.far is None and cols.far is None),
    }


def added(macs: Iterable[int | None]) -> int | None:
    """The sum; unknown when one is."""
    total = 0
    for each in macs:
        if each is None:
            return None
        total += each
    return total


def dilated(window: Window | None) -> bool:
    """Whether a dilation has an effect."""
    if window is None:
        return False
    return any(d > 1 and k > 1 for d, k in zip(window.dilation, window.kernel, strict=True))

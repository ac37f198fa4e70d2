"""Follow a forward pass operator by operator, below modules and functional calls alike.

At the dispatcher ``x + y``, ``torch.add`` and ``x.add_(y)``, or ``nn.ReLU`` and ``F.relu``, are the
same operator. For each that touches something of the image the tracer tells what it is, what its
result sees of the image (``Seen``, or the reason why that is unknown), and its multiply-adds; of
the others it tells those that have multiply-adds for each image all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model import rules
from model.growth import Growth, Shape, Step, shapes_of, tensors_in
from model.layout import Seen
from model.operator_call import Call, Kind, Window
from model.receptive_field import Underivable


@dataclass
class Op:
    """One operator of the forward pass."""

    name: str
    kind: Kind
    inputs: tuple[int, ...]
    """Shape of its first input that depends on the image, or else on the number of images."""
    output: Tensor
    seen: Seen | str
    macs: int | None
    """Per image; None where they are unknown."""
    shapes: tuple[Shape, Shape]
    """Of that input and its first result, without the batch."""
    parameters: frozenset[int]
    """``id`` of the parameters that it uses, directly or through what was computed from them."""
    window: Window | None = None
    dynamic: bool = False
    """Whether several of its arguments depend on the image: weights do as well."""
    depthwise: bool = False
    pair: int | None = None
    """Of a pointwise convolution, or a linear layer over channels: the number of the depthwise
    convolution right before it."""

    @property
    def fixed(self) -> bool:
        """Whether nothing of it is learned, as of a filter that blurs."""
        return not self.parameters and not self.dynamic


@dataclass
class _Note:
    tensor: Tensor  # kept alive, so that neither id nor storage is used again
    seen: Seen | str | None = None
    roots: frozenset[int] = field(default_factory=frozenset)


class Tracer(TorchDispatchMode):
    """Follows every operator while it is active; ``on_op`` hears of those on image data, and of
    others that have multiply-adds for each image.
    """

    def __init__(
        self,
        image: Tensor,
        seen: Seen,
        parameters: Sequence[Tensor],
        on_op: Callable[[Op], None],
        growth: Growth | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._growth = growth or Growth(None, None)
        self._places: dict[tuple[Any, ...], _Note] = {}
        self._notes = {id(p): _Note(p, None, frozenset([id(p)])) for p in parameters}
        self._spoiled: set[int] = set()
        self._note(image, seen, frozenset())
        self._on_op = on_op
        self._depthwise = 0
        self._batch = image.shape[0]

    def seen(self, tensor: Tensor) -> Seen | str | None:
        """What a tensor sees; a string: why that is unknown; None: nothing of the image."""
        note = self._find(tensor)
        if _storage(tensor) in self._spoiled:
            return "a tensor was written in place through a view of it"
        return note.seen if note else None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_in((args, kwargs))
        before = [(t, self.seen(t)) for t in tensors]
        shapes = {id(t): (*t.shape,) for t in tensors}  # in-place views change them
        result = func(*args, **kwargs)
        outputs = tensors_in(result)
        sizes = [shapes[id(t)] for t in tensors]
        step = self._growth.step(str(func), [*sizes, *shapes_of(outputs)])
        notes = [self._find(t) for t, s in before if s is None]
        roots = frozenset().union(*(note.roots for note in notes if note is not None))
        known = [(t, s) for t, s in before if s is not None]
        if known and outputs:
            call = Call(func, args, kwargs, dict(_by_id(known)), shapes, outputs)
            self._record(call, step, tensors, known, roots)
        elif not known:
            call = Call(func, args, kwargs, {}, shapes, outputs)
            if outputs and self._record_constant(call, step, len(tensors), roots):
                roots = frozenset()  # it has a row: what comes after does not use them again
            for t in outputs:
                if roots or id(t) in self._notes:
                    self._note(t, None, roots)
                elif func._schema.is_mutable:
                    self._notes[id(t)] = _Note(t)
        return result

    def _record_constant(
        self, call: Call, step: Step, arguments: int, roots: frozenset[int]
    ) -> bool:
        """What is multiplied for each image all the same: a learned image, a first hidden state.
        Whether it is.
        """
        macs = step.macs(rules.macs(call, weighted=bool(roots)), constant=True)
        kind = rules.classify(call)
        if macs == 0 and not (kind == "pool" and step.grows(arguments)):
            return False
        first = next((i for i in range(arguments) if step.grows(i)), 0)
        op = Op(
            name=rules.title(call),
            kind="unknown" if kind == "move" else kind,
            inputs=step.shapes[first],
            output=call.outputs[0],
            seen="does not depend on the image",
            macs=macs,
            shapes=(step.shape(first), step.shape(arguments)),
            parameters=roots,
            window=rules.window(call),
        )
        self._on_op(op)
        return True

    def _record(
        self,
        call: Call,
        step: Step,
        tensors: list[Tensor],
        known: list[tuple[Tensor, Seen | str]],
        roots: frozenset[int],
    ) -> None:
        outputs = call.outputs
        kind, seen, window = rules.classify(call), list[Seen | str](), None
        reasons = [s for _, s in known if isinstance(s, str)]
        try:
            window = rules.window(call)
            if reasons:
                raise Underivable(reasons[0])
            seen += rules.follow(call)
        except Underivable as reason:
            seen = [str(reason)] * len(outputs)
            if not reasons:
                kind = "unknown" if kind == "move" else kind
        for tensor, what in zip(outputs, seen, strict=False):
            self._write(call, tensor, what)
        first = seen[0]
        which = next(i for i, t in enumerate(tensors) if t is known[0][0])
        op = Op(
            name=rules.title(call),
            kind=kind,
            inputs=call.shapes[id(known[0][0])],
            output=outputs[0],
            seen=first,
            macs=step.macs(rules.macs(call, weighted=bool(roots)), constant=False),
            shapes=(step.shape(which), step.shape(len(tensors))),
            parameters=roots,
            window=window,
            dynamic=len(known) > 1,
        )
        source = known[0][1]
        if kind == "conv" and window is not None and not op.fixed:
            self._mark_separable(op, window, source)
        elif kind == "matmul" and not op.fixed and isinstance(source, Seen):
            op.pair = source.depthwise if rules.is_pointwise(call, self._batch) else None
        self._on_op(op)

    def _mark_separable(self, op: Op, window: Window, source: Seen | str) -> None:
        """Number a depthwise convolution, and find the pair of a pointwise one."""
        groups, channels = window.groups, op.inputs[1]
        if groups == channels > 1 and max(window.kernel) > 1:
            self._depthwise += 1
            op.depthwise = True
            op.pair = self._depthwise
            if isinstance(op.seen, Seen):
                op.seen = rules.mark(op.seen, self._depthwise)
                self._notes[id(op.output)].seen = op.seen
        elif groups == 1 and max(window.kernel) == 1 and isinstance(source, Seen):
            op.pair = source.depthwise

    def _write(self, call: Call, tensor: Tensor, seen: Seen | str) -> None:
        """Note what an output sees; what shares memory with one written in place is lost."""
        if call.func._schema.is_mutable and seen != call.seen.get(id(tensor)):
            storage = _storage(tensor)
            whole = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
            others = any(
                n.tensor is not tensor and n.seen is not None and _storage(n.tensor) == storage
                for n in self._notes.values()
            )
            if not whole or others:
                self._spoiled.add(storage)
        self._note(tensor, seen, frozenset())

    def _note(self, tensor: Tensor, seen: Seen | str | None, roots: frozenset[int]) -> None:
        note = self._notes[id(tensor)] = _Note(tensor, seen, roots)
        if tensor.numel():
            self._places[_place(tensor)] = note

    def _find(self, tensor: Tensor) -> _Note | None:
        """Of the tensor, or of another that is the same: ``as_subclass`` calls no operator."""
        return self._notes.get(id(tensor)) or self._places.get(_place(tensor))


def _by_id(known: list[tuple[Tensor, Seen | str]]) -> list[tuple[int, Seen | str]]:
    return [(id(t), s) for t, s in known]


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Where its elements lie: what is at the same place is the same tensor."""
    if tensor.layout != torch.strided:
        return (id(tensor),)
    where = tensor.storage_offset(), (*tensor.shape,), tensor.stride()
    return (_storage(tensor), tensor.dtype, *where)


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without one
        return id(tensor)

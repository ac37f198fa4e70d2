"""What is known of a tensor: what it sees of the image, and which dimension runs along which axis.

A dimension is a tuple of factors (size, axis): rows are axis 0, columns axis 1, all else None. So
``[N, C, H, W]`` flattened after N is ``((N), (C, H·W))`` with H and W still told apart, and a later
linear layer, transposition or reshape back is followed exactly. Channels are not told apart: a
tensor sees what any of its channels sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.receptive_field import Axis, Underivable

POOLINGS = ("average", "max")

Factor = tuple[int, int | None]
Dim = tuple[Factor, ...]


@dataclass(frozen=True)
class Seen:
    """What a tensor sees of the image."""

    layout: tuple[Dim, ...]
    axes: tuple[Axis, Axis]
    head: str = ""
    """What mixed the positions: ``average``, ``max``, ``linear``, or several of them joined by +;
    empty while positions are still apart."""
    depthwise: int | None = None
    """Number of the depthwise convolution that this comes from, without another layer between."""

    @property
    def pooled(self) -> bool:
        """Whether no position is left: everything has been seen by everyone."""
        return all(axis.mixed for axis in self.axes)

    def axes_in(self, dim: int) -> list[int]:
        """Axes that run along a dimension."""
        return [a for _, a in self.layout[dim] if a is not None]

    def single(self, dim: int, what: str) -> int | None:
        """The one axis of a dimension, or None.

        Raises:
            Underivable: the dimension runs along an axis and something else as well.
        """
        if not self.axes_in(dim):
            return None
        if len(self.layout[dim]) > 1:
            raise Underivable(f"{what} over flattened rows and columns")
        return self.layout[dim][0][1]

    def with_axis(self, which: int, axis: Axis) -> Seen:
        """One axis replaced; what had mixed its positions has not if they are apart again."""
        rows, cols = self.axes
        axes = (axis, cols) if which == 0 else (rows, axis)
        head = self.head if any(each.mixed for each in axes) else ""
        return replace(self, axes=axes, head=head)

    def collapse(self, dims: Sequence[int], how: str) -> Seen:
        """All positions along some dimensions are mixed; the dimensions stay."""
        seen = self
        if dims and how in POOLINGS and how not in self.head.split("+"):
            for axis in (0, 1):  # this is the global pooling, not the one before
                seen = seen.with_axis(axis, replace(seen.axes[axis], shut=None))
        for dim in dims:
            for size, which in self.layout[dim]:
                if which is not None and seen.axes[which].near is not None:
                    seen = seen._mixed_by(which, seen.axes[which].collapse(size), how)
            sizes = tuple((size, None) for size, _ in self.layout[dim])
            seen = replace(seen, layout=(*seen.layout[:dim], sizes, *seen.layout[dim + 1 :]))
        return seen

    def shut(self, before: Seen, how: str) -> Seen:
        """After a pooling whose window held all positions that were there before: global pooling,
        unless another window slides over the one position left.
        """
        seen = self
        for which, (old, new) in enumerate(zip(before.axes, self.axes, strict=True)):
            held = [size for dim in before.layout for size, axis in dim if axis == which]
            if not old.mixed and held:
                seen = seen._mixed_by(which, replace(new, shut=old.collapse(held[0])), how)
        return seen

    def settled(self) -> Seen:
        """Where no window follows: what may have been global pooling was."""
        rows, cols = (axis.shut or axis for axis in self.axes)
        return replace(self, axes=(rows, cols))

    def _mixed_by(self, which: int, axis: Axis, how: str) -> Seen:
        head = self.head.split("+") if self.head else []
        if not self.axes[which].mixed and how not in head:
            head.append(how)
        return replace(self.with_axis(which, axis), head="+".join(head))

    def mixed(self) -> Seen:
        """After a layer that mixes the channels of what is already pooled: an FC."""
        if self.pooled and "linear" not in self.head.split("+"):
            return replace(self, head=f"{self.head}+linear")
        return self

    def sized(self, shape: Sequence[int]) -> Seen:
        """The same with the sizes of a result; a dimension of several factors must have kept its
        size."""
        layout: list[Dim] = []
        for size, dim in zip(shape, self.layout, strict=True):
            if math.prod(s for s, _ in dim) == size:
                layout.append(dim)
            elif len(dim) == 1:
                layout.append(((size, dim[0][1]),))
            elif any(a is not None for _, a in dim):
                raise Underivable("a part of flattened rows and columns is taken")
            else:
                layout.append(((size, None),))
        return replace(self, layout=tuple(layout))

    def reshaped(self, shape: Sequence[int]) -> Seen:
        """After a view of the same elements.

        Raises:
            Underivable: rows or columns are split.
        """
        sizes = [math.prod(s for s, _ in dim) for dim in self.layout]
        if [*shape] == sizes:
            return self
        if shape and sizes and shape[-1] == sizes[-1]:  # rows and columns stay in their places
            rest = replace(self, layout=self.layout[:-1]).reshaped(shape[:-1])
            return replace(rest, layout=(*rest.layout, self.layout[-1]))
        seen = self
        for dim in range(len(self.layout)):  # an axis of one position has no place of its own
            if any(size == 1 and a is not None for size, a in self.layout[dim]):
                seen = seen.collapse([dim], "linear" if len(shape) > 2 else "flatten")
        queue: list[Factor] = []
        for size, which in (f for dim in seen.layout for f in dim):
            if which is None and queue and queue[-1][1] is None:
                queue[-1] = (queue[-1][0] * size, None)
            elif size > 1:
                queue.append((size, which))
        layout: list[Dim] = []
        for size in shape:
            group: list[Factor] = []
            need = size
            while need > 1:
                have, which = queue.pop(0)
                if have > 0 and need % have == 0:
                    group.append((have, which))
                    need //= have
                elif which is None and have % need == 0:
                    group.append((need, None))
                    queue.insert(0, (have // need, None))
                    need = 1
                else:
                    raise Underivable("a reshape splits rows or columns")
            layout.append(tuple(group) or ((1, None),))
        return replace(seen, layout=tuple(layout))


def plain(shape: Sequence[int]) -> tuple[Dim, ...]:
    """Layout of a tensor without positions."""
    return tuple(((size, None),) for size in shape)


def image(shape: Sequence[int]) -> Seen:
    """The net's input, [N, C, H, W]."""
    n, c, h, w = shape
    return Seen((((n, None),), ((c, None),), ((h, 0),), ((w, 1),)), (Axis(), Axis()))


def join(parts: Sequence[Seen], shape: Sequence[int], along: int | None = None) -> Seen:
    """The union of several tensors that are broadcast against each other, or concatenated.

    Args:
        parts: at least one.
        shape: of the result.
        along: dimension of the concatenation.

    Raises:
        Underivable: their positions do not correspond.
    """
    aligned = [_broadcast(part, shape, along) for part in parts]
    layout: list[Dim] = []
    for dim, size in enumerate(shape):
        tagged = {a.layout[dim] for a in aligned if a.axes_in(dim)}
        if len(tagged) > 1 or (tagged and dim == along):
            raise Underivable("joined paths have their rows and columns in different places")
        layout.append(tagged.pop() if tagged else ((size, None),))
    placed = [which for dim in layout for _, which in dim if which is not None]
    if len(placed) != len(set(placed)):
        raise Underivable("joined paths have their rows and columns in different places")
    axes = aligned[0].axes
    for other in aligned[1:]:
        axes = (axes[0].join(other.axes[0]), axes[1].join(other.axes[1]))
    # a gate made of pooled features does not make the features it gates pooled ones
    open_ = [p for p in aligned if not p.pooled] or aligned
    heads = {p.head for p in open_}
    head = heads.pop() if len(heads) == 1 else "+".join(sorted({h for h in heads if h}))
    # x * sigmoid(x) comes from one convolution, a residual does not
    depthwise = open_[0].depthwise if len({p.depthwise for p in open_}) == 1 else None
    # nor does one of features pooled along one axis
    return Seen(tuple(layout), axes, head if any(a.mixed for a in axes) else "", depthwise)


def _broadcast(part: Seen, shape: Sequence[int], along: int | None) -> Seen:
    lead = len(shape) - len(part.layout)
    seen = replace(part, layout=((((1, None),),) * lead) + part.layout)
    for dim, size in enumerate(shape):
        if dim != along and size > 1 and math.prod(s for s, _ in seen.layout[dim]) == 1:
            seen = seen.collapse([dim], "broadcast")
    return seen

"""One call of an operator, as the rules see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from model.layout import Seen
from model.receptive_field import Underivable

Kind = Literal["conv", "pool", "matmul", "reduce", "join", "act", "norm", "move", "unknown"]
"""``move``: views, copies, scaling: nothing that a table of layers would show."""


@dataclass(frozen=True)
class Window:
    """A sliding window; tuples per spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1


@dataclass
class Call:
    """One operator with its arguments and results."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    seen: dict[int, Seen | str]
    """What those of its arguments that depend on the image see, by ``id``."""
    shapes: dict[int, tuple[int, ...]]
    """Of the arguments, before the call."""
    outputs: list[Tensor]

    @cached_property
    def name(self) -> str:
        """Without namespace and outer underscores."""
        return str(self.func._schema.name).partition("::")[2].strip("_")

    @cached_property
    def bound(self) -> dict[str, Any]:
        """Arguments by their names in the schema, defaults included."""
        schema = self.func._schema.arguments
        values = {a.name: a.default_value for a in schema if a.has_default_value()}
        values.update(zip((a.name for a in schema), self.args, strict=False))
        values.update(self.kwargs)
        return values

    def of(self, value: Any) -> Seen | None:
        """What an argument sees; None for constants."""
        known = self.seen.get(id(value))
        if isinstance(known, str):
            raise Underivable(known)
        return known

    @property
    def parts(self) -> list[Seen]:
        """All arguments that depend on the image."""
        return [s for s in self.seen.values() if isinstance(s, Seen)]

    @property
    def only(self) -> Seen:
        """The first tensor argument, the only one that may depend on the image."""
        first = self.of(self.args[0])
        if first is None or len(self.seen) > 1:
            raise Underivable(f"{self.name} of weights that depend on the image")
        return first

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first result."""
        return (*self.outputs[0].shape,)

    def size(self, tensor: Tensor) -> tuple[int, ...]:
        """Shape of an argument."""
        return self.shapes[id(tensor)]


def dims_of(call: Call, dims: Any) -> list[int]:
    """Dimensions of the first argument, from 0; all where none are given."""
    ndim = len(call.size(call.args[0]))
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        return list(range(ndim))
    return sorted(d % ndim for d in ([dims] if isinstance(dims, int) else dims))

"""What of a net's work is done for each image: what grows with the batch.

Two passes are noted, of two images and of four, and compared operator by operator. A dimension of 2
may be anything; one that is 2 in the first and 4 in the second pass is the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model import rules
from model.operator_call import Call

BATCH = 2
"""One image would make batch and channels look alike to nets that squeeze."""
LARGER = 4
"""Not three: some nets halve their batch."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Event:
    """An operator has run, or a module was entered or left."""

    name: str
    shapes: tuple[Shape, ...]
    """Of an operator's tensors, arguments first; of the tensor that a module takes or gives."""
    macs: int = 0


@dataclass(frozen=True)
class Step:
    """An event of the pass of two images, and the same in that of four, if it is known."""

    shapes: tuple[Shape, ...]
    larger: Event | None

    def grows(self, which: int) -> bool:
        """Whether one of its tensors is larger for more images."""
        return self.larger is not None and self.larger.shapes[which] != self.shapes[which]

    def shape(self, which: int) -> Shape:
        """Of one of its tensors, without the batch; empty where the batch is not told apart."""
        two = self.shapes[which]
        if self.larger is None:
            return two[1:]
        four = self.larger.shapes[which]
        grown = [at for at, (a, b) in enumerate(zip(two, four, strict=True)) if a != b]
        if not grown:
            return two
        at = grown[0]
        if len(grown) > 1 or not _in_proportion(two[at], four[at]):
            return ()
        each = two[at] // BATCH  # more than 1: a reshape has put other dimensions beside the batch
        return (*two[:at], *([each] if each > 1 else []), *two[at + 1 :])

    def macs(self, two: int | None, *, constant: bool) -> int | None:
        """Multiply-adds per image, of ``two`` for both; None where they are unknown.

        Args:
            two: None where they are unknown.
            constant: whether nothing of it depends on the image: it may be done once a batch.
        """
        if two is None and constant:
            # a weight that is computed, unless there is one for each image
            return None if any(map(self.grows, range(len(self.shapes)))) else 0
        if two is None or two == 0:
            return two
        if self.larger is None:
            return None if constant else two // BATCH
        if constant and self.larger.macs == two:
            return 0
        return two // BATCH if _in_proportion(two, self.larger.macs) else None


class Growth:
    """Both passes, for one that follows the same two images once more."""

    def __init__(self, two: Sequence[Event] | None, four: Sequence[Event] | None) -> None:
        """Nothing is known where the passes differ, or one of them failed (None)."""
        known = two is not None and four is not None and alike(two, four)
        self._larger = four if known and four is not None else ()
        self._next = 0

    def step(self, name: str, shapes: Sequence[Shape]) -> Step:
        """The next event of the pass."""
        larger = self._larger[self._next] if self._next < len(self._larger) else None
        if larger is not None and not _same(larger, Event(name, tuple(shapes))):
            self._larger, larger = (), None  # it goes another way each time
        self._next += 1
        return Step(tuple(shapes), larger)


class Trail(TorchDispatchMode):
    """Notes every event while it is active."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Event] = []
        self._paths = {id(m): path for path, m in net.named_modules()}

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Before a module's forward."""
        shapes = shapes_of(tensors_in((args, kwargs))[:1])
        self.events.append(Event(entering(self._paths, module), shapes))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """After a module's forward."""
        shapes = shapes_of(tensors_in(output)[:1])
        self.events.append(Event(leaving(self._paths, module), shapes))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_in((args, kwargs))
        before = shapes_of(tensors)
        result = func(*args, **kwargs)
        outputs = tensors_in(result)
        macs = 0
        if outputs:
            shapes = {id(t): s for t, s in zip(tensors, before, strict=True)}
            call = Call(func, args, kwargs, {}, shapes, outputs)
            macs = rules.macs(call, weighted=False) or 0
        self.events.append(Event(str(func), before + shapes_of(outputs), macs))
        return result


def entering(paths: dict[int, str], module: nn.Module) -> str:
    """Name of the event."""
    return f"enter {paths.get(id(module), type(module).__name__)}"


def leaving(paths: dict[int, str], module: nn.Module) -> str:
    """Name of the event."""
    return f"leave {paths.get(id(module), type(module).__name__)}"


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors of arguments or a result."""
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]


def shapes_of(tensors: Sequence[Tensor]) -> tuple[Shape, ...]:
    """Their shapes."""
    return tuple((*t.shape,) for t in tensors)


def alike(two: Sequence[Event], four: Sequence[Event]) -> bool:
    """Whether both passes did the same, whatever the sizes."""
    return len(two) == len(four) and all(map(_same, two, four))


def _in_proportion(two: int, four: int) -> bool:
    return two * LARGER == four * BATCH


def _same(one: Event, other: Event) -> bool:
    return one.name == other.name and [*map(len, one.shapes)] == [*map(len, other.shapes)]

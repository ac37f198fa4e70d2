"""Filters over the images of an evaluation, and the line they are typed in. Torch-free."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.analysis.mistakes import Mistakes

SYNTAX = "cat>dog  cat>  >dog  cat  conf>0.9  loss<2  #12  #10-20"
QUANTITIES = {
    "conf": "confidence",
    "confidence": "confidence",
    "actual": "p_actual",
    "p_actual": "p_actual",
    "loss": "loss",
    "margin": "margin",
    "entropy": "entropy",
}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_BOUND = re.compile(r"([a-z_]+)(>=|<=|>|<)([-+]?(?:\d+\.?\d*|\.\d+)%?)", re.IGNORECASE)
_INDEX = re.compile(r"#(\d{1,9})(?:(?:-|\.\.)#?(\d{1,9}))?")


@dataclass(frozen=True)
class Bound:
    """A quantity's limit, for example confidence > 0.9."""

    quantity: str
    compare: str
    value: float

    def __str__(self) -> str:
        short = {"confidence": "conf", "p_actual": "actual"}.get(self.quantity, self.quantity)
        # as short as reads back the same, and never with an exponent
        return f"{short}{self.compare}{np.format_float_positional(self.value, trim='-')}"


@dataclass(frozen=True)
class Filter:
    """Conditions that an image must meet: any of the confusions, any of the ranges, all bounds."""

    confusions: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    """Actual classes and predicted classes; no class means any. None at all means any image."""
    indices: tuple[tuple[int, int], ...] = ()
    """Ranges of indices, both ends included."""
    bounds: tuple[Bound, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.confusions or self.indices or self.bounds)

    def mask(self, images: Mistakes) -> NDArray[np.bool_]:
        """Which images fit, bool [N]."""
        fits = np.ones(len(images), np.bool_)
        if self.confusions:
            some = np.zeros(len(images), np.bool_)
            for actual, predicted in self.confusions:
                some |= _among(images.actual, actual) & _among(images.predicted, predicted)
            fits &= some
        if self.indices:
            some = np.zeros(len(images), np.bool_)
            for first, last in self.indices:
                some[first : last + 1] = True
            fits &= some
        for bound in self.bounds:
            fits &= _COMPARE[bound.compare](getattr(images, bound.quantity), bound.value)
        return fits

    def text(self, classes: Sequence[str]) -> str:
        """The line that ``parse_filter`` reads back to this filter."""
        words = [
            f"{_listed(actual, classes)}>{_listed(predicted, classes)}"
            for actual, predicted in self.confusions
        ]
        words += [f"#{a}" if a == b else f"#{a}-{b}" for a, b in self.indices]
        return " ".join([*words, *map(str, self.bounds)])


EVERYTHING = Filter()


def parse_filter(line: str, classes: Sequence[str]) -> Filter:
    """Read a filter such as ``cat>dog conf>0.9 loss>2 #123``.

    ``cat>dog``: cats taken for dogs; ``cat>`` and ``>dog``: either side alone; ``cat``: on either
    side; several classes with commas. ``conf``, ``actual`` (its probability), ``loss``, ``margin``
    and ``entropy`` take ``> >= < <=`` and a number. ``#12`` and ``#10-20``: images by index.
    Several confusions or indices widen the choice, everything else narrows it. A class is named by
    as much of its beginning as no other has, with ``_`` for a space, or as ``@3`` by its number;
    case does not matter.

    Raises:
        ConfigError: one line that says which word is not understood.
    """
    confusions: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    indices: list[tuple[int, int]] = []
    bounds: list[Bound] = []
    for word in line.replace("→", ">").split():
        bound = _BOUND.fullmatch(word)
        if word.startswith("#"):
            indices.append(_indices(word))
        elif bound and bound[1].lower() in QUANTITIES:
            bounds.append(_bound(bound))
        elif ">" in word:
            actual, _, predicted = word.partition(">")
            confusions.append((_classes(actual, classes), _classes(predicted, classes)))
        else:
            named = _classes(word, classes)
            confusions += [(named, ()), ((), named)]
    if any(not actual and not predicted for actual, predicted in confusions):
        confusions.clear()
    return Filter(tuple(confusions), tuple(indices), tuple(bounds))


def _among(column: NDArray[np.int64], named: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.isin(column, named) if named else np.ones(len(column), np.bool_)


def _indices(word: str) -> tuple[int, int]:
    found = _INDEX.fullmatch(word)
    if found is None:
        raise ConfigError(f"filter: {word} is no index: write #12 or #10-20")
    first = int(found[1])
    last = int(found[2]) if found[2] else first
    if last < first:
        raise ConfigError(f"filter: {word} ends before it begins")
    return first, last


def _bound(found: re.Match[str]) -> Bound:
    number = found[3]
    value = float(number[:-1]) / 100 if number.endswith("%") else float(number)
    return Bound(QUANTITIES[found[1].lower()], found[2], value)


def _classes(text: str, classes: Sequence[str]) -> tuple[int, ...]:
    names = [name for name in text.split(",") if name not in ("", "*")]
    return tuple(sorted({_class(name, classes) for name in names}))


def _class(name: str, classes: Sequence[str]) -> int:
    number = name.removeprefix("@")
    if number != name and number.isdecimal() and int(number) < len(classes):
        return int(number)
    wanted = _key(name)
    keys = [_key(known) for known in classes]
    fits = [i for i, key in enumerate(keys) if key == wanted]
    fits = fits[:1] or [i for i, key in enumerate(keys) if key.startswith(wanted)]
    if len(fits) == 1:
        return fits[0]
    if not fits:
        shown = ", ".join(classes[:12]) + (", …" if len(classes) > 12 else "")
        raise ConfigError(f"filter: nothing known as {name!r}; classes: {shown}")
    some = " or ".join(classes[i] for i in fits[:4]) + (" or …" if len(fits) > 4 else "")
    raise ConfigError(f"filter: {name!r} is {some}: write more of it")


def _key(name: str) -> str:
    """A class name as it can be typed in a filter: one word without the filter's own signs."""
    return re.sub(r"[\s,>#→]", "_", name).casefold()


def _listed(named: tuple[int, ...], classes: Sequence[str]) -> str:
    """The classes as the filter names them: by number where the name would not be read back."""
    keys = [_key(known) for known in classes]
    return ",".join(
        f"@{i}" if keys.index(keys[i]) != i or _is_special(keys[i]) else keys[i] for i in named
    )


def _is_special(key: str) -> bool:
    return key in QUANTITIES or key in ("", "*") or key.startswith("@") or not key.isprintable()

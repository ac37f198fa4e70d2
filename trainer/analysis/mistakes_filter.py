"""Which images of an evaluation fit, and the line that says so. Torch-free."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.analysis.mistakes import Indices, Mistakes, Sort
from trainer.errors import ConfigError

SYNTAX = "cat>dog  >dog  cat  conf>0.9  loss=1-2  human<0.5  #12  #10-20"
QUANTITIES = {
    "conf": "confidence",
    "confidence": "confidence",
    "actual": "p_actual",
    "p_actual": "p_actual",
    "loss": "loss",
    "margin": "margin",
    "entropy": "entropy",
    "doubt": "doubt",
    "human": "human",
}
FLAGS = ("doubtful", "sure", "unsure", "suspect", "right", "wrong")
"""Doubtful by the label review; people are sure or unsure of the label; suspect by a guess from the
run's own predictions; the model is right or wrong. ``!`` before: not so."""
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)%?)"
_BOUND = re.compile(rf"([a-z_]+)(>=|<=|>|<){_NUMBER}", re.IGNORECASE)
_RANGE = re.compile(rf"([a-z_]+)={_NUMBER}(?:-|\.\.){_NUMBER}", re.IGNORECASE)
_UNBOUNDED = re.compile(rf"({'|'.join(QUANTITIES)})[<>=]", re.IGNORECASE)
_QUOTED = re.compile(r"""(?<![^\s>→,])(["'])(.+?)\1(?=[\s>→,]|$)""")
"""A class name in quotes: a name begins or ends with the word, or at one of the filter's signs."""
_INDEX = re.compile(r"#?(\d{1,9})(?:(?:-|\.\.)#?(\d{1,9}))?")


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
    """Conditions that an image must meet: any of the confusions, any of the ranges of indices, all
    bounds, all flags."""

    confusions: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    """Actual classes and predicted classes; no class means any. None at all means any image."""
    indices: tuple[tuple[int, int], ...] = ()
    """Ranges of indices, both ends included."""
    bounds: tuple[Bound, ...] = ()
    flags: tuple[str, ...] = ()
    """Names out of ``FLAGS``, perhaps with ``!`` before."""

    def __bool__(self) -> bool:
        return bool(self.confusions or self.indices or self.bounds or self.flags)

    def check(self, images: Mistakes) -> None:
        """Whether all that is asked for is known of these images.

        Raises:
            ConfigError: it takes people's answers or a label review, and there are none.
        """
        for name in (*(b.quantity for b in self.bounds), *(f.lstrip("!") for f in self.flags)):
            getattr(images, name)

    def known(self, images: Mistakes) -> bool:
        """Whether ``check`` finds all that is asked for."""
        try:
            self.check(images)
        except ConfigError:
            return False
        return True

    def mask(self, images: Mistakes) -> NDArray[np.bool_]:
        """Which images fit, bool [N].

        Raises:
            ConfigError: as ``check``.
        """
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
        for flag in self.flags:
            fits &= getattr(images, flag.lstrip("!")) ^ flag.startswith("!")
        return fits

    def text(self, classes: Sequence[str]) -> str:
        """The line that ``parse_filter`` reads back to this filter."""
        words = [
            f"{_listed(actual, classes)}>{_listed(predicted, classes)}"
            for actual, predicted in self.confusions
        ]
        words += [f"#{a}" if a == b else f"#{a}-{b}" for a, b in self.indices]
        return " ".join([*words, *map(str, self.bounds), *self.flags])


EVERYTHING = Filter()


def select(
    images: Mistakes,
    *,
    sort: Sort = "confidence",
    where: Filter = EVERYTHING,
    wrong_only: bool = True,
    reverse: bool = False,
) -> Indices:
    """Indices of the images that fit, in order; ``reverse`` turns the order round.

    Raises:
        ConfigError: it takes people's answers or a label review, and there are none.
    """
    fits = where.mask(images)
    if wrong_only:
        fits &= images.wrong
    order = images.order(sort)
    chosen: Indices = order[fits[order]]
    if not reverse:
        return chosen
    unknown = np.isnan(getattr(images, sort)[chosen])  # the last either way
    return np.concatenate([chosen[~unknown][::-1], chosen[unknown]])


def parse_filter(line: str, classes: Sequence[str]) -> Filter:
    """Read a filter such as ``cat>dog conf>0.9 loss>2 #123``.

    ``cat>dog``: cats taken for dogs; ``cat>`` and ``>dog``: either side alone; ``cat``: on either
    side; several classes with commas. ``conf``, ``actual`` (its probability), ``loss``, ``margin``,
    ``entropy``, ``doubt`` (about the label, guessed from the predictions) and ``human`` (share of
    the people who agree with the label) take ``> >= < <=`` and a number or per cent (``conf>90%``),
    or ``=`` and a range (``loss=1-2``). ``sure`` and ``unsure`` (people of the label), ``suspect``
    (a guess), ``doubtful`` (by the label review), ``right`` and ``wrong``: ``!sure`` is not so.
    ``#12``, ``#10-20`` and ``#1,5,9``: images by index.
    Several confusions or indices widen the choice, everything else narrows it. A class is named by
    as much of its beginning as no other has, with ``_`` for a space, or as ``@3`` by its number;
    case does not matter where one class alone fits.

    Raises:
        ConfigError: one line that says which word is not understood.
    """
    confusions: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    indices: list[tuple[int, int]] = []
    bounds: list[Bound] = []
    flags: list[str] = []
    line = _QUOTED.sub(lambda quoted: f"@{_class(quoted[2], classes)}", line)
    for word in line.replace("→", ">").split():
        bound = _BOUND.fullmatch(word)
        between = _RANGE.fullmatch(word)
        if word.startswith("#"):
            indices += [_indices(part, word) for part in word.split(",")]
        elif bound and bound[1].lower() in QUANTITIES:
            bounds.append(_bound(bound[1], bound[2], bound[3]))
        elif between and between[1].lower() in QUANTITIES:
            bounds += _between(between)
        elif word.lower().removeprefix("!") in FLAGS:
            flags.append(word.lower())
        elif (unbounded := _UNBOUNDED.match(word)) and not _names(unbounded[1], classes):
            name = unbounded[1].lower()
            raise ConfigError(f"filter: {word} needs a number: {name}>0.5, or {name}=0.5-0.9")
        elif ">" in word:
            actual, _, predicted = word.partition(">")
            confusions.append((_classes(actual, classes), _classes(predicted, classes)))
        else:
            named = _classes(word, classes)
            confusions += [(named, ()), ((), named)]
    if any(not actual and not predicted for actual, predicted in confusions):
        confusions.clear()
    return Filter(tuple(confusions), tuple(indices), tuple(bounds), tuple(flags))


def _among(column: NDArray[np.int64], named: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.isin(column, named) if named else np.ones(len(column), np.bool_)


def _indices(text: str, word: str) -> tuple[int, int]:
    found = _INDEX.fullmatch(text)
    if found is None:
        raise ConfigError(f"filter: {word} is no index: write #12, #10-20 or #1,5,9")
    first = int(found[1])
    last = int(found[2]) if found[2] else first
    if last < first:
        raise ConfigError(f"filter: {text} ends before it begins")
    return first, last


def _bound(name: str, compare: str, number: str) -> Bound:
    value = float(number[:-1]) / 100 if number.endswith("%") else float(number)
    return Bound(QUANTITIES[name.lower()], compare, value)


def _between(found: re.Match[str]) -> list[Bound]:
    low, high = _bound(found[1], ">=", found[2]), _bound(found[1], "<=", found[3])
    if high.value < low.value:
        raise ConfigError(f"filter: {found[0]} ends before it begins")
    return [low, high]


def _classes(text: str, classes: Sequence[str]) -> tuple[int, ...]:
    names = [name for name in text.split(",") if name not in ("", "*")]
    return tuple(sorted({_class(name, classes) for name in names}))


def _class(name: str, classes: Sequence[str]) -> int:
    number = name.removeprefix("@")
    if number != name and number.isdecimal() and int(number) < len(classes):
        return int(number)
    wanted = _key(name)
    keys = [_key(known) for known in classes]
    fits = (
        [i for i, known in enumerate(classes) if known == name]
        or [i for i, key in enumerate(keys) if key == wanted]
        or [i for i, key in enumerate(keys) if key.startswith(wanted)]
    )
    if len(fits) == 1:
        return fits[0]
    if not fits:
        shown = ", ".join(map(_typed, classes[:12])) + (", …" if len(classes) > 12 else "")
        raise ConfigError(f"filter: nothing known as {name!r}; classes: {shown}")
    some = " or ".join(_typed(classes[i]) for i in fits[:4]) + (" or …" if len(fits) > 4 else "")
    more = "it exactly so" if keys[fits[0]] == wanted else "more of it"
    raise ConfigError(f"filter: {name!r} is {some}: write {more}")


def _names(word: str, classes: Sequence[str]) -> bool:
    """Whether a class begins with this word."""
    return any(_key(known).startswith(_key(word)) for known in classes)


def _key(name: str) -> str:
    """A class name as it can be typed in a filter: one word without the filter's own signs."""
    return re.sub(r"[\s,>#→]", "_", name).casefold()


def _typed(name: str) -> str:
    """A class name as a message shows it, and as a filter takes it: in quotes where it must be."""
    return f'"{name}"' if re.search(r"[\s,>#→]", name) else name


def _listed(named: tuple[int, ...], classes: Sequence[str]) -> str:
    """The classes as the filter names them: by number where the name would not be read back."""
    keys = [_key(known) for known in classes]
    return ",".join(
        f"@{i}" if keys.count(keys[i]) > 1 or _is_special(keys[i]) else keys[i] for i in named
    )


def _is_special(key: str) -> bool:
    known = key in QUANTITIES or key.removeprefix("!") in FLAGS or key in ("", "*")
    return known or key.startswith(("@", '"', "'")) or not key.isprintable()

"""Images with what two models take them for."""

from __future__ import annotations

from dataclasses import dataclass

from rich.segment import Segment
from rich.style import Style

from trainer.analysis import mistake_words
from trainer.analysis.mistakes import Indices
from tui.formatting import clean
from tui.images import difference
from tui.images.difference import Difference
from tui.images.evaluations import Pictures
from tui.widgets.mistake_grid import MistakeGrid
from tui.widgets.tile import TILE, Line, Look, cut, fit, under_cursor

TICK = 10
"""Cells of a right prediction: the class is written above it."""


@dataclass(frozen=True)
class Said:
    """A model's word on an image."""

    number: int
    predicted: str
    p: str
    right: bool


class PairGrid(MistakeGrid):
    """As the grid of one model's mistakes, with both predictions at each image."""

    def __init__(self) -> None:
        super().__init__()
        self._difference = Difference()

    def show_pair(self, shown: Difference, chosen: Indices, pictures: Pictures | None) -> None:
        """Show these images of a comparison, in this order."""
        self._difference = shown
        self.fill(shown.sides[1], chosen, pictures)

    def _said(self, index: int) -> list[Said]:
        said = []
        for number, one in enumerate(self._difference.sides, 1):
            if one is None:
                continue
            images = one.images
            predicted = int(images.predicted[index])
            said.append(
                Said(
                    number=number,
                    predicted=clean(one.classes[predicted]),
                    p=mistake_words.probability(
                        float(images.confidence[index]), exact=images.exact
                    ),
                    right=bool(predicted == images.actual[index]),
                )
            )
        return said

    def _number(self, said: Said, look: Look) -> Style:
        colours = self.app.theme_variables
        return look.plain + Style(color=difference.side_colour(said.number, colours), bold=True)

    def _captions(self, index: int, look: Look, here: bool) -> list[Line]:
        """Lines at an image: two below a large one, eight beside a small one."""
        actual = self._words(index).actual
        number = f" #{index}"
        if self.shown_density == "large":
            lines: list[Line] = [
                [
                    Segment(fit(actual, TILE - len(number)), look.actual),
                    Segment(number, look.dim),
                ],
                [],
            ]
            both = self._said(index)
            tick = TICK if len({said.right for said in both}) > 1 else TILE // 2
            for said in both:
                lines[1] += self._word(said, tick if said.right else TILE - tick, look)
        else:
            half = TILE // 2
            lines = [
                [Segment(fit(number, half), look.dim)],
                [Segment(" " + fit(actual, half - 1), look.actual)],
                [Segment(" " * half, look.plain)],
            ]
            for said in self._said(index):
                first, *rest = self._word(said, half, look)
                lines.append([Segment(" ", look.plain), first, *_narrower(rest)])
            while len(lines) < TILE // 4:
                lines.append([Segment(" " * half, look.plain)])
        return [under_cursor(line, look) for line in lines] if here else lines

    def _word(self, said: Said, width: int, look: Look) -> Line:
        """``1 dog 0.97`` in so many cells; ``1 ✓ 0.97`` where it is right."""
        name = "✓" if said.right else cut(said.predicted, width - 4 - len(said.p))
        style = look.actual if said.right else look.predicted
        shown = f"{name} {said.p}"
        return [
            Segment(f"{said.number} ", self._number(said, look)),
            Segment(fit(shown, width - 3), style),
            Segment(" ", look.plain),
        ]

    def _tile(self, at: int, look: Look) -> list[Line]:
        index = int(self._chosen[at])
        texts = self._captions(index, look, at == self.cursor)
        if self.shown_density == "large":
            return [*self._picture(index, 1), *texts]
        picture = self._picture(index, 0.5)
        return [[*left, *right] for left, right in zip(picture, texts, strict=True)]

    def _heading(self, look: Look) -> Line:
        room = self._pair_width
        names = f" {'index':<7}{'actual':<{room}}  {'first':<{room + 8}} {'second':<{room + 8}}"
        return [Segment(names, look.dim)]

    @property
    def _pair_width(self) -> int:
        return max(8, min(20, (self.size.width - 28) // 3))

    def _list_line(self, at: int, look: Look) -> Line:
        index = int(self._chosen[at])
        room = self._pair_width
        line = [
            Segment(f" #{index:<6}", look.dim),
            Segment(fit(self._words(index).actual, room) + "  ", look.actual),
        ]
        for said in self._said(index):
            line += self._word(said, room + 9, look)
        return under_cursor(line, look) if at == self.cursor else line


def _narrower(parts: Line) -> Line:
    """Without the blank at the end: a line beside a small image begins with one."""
    return parts[:-1]

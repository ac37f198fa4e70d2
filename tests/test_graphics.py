"""Graphics of the terminal: taken where it answers, and a line where it does not."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from textual.app import App, ComposeResult
from textual.widgets import Static

from tests.terminal import Terminal
from tui.images import overlay
from tui.terminal.graphics import find
from tui.terminal.settings import TerminalSettings
from tui.widgets.graphics_view import SCALE, GraphicsView

pytest.importorskip("textual_image", reason="needs textual-image (the extra graphics)")

LOOK = """
import os
from tui.terminal.graphics import find
from tui.terminal.settings import TerminalSettings
kind, line = find({}, TerminalSettings())
print("found", kind.__module__ if kind else line, flush=True)
"""


@pytest.mark.parametrize(
    ("environment", "terminal", "words"),
    [
        ({"TMUX": "/tmp/tmux-0/default,1,0"}, TerminalSettings(), "inside tmux"),
        ({"STY": "1.pts"}, TerminalSettings(), "inside tmux and screen"),
        ({}, TerminalSettings(ascii=True), "--ascii"),
        ({}, TerminalSettings(low_bandwidth=True), "--low-bandwidth"),
    ],
)
def test_where_they_would_break_nothing_is_asked(
    environment: dict[str, str], terminal: TerminalSettings, words: str
) -> None:
    kind, line = find(environment, terminal)
    assert kind is None
    assert words in line


def test_without_the_library_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual_image", None)
    kind, line = find({}, TerminalSettings())
    assert kind is None
    assert "cifar-tui[graphics]" in line


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("\x1b[?62;4;22c", "found textual_image.widget.sixel"),
        ("\x1b[?62;22c", "answers for neither"),
    ],
)
def test_a_terminal_is_asked(answer: str, words: str) -> None:
    terminal = Terminal([sys.executable, "-c", LOOK], columns=120, lines=10)
    try:
        answered = 0

        def done() -> bool:
            nonlocal answered
            asked = bytes(terminal.raw).count(b"\x1b[c")
            if asked > answered:
                answered = asked
                terminal.press(answer)
            return words in terminal.text()

        terminal.wait(words, done, 120)
    finally:
        terminal.kill()


class Drawn(Static):
    """Stands for the terminal's image."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Any] = []

    @property
    def image(self) -> Any:
        return self.shown[-1]

    @image.setter
    def image(self, value: Any) -> None:
        self.shown.append(value)


async def test_the_picture_is_that_of_the_half_blocks_enlarged() -> None:
    drawn = Drawn()

    class One(App[None]):
        def compose(self) -> ComposeResult:
            yield GraphicsView(lambda: drawn)

    picture = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    app = One()
    async with app.run_test():
        view = app.query_one(GraphicsView)
        view.show_picture(picture)
        view.show_picture(picture.copy())
        assert len(drawn.shown) == 1
        shown = np.asarray(drawn.image)
        assert shown.shape == (32 * SCALE, 32 * SCALE, 3)
        np.testing.assert_array_equal(shown[::SCALE, ::SCALE], picture.transpose(1, 2, 0))
        box = ((8, 8, 16, 16), overlay.THEORY)
        view.show_picture(picture, b"", (box,))
        assert len(drawn.shown) == 2
        assert (np.asarray(drawn.image) != shown).any()
        view.show_picture(None)
        assert drawn.image is None

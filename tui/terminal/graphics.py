"""Kitty's and Sixel graphics, where the terminal answers for them: only with ``--graphics``.

Half blocks need no answer, work everywhere, and are true pixels of a 32x32 image; that is why they
are what is drawn unless asked otherwise. To ask takes a tenth of a second, before the app starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tui.terminal.settings import TerminalSettings

Kind = Callable[[], Any]
"""Makes an empty widget of the terminal's graphics; its ``image`` takes a picture of Pillow's."""


def find(environment: Mapping[str, str], terminal: TerminalSettings) -> tuple[Kind | None, str]:
    """The terminal's graphics, or ``None`` and a line that says why there are none.

    Writes to the terminal and reads its answers: to be called before the app has it.
    """
    if environment.get("TMUX") or environment.get("STY"):
        return None, "no graphics inside tmux and screen: images are half blocks"
    if terminal.ascii or terminal.low_bandwidth:
        return None, "no graphics with --ascii and --low-bandwidth"
    try:
        from textual_image import renderable
        from textual_image.widget import Image
    except ImportError:
        return None, "--graphics needs textual-image: pip install 'cifar-tui[graphics]'"
    if renderable.Image not in (renderable.SixelImage, renderable.TGPImage):
        return None, "the terminal answers for neither Kitty's nor Sixel graphics: half blocks"
    return Image, ""

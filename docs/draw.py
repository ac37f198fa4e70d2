"""The pictures of the README, drawn from real runs.

    pip install resvg-py
    python docs/draw.py RUNS --curves ID --images ID --other ID [--data FOLDER] [--human FILE]
        [--review FILE] [--only NAME ...]

RUNS is a runs directory. ``--curves`` is the run of the dashboard and of the layers, ``--images``
one with predictions and a checkpoint, ``--other`` another one on the same test images. The font is
DejaVu Sans Mono; ``--fonts`` names its folder.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ |= {
    "TERM": "xterm-256color",
    "COLORTERM": "truecolor",
}  # Textual reads them when imported

import resvg_py
from textual.pilot import Pilot

from tui.app import CifarApp

SIZE = (160, 50)
CELL = 12.2
"""Width of a character in Textual's SVG: each is drawn for itself, so that no font shifts it."""
FONT = "DejaVu Sans Mono"
PATIENCE = 300.0
"""Seconds in which a screen must show what its picture is for: it may compute features first."""
PICTURES: dict[str, tuple[str, str, str]] = {
    "runs": ("curves", "1", "parameters"),
    "dashboard": ("curves", "2", "accuracy"),
    "layers": ("curves", "3", "jump"),
    "compare": ("curves", "5", "accuracy"),
    "mistakes": ("images", "4", "predicted class"),
    "image": ("images", "4 enter f", "95 %.*by the cosine"),
    "fault": ("images", "4 w", "Whose fault"),
    "difference": ("images", "5 d", "McNemar"),
}
"""Of which run, the keys that lead there, and what is seen (a regular expression)."""


async def picture(options: argparse.Namespace, name: str) -> str:
    """The SVG of a screen.

    Raises:
        SystemExit: it does not show what it is for.
    """
    whose, keys, wanted = PICTURES[name]
    run = getattr(options, whose)
    marked = [run, options.other] if name == "difference" else options.marked
    app = CifarApp(options.runs, data=options.data, human=options.human, review=options.review)
    async with app.run_test(size=SIZE) as pilot:
        await _until(pilot, name, lambda: not app.store.loading)
        app.store.clear_marks()
        for each in marked:
            app.store.toggle_mark(each)
        app.store.selected = run
        for key in keys.split():
            await pilot.press(key)
            await pilot.pause(1.5)
        await _until(
            pilot, name, lambda: re.search(wanted, _text(app.export_screenshot()), re.S) is not None
        )
        await pilot.pause(2)
        return app.export_screenshot(title="cifar-tui")


async def _until(pilot: Pilot[None], name: str, met: Callable[[], bool]) -> None:
    last = time.monotonic() + PATIENCE
    while not met():
        if time.monotonic() > last:
            raise SystemExit(f"{name}: not seen after {PATIENCE:.0f} s")
        await pilot.pause(0.2)


def _text(svg: str) -> str:
    """What an SVG of Textual's says."""
    return html.unescape(" ".join(re.findall(r">([^<]+)</text>", svg))).replace("\xa0", " ")


def png(svg: str, fonts: str) -> bytes:
    """An SVG of Textual's as PNG, in a font that is on this machine."""
    svg = re.sub(r"@font-face \{.*?\n    \}", "", svg, flags=re.S)
    svg = svg.replace("Fira Code, monospace", FONT).replace(
        "font-family: arial", f"font-family: {FONT}"
    )
    svg = re.sub(r"<text([^>]*)>([^<]*)</text>", _characters, svg)
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, font_dirs=[fonts], monospace_family=FONT))


def _characters(match: re.Match[str]) -> str:
    attributes, text = match.group(1), html.unescape(match.group(2))
    if "textLength" not in attributes:
        return match.group()
    found = re.search(r' x="([\d.]+)"', attributes)
    left = float(found.group(1)) if found else 0.0
    attributes = re.sub(r' (x|textLength)="[\d.]+"', "", attributes)
    return "".join(
        f'<text{attributes} x="{left + CELL * place:.1f}">{html.escape(character)}</text>'
        for place, character in enumerate(text)
        if character not in " \xa0"
    )


def main() -> None:
    """Draw the pictures into this folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    for whose in ("curves", "images", "other"):
        parser.add_argument(f"--{whose}", required=True, metavar="ID")
    parser.add_argument("--marked", nargs="*", default=[], metavar="ID", help="on shared graphs")
    parser.add_argument("--data")
    parser.add_argument("--human")
    parser.add_argument("--review")
    parser.add_argument("--fonts", default="/usr/share/fonts/truetype/dejavu")
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=list(PICTURES))
    options = parser.parse_args()
    for name in options.only:
        svg = asyncio.run(picture(options, name))
        Path(__file__).with_name(f"{name}.png").write_bytes(png(svg, options.fonts))
        print(name)


if __name__ == "__main__":
    main()

"""Calling the user through the terminal: its bell, and the notification of OSC 9. Torch-free."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from trainer import foreign

BELL = "\a"
LONGEST = 160
WITHOUT = ("", "dumb", "unknown", "linux", "cons25")
"""Terminals, besides real old ones, that might show what they do not know."""
ANSWER_SECONDS = 1.0


def sequence(
    texts: Sequence[str],
    *,
    bell: bool = True,
    notify: bool = True,
    environ: Mapping[str, str] | None = None,
) -> str:
    """What to write to the terminal to call the user; asks tmux, which may take a moment.

    Args:
        texts: lines for the notification, foreign text included.
        bell: ring, once.
        notify: one notification a text, where the terminal takes them.
        environ: this process's by default.
    """
    environ = os.environ if environ is None else environ
    written = BELL if bell and texts else ""
    wrap = _wrapping(environ) if notify and texts else None
    if wrap is not None:
        start, end = wrap
        for text in texts:
            line = foreign.shortened(foreign.one_line(text[: LONGEST * 4]), LONGEST)
            # a text of ConEmu's own commands begins with a digit and a semicolon: ours cannot
            escaped = f"\x1b]9;cifar-tui: {line}\a"
            if start:
                escaped = escaped.replace("\x1b", "\x1b\x1b")
            written += f"{start}{escaped}{end}"
    return written


def _wrapping(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """What to put around a sequence for the outer terminal; ``None`` where it cannot get there."""
    term = environ.get("TERM", "")
    if term in WITHOUT or term.startswith("vt"):
        return None
    if environ.get("TMUX"):
        return ("\x1bPtmux;", "\x1b\\") if _tmux_passes(environ) else None
    # screen, or a tmux at the other end of the connection that cannot be asked
    return None if term.startswith(("screen", "tmux")) else ("", "")


def _tmux_passes(environ: Mapping[str, str]) -> bool:
    """Whether tmux hands sequences of this pane through; before 3.3 it always does."""
    try:
        asked = subprocess.run(
            ("tmux", "show-options", "-Apv", "allow-passthrough"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            env=dict(environ),
        )
    except (OSError, subprocess.SubprocessError):
        return False
    if asked.returncode:
        return "invalid option" in asked.stderr or "unknown option" in asked.stderr
    return asked.stdout.strip() in ("on", "all")

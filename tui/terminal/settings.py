"""What kind of terminal and of link the app draws on, from the environment and the options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

ASCII_TERMINALS = ("linux", "vt100", "vt102", "vt220", "ansi", "cons25")
"""Their fonts have no Braille and few of the boxes."""
LOW_RATE = 960.0
"""Bytes a second of 9,600 baud: eight bits, a start and a stop bit."""


class TerminalSettings(msgspec.Struct, frozen=True):
    """How much may be drawn, and of which characters."""

    ascii: bool = False
    """Only ASCII is sent."""
    remote: bool = False
    """Reached through SSH: charts take their time."""
    low_bandwidth: bool = False
    """A link of some 9,600 baud."""
    few_colours: bool = False
    """Sixteen colours or none: no background and no curve is told by its colour."""
    erases: bool = True
    """Erased cells have the background colour that is set, as in nearly all terminals."""

    @property
    def rate(self) -> float | None:
        """Bytes a second that the link is taken to carry; ``None``: more than is ever sent."""
        return LOW_RATE if self.low_bandwidth else None

    @property
    def asks(self) -> bool:
        """Whether the terminal is asked how far it is; one on the same machine keeps up anyway."""
        return self.remote or self.low_bandwidth

    @property
    def escape(self) -> float:
        """Seconds without a byte after which an escape is the key and begins no sequence.

        A terminal writes a sequence at once, and SSH sends it in one packet; a link of 9,600 baud
        takes a millisecond for each byte.
        """
        return 0.1 if self.low_bandwidth else 0.05 if self.remote else 0.025

    @property
    def polls(self) -> float:
        """How many times as long as usual it is between two looks at the logs."""
        return 4.0 if self.low_bandwidth else 1.0

    @property
    def charts(self) -> float:
        """The same between two drawings of a chart that only got new points."""
        return 15.0 if self.low_bandwidth else 3.0 if self.remote else 1.0

    @property
    def figures(self) -> float:
        """The same between two readings of the noisy figures of a run."""
        return 8.0 if self.low_bandwidth else 1.0

    @property
    def device(self) -> float:
        """The same between two readings of the device."""
        return 8.0 if self.low_bandwidth else 2.5 if self.remote else 1.0


def detect(
    environment: Mapping[str, str],
    *,
    ascii: bool = False,
    low_bandwidth: bool = False,
    full_bandwidth: bool = False,
) -> TerminalSettings:
    """What the environment says; an option wins over it."""
    term = environment.get("TERM", "")
    screen = environment.get("STY") or (term.startswith("screen") and not environment.get("TMUX"))
    # as Rich reads them, who writes the colours
    many = environment.get("COLORTERM", "").strip().lower() in ("truecolor", "24bit")
    many = many or term.strip().lower().rpartition("-")[2] in ("256color", "kitty")
    ssh = bool(environment.get("SSH_CONNECTION") or environment.get("SSH_TTY"))
    return TerminalSettings(
        ascii=ascii or term in ASCII_TERMINALS or not speaks_utf8(environment),
        remote=ssh and not full_bandwidth,
        low_bandwidth=low_bandwidth and not full_bandwidth,
        few_colours=not many,
        erases=not screen and not term.startswith("vt"),
    )


def speaks_utf8(environment: Mapping[str, str]) -> bool:
    """Whether the locale's characters are UTF-8; also where nothing is said at all.

    Python itself sets ``LC_CTYPE`` to C.UTF-8 where the locale is C (PEP 538): then what was there
    before counts.
    """
    names = ["LC_ALL", "LC_CTYPE", "LANG"]
    if environment.get("LC_CTYPE") == "C.UTF-8" and not _inherited("LC_CTYPE"):
        names.remove("LC_CTYPE")
    said = next((environment[name] for name in names if environment.get(name)), "")
    language, _, codeset = said.partition(".")
    if codeset or "utf" in language.lower():
        return "utf" in said.lower()
    return language not in ("C", "POSIX")


def _inherited(name: str) -> bool:
    """Whether a variable came from the process that started this one; yes where unknown."""
    try:
        block = Path("/proc/self/environ").read_bytes()
    except OSError:
        return True
    begin = name.encode() + b"="
    return any(entry.startswith(begin) and entry != begin for entry in block.split(b"\0"))

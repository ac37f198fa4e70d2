"""What the user marked, kept beside the runs in ``.view.json``. Losing it loses no result."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

FILE = ".view.json"


class Kept(msgspec.Struct):
    """The file."""

    marked: list[str] = []
    slots: dict[str, int] = {}
    """Run and the number of its colour, also of runs that are not marked now."""


class View:
    """Marks and colours of a runs directory. A damaged file is an empty one."""

    def __init__(self, runs_dir: Path) -> None:
        self._path = runs_dir / FILE
        self._kept = Kept()
        with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._kept = msgspec.json.decode(self._path.read_bytes(), type=Kept)
        self._kept.marked = list(dict.fromkeys(self._kept.marked))
        self._kept.slots = {run: slot for run, slot in self._kept.slots.items() if slot >= 0}
        for run in self._kept.marked:
            if run not in self._kept.slots:
                self._kept.slots[run] = self._free_slot(run)

    @property
    def marked(self) -> tuple[str, ...]:
        """Marked runs in the order they were marked."""
        return tuple(self._kept.marked)

    def slot(self, run: str) -> int | None:
        """The number of a marked run's colour."""
        return self._kept.slots[run] if run in self._kept.marked else None

    def toggle(self, run: str) -> bool:
        """Mark or unmark; whether it is marked now."""
        if run in self._kept.marked:
            self._kept.marked.remove(run)
        else:
            self._kept.slots[run] = self._free_slot(run)
            self._kept.marked.append(run)
        self._save()
        return run in self._kept.marked

    def clear(self) -> None:
        """Unmark all; each keeps its colour for the next time."""
        self._kept.marked.clear()
        self._save()

    def forget(self, run: str) -> None:
        """The run is gone."""
        if run in self._kept.slots:
            del self._kept.slots[run]
            if run in self._kept.marked:
                self._kept.marked.remove(run)
            self._save()

    def _free_slot(self, run: str) -> int:
        """The run's own colour unless a marked one shows it now; else one nobody ever had."""
        shown = {self._kept.slots.get(other) for other in self._kept.marked if other != run}
        own = self._kept.slots.get(run)
        if own is not None and own not in shown:
            return own
        taken = set(self._kept.slots.values())
        first = next(slot for slot in range(len(taken) + 1) if slot not in taken)
        if first < 8:
            return first
        return next(slot for slot in range(len(shown) + 1) if slot not in shown)

    def _save(self) -> None:
        partial = self._path.with_suffix(f".{os.getpid()}.partial")
        # a read-only runs directory is fine: the marks live as long as the app
        with suppress(OSError):
            try:
                partial.write_bytes(msgspec.json.encode(self._kept))
                partial.replace(self._path)
            finally:
                partial.unlink(missing_ok=True)

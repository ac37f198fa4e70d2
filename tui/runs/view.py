"""What the user marked, kept beside the runs in ``.view.json``. Losing it loses no result."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from trainer.files.regular_file import open_regular
from trainer.files.whole_file import whole_file

FILE = ".view.json"
LONGEST = 4 << 20
"""Bytes: the marks of some 100,000 runs."""


class Kept(msgspec.Struct):
    """The file."""

    marked: list[str] = []
    slots: dict[str, int] = {}
    """Run and the number of its colour, also of runs that are not marked now."""


class View:
    """Marks and colours of a runs directory. A damaged file is an empty one.

    Each change is one of what the file says by then: another app may show the same runs.
    """

    def __init__(self, runs_dir: Path) -> None:
        # the directory itself may be a link of the user's own
        self._path = Path(os.path.realpath(runs_dir)) / FILE
        self._kept = Kept()
        self._known = b""
        """What the file said when it was read or written last."""
        self._read()

    def _read(self) -> None:
        """Take over what another app has written, if anything."""
        with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            with open_regular(self._path) as file:
                data = file.read(LONGEST)
            if data == self._known:
                return
            self._kept = msgspec.json.decode(data, type=Kept)
            self._known = data
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
        mark = run not in self._kept.marked  # as it was shown
        self._read()
        if not mark:
            self._unmark(run)
        elif run not in self._kept.marked:
            self._kept.slots[run] = self._free_slot(run)
            self._kept.marked.append(run)
        self._save()
        return mark

    def clear(self) -> None:
        """Unmark all that are shown as marked; each keeps its colour for the next time."""
        shown = self.marked
        self._read()
        for run in shown:
            self._unmark(run)
        self._save()

    def forget(self, run: str) -> None:
        """The run is gone."""
        self._read()
        if run in self._kept.slots:
            del self._kept.slots[run]
            self._unmark(run)
            self._save()

    def _unmark(self, run: str) -> None:
        if run in self._kept.marked:
            self._kept.marked.remove(run)

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
        data = msgspec.json.encode(self._kept)
        # a read-only runs directory is fine: the marks live as long as the app
        with suppress(OSError):
            if self._path.parent.is_dir():  # one that was removed is not made again
                with whole_file(self._path, synced=False) as file:
                    file.write(data)
                self._known = data

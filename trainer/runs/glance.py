"""What a run came to, from the two ends of its log: for lists of a thousand runs. Torch-free.

The events of the first and the last kilobytes go through the same fold as the whole log, so a
glance knows the settings, the last epoch and the end. What lies between is not there: curves, all
other epochs, notices. Where the ends do not tell enough there is no glance.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from trainer import events
from trainer.events import Envelope
from trainer.files.regular_file import open_regular
from trainer.runs.runstate import MEANWHILE, RunState

END_BYTES = 48 * 1024
WHOLE_BYTES = 4 * END_BYTES
"""Logs that are not longer are folded whole."""
TAIL_EVENTS = 12
"""Events before the last one that a glance looks at, what goes on within a phase not counted: an
epoch's end with its evaluations, and the checkpoint of a stop in the next one."""
_KINDS = "|".join(kind.__name__ for kind in MEANWHILE).encode()
_MEANWHILE = re.compile(rb'"kind":"(?:%s)"' % _KINDS)
PAUSE_SECONDS = 0.1
"""Between a run's seconds and its log's there were pauses, which the ends do not tell of."""


@dataclass(frozen=True)
class Glance:
    """The state, and which file it was read from."""

    state: RunState
    file: tuple[int, int]
    """Inode and size."""


def glance(log: Path) -> Glance | None:
    """Look at a log; ``None`` where only the whole log tells.

    That is: short logs, runs that have not ended, were resumed or paused, damage at the ends, a net
    that takes the whole head, a last epoch that ended before the tail.
    """
    try:
        with open_regular(log) as file:
            stat = os.fstat(file.fileno())
            if stat.st_size <= WHOLE_BYTES:
                return None
            head = file.read(END_BYTES)
            file.seek(stat.st_size - END_BYTES)
            tail = file.read(END_BYTES)
    except OSError:
        return None
    last = _ending(tail)
    if last is None:
        return None
    state = RunState()
    try:
        _fold_head(state, head)
        _fold_tail(state, tail, last)
    except msgspec.DecodeError:
        return None
    ended = state.ended
    if state.started is None or state.described is None or ended is None:
        return None
    if not state.epochs or state.epochs[-1].lr is None:
        return None
    if abs(state.elapsed - ended.seconds) > PAUSE_SECONDS:
        return None
    state.take_best(ended)
    return Glance(state, (stat.st_ino, stat.st_size))


def _ending(tail: bytes) -> Envelope | None:
    """The last line, when it is the end of the only attempt."""
    line = tail[tail.rfind(b"\n", 0, -1) + 1 :]
    try:
        last = events.decode(line)
    except msgspec.DecodeError:
        return None
    only = last.attempt <= 1 and type(last.event) is events.RunEnded
    return last if only and line.endswith(b"\n") else None


def _fold_head(state: RunState, head: bytes) -> None:
    """Everything until training begins, but for the layers of the net."""
    at = 0
    while (end := head.find(b"\n", at)) >= 0:  # only what is looked at is copied
        envelope, at = events.decode(head[at:end]), end + 1
        event = envelope.event
        if type(event) is events.EpochStarted:
            return
        if type(event) is events.ModelDescribed:
            brief = msgspec.structs.replace(event, layers=())
            envelope = msgspec.structs.replace(envelope, event=brief)
        state.apply(envelope)


def _fold_tail(state: RunState, tail: bytes, last: Envelope) -> None:
    """Everything but what goes on within a phase; evaluations only of the last epoch."""
    found, end = [last], tail.rfind(b"\n", 0, -1)
    while len(found) <= TAIL_EVENTS and (before := tail.rfind(b"\n", 0, end)) >= 0:
        if _MEANWHILE.search(tail, before, end) is None:
            found.append(events.decode(tail[before + 1 : end]))
        end = before
    found.reverse()
    state.seq = found[0].seq - 1
    state.apply_all(found)
    state.missing = 0

"""The process that looks into nets for the app: ``python -m trainer.inspection``.

A process of its own, started by the worker at the first question: the training's random numbers,
interpreter and memory stay as they were. It is nice, and as nice as can be on one thread from when
a training of the worker goes on; it ends by itself when it was not asked for a while, or when its
stdin ends.

Reads ``protocol.Asked`` as JSON lines and writes ``protocol.State`` of the state ``inspected``.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from model.user_file import reason
from trainer.errors import UserError
from trainer.processes import keep_output
from trainer.protocol import Asked, Inspect, Inspected, Near, State
from trainer.runs.rundir import RunDir

if TYPE_CHECKING:
    from trainer.inspection.answers import Inspection

IDLE_SECONDS = 300.0
PROGRESS_IMAGES = 1000
NICE = 10
"""Added to the worker's; what trains elsewhere on the machine comes first."""


class Another(Exception):  # noqa: N818  # no error: something else is wanted
    """Raised in the middle of a computation when there is a new question."""


class Inspector:
    """Answers one question at a time; the newest one counts."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._asked: queue.SimpleQueue[Inspect | None] = queue.SimpleQueue()
        self._idle_seconds = idle_seconds
        self._again: list[Inspect | None] = []
        """A question that was taken, but is answered only after what it ends."""
        self._open: Inspection | None = None
        self._opened_for: tuple[object, ...] = ()
        self.busy = False

    def read(self, descriptor: int) -> None:
        """Take questions from a pipe until it ends."""
        rest = b""
        while data := os.read(descriptor, 65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self.hear(line)
        self._asked.put(None)

    def hear(self, line: bytes) -> None:
        """Take one line."""
        with suppress(msgspec.DecodeError):
            asked = msgspec.json.decode(line, type=Asked)
            if asked.busy is not None:
                self.busy = asked.busy
            if asked.inspect is not None:
                self._asked.put(asked.inspect)

    def serve(self) -> None:
        """Answer until nobody asks any more."""
        while True:
            try:
                asked = self._newest()
            except queue.Empty:
                return
            if asked is None:
                return
            if asked.run:
                self._answer(asked)

    def _newest(self) -> Inspect | None:
        """Wait for a question; of several the newest counts. ``None``: there will be none."""
        if self._again:
            return self._again.pop()
        asked = self._asked.get(timeout=self._idle_seconds)
        while asked is not None and not self._asked.empty():
            asked = self._asked.get()
        return asked

    def _answer(self, asked: Inspect) -> None:
        try:
            with suppress(Another):
                self._look(asked)
        except UserError as error:
            from trainer.inspection.answers import NotTrusted

            trust = isinstance(error, NotTrusted)
            tell(Inspected(ask=asked.ask, error=str(error), needs_trust=trust))
        except (Exception, SystemExit) as error:  # a net may call exit()
            self._open = None
            tell(Inspected(ask=asked.ask, error=reason(error)))

    def _look(self, asked: Inspect) -> None:
        """All that is quick at once, then what needs the features of the training images."""
        found = self._opened(asked)
        answer = self._quick(found, asked)
        if not found.has_features:
            answer, asked = self._compute(found, answer, asked)
        near = tuple(
            Near(
                index=one.index,
                label=one.label,
                similarity=one.similarity,
                pixels=found.dataset.train.images[one.position].tobytes(),
            )
            for one in found.nearest(answer.index, asked.neighbours)
        )
        tell(msgspec.structs.replace(answer, neighbours=near))

    def _quick(self, found: Inspection, asked: Inspect) -> Inspected:
        self._take_threads()
        layer = found.check(asked.index, asked.layer if asked.layer in found.layers else "")
        probabilities = found.probabilities(asked.index)
        of_class = asked.of_class if asked.of_class >= 0 else int(probabilities.argmax())
        field = found.receptive_field(layer)
        cam = found.grad_cam(asked.index, layer, of_class)
        return Inspected(
            ask=asked.ask,
            index=asked.index,
            checkpoint=found.role,
            epoch=found.epoch,
            probabilities=tuple(probabilities.tolist()),
            layers=found.layers,
            layer=layer,
            of_class=of_class,
            cam=b"" if cam is None else _bytes(cam),
            field_size=field.size,
            field_box=field.box,
            effective=b"" if field.effective is None else _bytes(field.effective.map),
            effective_box=field.effective.box if field.effective is not None else None,
        )

    def _compute(
        self, found: Inspection, answer: Inspected, asked: Inspect
    ) -> tuple[Inspected, Inspect]:
        """Compute features; questions about the same net are answered meanwhile.

        Returns:
            The answer to the latest question, and the question.

        Raises:
            Another: something else is wanted, or nothing any more.
        """
        told = -PROGRESS_IMAGES

        def on_batch(done: int, total: int) -> None:
            nonlocal told, answer, asked
            if not self._asked.empty():
                newer = self._newest()
                if newer is None or self._key(newer) != self._opened_for:
                    self._again.append(newer)
                    raise Another
                answer, asked, told = self._quick(found, newer), newer, -PROGRESS_IMAGES
            if done - told >= PROGRESS_IMAGES:
                told = done
                tell(msgspec.structs.replace(answer, computing=(done, total)))
            self._take_threads()

        found.compute_features(on_batch)
        return answer, asked

    def _opened(self, asked: Inspect) -> Inspection:
        """The net of the question; loaded again when its checkpoint was written anew."""
        from trainer.inspection.answers import open_inspection

        run = RunDir(Path(asked.run))
        key = self._key(asked)
        if self._open is None or key != self._opened_for:
            self._open = None  # not two of them in memory
            self._open = open_inspection(
                run,
                asked.checkpoint,
                data=asked.data,
                data_dir=Path(asked.data_dir) if asked.data_dir else None,
                trusted=asked.trusted,
            )
            self._opened_for = key
        return self._open

    def _key(self, asked: Inspect) -> tuple[object, ...]:
        """What is open: which run, and its checkpoints as they were written."""
        return (asked.run, asked.checkpoint, asked.data, asked.trusted, *_written(asked.run))

    def _take_threads(self) -> None:
        import torch

        if self.busy:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, 19)
                if sys.platform == "linux":  # only what the training leaves of the processors
                    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        wanted = 1 if self.busy else max(1, os.cpu_count() or 1)
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)


def _written(folder: str) -> tuple[object, ...]:
    stamps: list[object] = []
    for role in ("best", "last"):
        with suppress(OSError):
            stat = RunDir(Path(folder)).checkpoint(role).stat()
            stamps.append((role, stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(stamps)


def _bytes(values: object) -> bytes:
    """A map of 0 to 1, [32, 32], as uint8."""
    import torch

    assert isinstance(values, torch.Tensor)
    return (values * 255).round().to(torch.uint8).numpy().tobytes()


_out = 1
"""Descriptor of the parent's pipe."""


def tell(answer: Inspected) -> None:
    """Write an answer to the parent."""
    line = msgspec.json.encode(State(state="inspected", inspected=answer)) + b"\n"
    while line:
        line = line[os.write(_out, line) :]


def main() -> int:
    """Serve until stdin ends or nobody asks."""
    global _out
    _out = keep_output()  # first: nothing else may write there
    with suppress(OSError):
        os.nice(NICE)
    inspector = Inspector()
    threading.Thread(target=inspector.read, args=(0,), daemon=True, name="questions").start()
    with suppress(BrokenPipeError):
        inspector.serve()
    return 0

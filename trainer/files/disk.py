"""Writing that may be slow, on a thread of its own. Torch-free.

A network file system can take seconds over a write or an fsync; training must not take part in the
wait. An ordinary disk is waited for, so that what was asked for is there when the call returns.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import msgspec

PATIENCE = 0.25
"""Seconds that a caller waits at most, and only when nothing else is being written."""

Job = Callable[[], None]


class _Task(msgspec.Struct):
    job: Job
    key: str
    done: threading.Event = msgspec.field(default_factory=threading.Event)
    error: BaseException | None = None


class Disk:
    """Does jobs in their order on one thread, which is started by the first and ended by ``close``.

    Callable from any thread. What a job raises is raised by the call that waited for it, else by
    the next call.
    """

    def __init__(self, name: str, *, patience: float | None = None) -> None:
        self._name = name
        self._patience = PATIENCE if patience is None else patience
        self._changed = threading.Condition()
        self._waiting: deque[_Task] = deque()
        self._busy = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._waiting)

    def do(self, job: Job, *, key: str = "", wait: bool = True) -> None:
        """Have a job done; a job with the same key that has not begun is replaced by it.

        Without ``wait`` an ordinary disk is not waited for, either.
        """
        task = _Task(job, key)
        with self._changed:
            idle = not (self._waiting or self._busy)
            if key:
                self._forget(key)
            self._waiting.append(task)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if wait and idle and task.done.wait(self._patience) and task.error is not None:
            self._error = None
            raise task.error
        self._raise()

    def close(self) -> None:
        """Wait until everything is done, however long that takes. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        self._closed = False
        self._raise()

    def _forget(self, key: str) -> None:
        for task in [t for t in self._waiting if t.key == key]:
            self._waiting.remove(task)
            task.done.set()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                task = self._waiting.popleft()
                self._busy = True
            try:
                task.job()
            except BaseException as error:
                task.error = self._error = error
            with self._changed:  # before its caller goes on, whose next job is waited for, too
                self._busy = False
            task.done.set()
            del task  # and all that its job holds

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

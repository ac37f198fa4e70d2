"""The worker's side of the inspector: starts it at the first question, passes answers on."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from trainer.processes import child_environment
from trainer.protocol import Asked, Inspect, Inspected, State

COMMAND = (sys.executable, "-P", "-m", "trainer.inspection")


class InspectorProcess:
    """Used by the thread that reads questions and by the one that trains."""

    def __init__(self, tell: Callable[[State], None], command: Sequence[str] = COMMAND) -> None:
        self._tell = tell
        self._command = tuple(command)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._open: Inspect | None = None
        """The question that is not fully answered yet."""
        self._busy = False

    def ask(self, asked: Inspect) -> None:
        """Pass a question on; the answer comes to ``tell``, also when there can be none."""
        with self._lock:
            if not asked.run and self._process is None:
                return  # nothing goes on that could end
            self._open = asked if asked.run else None
            self._send(asked)

    def question(self) -> Inspect | None:
        """What is not fully answered yet."""
        with self._lock:
            return self._open

    def busy(self, busy: bool) -> None:
        """Whether a training goes on now."""
        with self._lock:
            self._busy = busy
            if self._process is not None:
                self._write(Asked(busy=busy))

    def _send(self, asked: Inspect) -> None:
        if self._process is None or self._process.poll() is not None:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=child_environment(),
                )
            except OSError as error:
                self._open = None
                reason = f"the inspector cannot be started: {error.strerror}"
                self._tell(_failed(asked.ask, reason))
                return
            threading.Thread(
                target=self._listen, args=(self._process,), daemon=True, name="answers"
            ).start()
        # one that ends just now is noticed by the thread that listens to it
        self._write(Asked(inspect=asked, busy=self._busy))

    def _write(self, asked: Asked) -> None:
        process = self._process
        with suppress(OSError):
            if process is not None and process.stdin is not None and not process.stdin.closed:
                process.stdin.write(msgspec.json.encode(asked) + b"\n")
                process.stdin.flush()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(msgspec.DecodeError):
                state = msgspec.json.decode(line, type=State)
                answer = state.inspected
                if answer is not None:
                    self._tell(state)
                    self._close_question(answer)
        code = process.wait()
        process.stdout.close()
        with self._lock:
            with suppress(OSError):
                if process.stdin is not None:
                    process.stdin.close()
            if self._process is not process:
                return  # another one was started meanwhile, and has the question
            self._process = None
            asked, self._open = self._open, None
            if asked is None:
                return
            if code == 0:  # it went because nobody asked for a while, and just then somebody did
                self._open = asked
                self._send(asked)
                return
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        self._tell(_failed(asked.ask, f"the inspector ended ({how}): memory may be short"))

    def _close_question(self, answer: Inspected) -> None:
        done = bool(answer.error) or answer.neighbours is not None
        with self._lock:
            if done and self._open is not None and self._open.ask == answer.ask:
                self._open = None


def _failed(ask: int, reason: str) -> State:
    return State(state="inspected", inspected=Inspected(ask=ask, error=reason))

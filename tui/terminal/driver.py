"""The way to the terminal: counts bytes, sends ASCII alone where asked, and sees the terminal go.

Textual's own writer thread dies of an error, its queue then fills and blocks the app; its reader
spins on a terminal that has hung up. Both are met here: the app ends instead, and a run goes on.
The reader also looks only ten times a second whether a lone escape is the key; here it looks when
that is known.
"""

from __future__ import annotations

import io
import math
import os
import select
import sys
import termios
import threading
import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from textual import constants, events
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

from trainer.characters import TABLE
from tui.terminal.settings import TerminalSettings
from tui.terminal.thin import Thin
from tui.terminal.traffic import Traffic

if TYPE_CHECKING:
    from tui.terminal.difference import Difference

ANSWER_SECONDS = 2.0
"""How long leaving waits for the answer to the last question."""
SECOND_LOOK = 0.1
"""Seconds after the wait behind an escape that the parser is asked again: it may wait twice."""
LATE = 0.002
"""Seconds after its end that the wait behind an escape is looked at: never just before."""


class Ending(threading.Event):
    """An event that ``select`` sees: who waits for keys sleeps until one comes or the app ends."""

    def __init__(self) -> None:
        super().__init__()
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)

    def fileno(self) -> int:
        """What is readable while the event is set."""
        return self._reader

    def set(self) -> None:
        """Wake who selects, too."""
        before = self.is_set()
        super().set()  # first: who wakes looks at it
        if not before:
            os.write(self._writer, b"!")

    def clear(self) -> None:
        """Nobody is to wake any more."""
        super().clear()
        with suppress(BlockingIOError):
            os.read(self._reader, 64)

    def __del__(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


class Output:
    """What the writer thread takes for a file."""

    def __init__(self, file: IO[str], traffic: Traffic, settings: TerminalSettings) -> None:
        self._file = file
        self._traffic = traffic
        self._ascii = settings.ascii
        self._thin = Thin()
        self._difference: Difference | None = None
        if settings.low_bandwidth:
            from tui.terminal.difference import Difference  # not for the first paint without it

            self._difference = Difference(palette=True, erase=settings.erases)
        self._resized = False
        self.gone = False
        """Whether the terminal takes nothing any more."""

    def write(self, text: str) -> int:
        """Write, and count; on a terminal that is gone nothing happens."""
        if self._ascii:
            text = text.translate(TABLE)
        if self._difference is not None:
            lost, self._resized = self._resized, False
            self._difference.resize(*self._size(), lost=lost)
            self._difference.draw(text)  # sent by flush: many drawings may become one
        else:
            self._send(self._thin(text))
        return len(text)

    def resized(self) -> None:
        """The terminal has had another size, if only for a moment: what it shows is not known."""
        self._resized = True

    def flush(self) -> None:
        """Send what waits; Textual's writer calls it when there is nothing more to write."""
        if self._difference is not None and (text := self._difference.take()):
            self._send(text)
        self._try(self._file.flush)

    def _send(self, text: str) -> None:
        self._try(lambda: self._file.write(text))
        self._traffic.add(len(text) if text.isascii() else len(text.encode("utf-8", "replace")))

    def _try(self, action: Callable[[], object]) -> None:
        """Do something to the terminal, unless it is gone."""
        if self.gone:
            return
        self._traffic.writing = True
        try:
            action()
        except OSError:
            self.gone = True
        self._traffic.writing = False

    def _size(self) -> tuple[int, int]:
        try:
            return os.get_terminal_size(self._file.fileno())
        except (OSError, ValueError):
            return (80, 24)

    def fileno(self) -> int:
        """The file's descriptor."""
        return self._file.fileno()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._file.isatty()


class TerminalDriver(LinuxDriver):
    """Textual's driver with an ``Output``; made by ``driver_class``."""

    settings = TerminalSettings()
    traffic = Traffic()
    exit_event: Ending

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # not on standard error, as Textual does: that may be redirected
        file = sys.__stdout__
        assert isinstance(file, io.TextIOWrapper)
        file.reconfigure(errors="backslashreplace")
        self.output = Output(file, self.traffic, self.settings)
        self._file = self.output  # type: ignore[assignment]  # all of a file that is used
        self.exit_event = Ending()
        self._reader_ended = False
        self._typed_at = -math.inf

    def _run_input_thread(self) -> None:
        try:
            self.run_input_thread()
        except OSError:  # the terminal is gone: the app looks at that and ends
            self._reader_ended = True

    def run_input_thread(self) -> None:
        """Read keys and answers until the app ends or the terminal is gone."""
        if "ESCDELAY" not in os.environ:  # Textual takes that as it is
            constants.ESCAPE_DELAY = self.settings.escape  # type: ignore[misc]
        parser = XTermParser(self._debug)
        for text in self._typed():
            try:
                for message in parser.feed(text) if text else parser.tick():
                    self.process_message(message)
            except OSError:
                raise
            except Exception:  # a sequence it does not know must not be the end of all keys
                parser = XTermParser(self._debug)
        with suppress(Exception):  # a message that is half there is of no use now
            tuple(parser.feed(""))

    def _typed(self) -> Iterator[str]:
        """What has come; empty where nothing has for as long as an escape alone is waited for."""
        decode = getincrementaldecoder("utf-8")("replace").decode
        patience: float | None = None
        while True:
            ready = select.select([self.fileno, self.exit_event], [], [], patience)[0]
            if self.exit_event.is_set():
                return
            if self.fileno not in ready:
                patience = SECOND_LOOK if patience != SECOND_LOOK else None
                yield ""
                continue
            data = os.read(self.fileno, 4096)
            if not data:
                self._reader_ended = True
                return
            patience = constants.ESCAPE_DELAY + LATE
            yield decode(data)

    def process_message(self, message: Message) -> None:
        """Take the answer to ``Traffic.ask``; runs on the input's thread."""
        if isinstance(message, events.CursorPosition):
            self.traffic.answered()
        else:
            self._typed_at = time.monotonic()
            super().process_message(message)

    def _sigcont_application(self, *arguments: Any) -> None:
        """Go on after a stop; after one that came without a warning as well.

        Textual's would begin anew what had not ended: with a second reader of the keys, and with
        the terminal's modes of the app as those to go back to.
        """
        if self._auto_restart and not self._must_signal_resume and self._key_thread is not None:
            self._must_signal_resume = True
            self.suspend_application_mode()
        super()._sigcont_application(*arguments)

    def typed_ago(self) -> float:
        """Seconds since the last key, or movement of the mouse."""
        return time.monotonic() - self._typed_at

    def ask(self) -> None:
        """Have the terminal say when it has come so far."""
        if self.settings.asks and (question := self.traffic.ask()):
            self.write(question)

    def gone(self) -> bool:
        """Whether the terminal has hung up."""
        if self.output.gone or self._reader_ended:
            return True
        poll = select.poll()
        poll.register(self.fileno, 0)
        flags = select.POLLHUP | select.POLLERR | select.POLLNVAL
        return any(events & flags for _, events in poll.poll(0))

    def stop_application_mode(self) -> None:
        """Leave the terminal as it was; one that is gone is left alone."""
        end = time.monotonic() + ANSWER_SECONDS
        while self.traffic.waiting and not self.gone() and time.monotonic() < end:
            time.sleep(0.01)  # else the answer would be typed into the shell
        try:
            super().stop_application_mode()
        except (OSError, termios.error):
            self.output.gone = True


def driver_class(settings: TerminalSettings, traffic: Traffic) -> type[TerminalDriver]:
    """A driver for an app: Textual wants a class and makes the object itself."""
    return type("CifarDriver", (TerminalDriver,), {"settings": settings, "traffic": traffic})

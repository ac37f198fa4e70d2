"""What the programs of this folder share: their arguments, what they start, and how they end.

Each runs the code of the checkout that it lies in, its children too: not what is installed.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

from trainer.errors import ConfigError, UserError
from trainer.processes import child_environment

APP = (sys.executable, "-P", "-c", "from tui.__main__ import main; main()")
"""What the installed command does; ``-m`` would add the time of ``runpy`` to its first paint."""
TRAINER = (sys.executable, "-P", "-m", "trainer")


class NoFigureError(Exception):
    """What was to be measured did not happen, so there is no figure of it."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one line."""

    def __init__(self, doc: str) -> None:
        super().__init__(description=doc.splitlines()[0])

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def positive(text: str) -> int:
    """The type of an argument that counts something."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)


def positive_number(text: str) -> float:
    """The type of an argument that measures something."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number greater than 0, not {text!r}")
    return value


def file(path: str | Path, option: str) -> Path:
    """A file that an argument names.

    Raises:
        ConfigError: there is none.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{option} {path}: there is no such file")
    return Path(path)


def check_compiled(forward: object) -> None:
    """Go on only with a training's forward pass that is compiled if that was asked for.

    Raises:
        NoFigureError: it goes on uncompiled; with the reason.
    """
    problem = getattr(forward, "problem", "") or getattr(forward, "lacks", "")
    if problem:
        raise NoFigureError(f"nothing is compiled: {problem}")


class Trainer:
    """A run that is trained by the command line, and what it says when it fails."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self.process = process
        self._errors = errors

    def trains(self) -> bool:
        """Whether it goes on; False when it has ended as it should.

        Raises:
            NoFigureError: it has not, with what it said.
        """
        code = self.process.poll()
        if code:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip()
            raise NoFigureError(f"the training ended with {code}: {said}")
        return code is None

    def check(self) -> None:
        """Go on only beside a training.

        Raises:
            NoFigureError: it has ended.
        """
        if not self.trains():
            raise NoFigureError("the training ended too early: what was measured is not beside one")


@contextmanager
def training(runs: Path, preset: str, data: str, epochs: int) -> Iterator[Trainer]:
    """A run trained by the command line; stopped at the end if it goes on."""
    started = [*TRAINER, "train", preset, "--data", data, "--json"]
    started += ["--epochs", str(epochs), "--runs-dir", str(runs)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            yield Trainer(process, errors)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()


def run(main: Callable[[], None]) -> NoReturn:
    """Run a program to its exit status.

    2 is bad input, 1 that there is no figure (both with one line that says why; of a child that
    ended with 2 its own), 130 Ctrl-C. What it started and its folders are cleaned up after
    SIGTERM, too.
    """
    os.environ.update(child_environment())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main()
    except UserError as error:
        _end(2, str(error))
    except NoFigureError as error:
        _end(1, str(error))
    except subprocess.CalledProcessError as error:
        if error.returncode in (2, 130):
            sys.exit(error.returncode)
        _end(1, f"{' '.join(map(str, error.cmd))}: ended with {error.returncode}, see above")
    except OSError as error:
        if error.filename is None:
            raise  # not of a file that was named
        _end(2, f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _end(code: int, message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)

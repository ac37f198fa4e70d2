"""A process in which CUDA has failed goes on with its queue in a fresh image of itself. Torch-free.

After a CUDA error (an assertion on the device, an illegal access) every later call fails in the
process, and after a failed capture torch may still believe that it captures: the next runs would
fail, too, through no fault of theirs. The image that takes over has the process's number, session
and pipes, and the locks of the runs that wait, which are held all the time.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from trainer.processes import adopt_children, child_environment
from trainer.protocol import Inspect, Job

COMMAND = (sys.executable, "-P", "-m", "trainer.worker")
ENDING = "--end"


class Waiting(msgspec.Struct, frozen=True):
    """A run that waits to be trained."""

    job: Job
    lock: int
    """The descriptor that holds its lock."""


class Left(msgspec.Struct, frozen=True):
    """What a process leaves to its next image."""

    waiting: tuple[Waiting, ...] = ()
    rest: bytes = b""
    """The beginning of a line of stdin, whose end has not been read."""
    inspect: Inspect | None = None
    """A question that is not fully answered."""
    ending: bool = False
    """Whether the process was told to end while it was replaced."""


def replace_process(left: Left, out: int, ending: Callable[[], bool]) -> None:
    """Go on as a fresh worker, which takes over what is left. It returns by an error alone.

    Args:
        left: what the next image finds by ``taken_over``.
        out: the descriptor that becomes its standard output.
        ending: whether the process was told to end; asked last of all.

    Raises:
        OSError: this process has to go on.
    """
    with tempfile.TemporaryFile() as file:
        file.write(msgspec.json.encode(left))
        file.seek(0)
        os.dup2(out, 1)
        kept = {0, 1, 2, file.fileno(), *(waiting.lock for waiting in left.waiting)}
        for number in map(int, os.listdir("/dev/fd")):  # noqa: PTH208  # numbers
            with suppress(OSError):  # the folder's own
                # what a driver has open, too, would keep the device's memory
                os.set_inheritable(number, number in kept)
        environment = child_environment()
        arguments = [*COMMAND, "--queue", str(file.fileno())]
        if ending():
            arguments.append(ENDING)
        os.execve(sys.executable, arguments, environment)


def taken_over(arguments: Sequence[str]) -> Left:
    """What an earlier image has left, by the arguments of this one; nothing to the first one."""
    if len(arguments) < 2 or arguments[0] != "--queue":
        return Left()
    adopt_children()
    with open(int(arguments[1]), "rb") as file:  # noqa: PTH123  # a descriptor
        left = msgspec.json.decode(file.read(), type=Left)
    return msgspec.structs.replace(left, ending=ENDING in arguments)

"""Training steps as CUDA graphs: one call starts all kernels of a step.

A step of a small net is a few hundred kernels of some microseconds each; to start them one by one
takes the host longer than the GPU takes to run them. Recorded once, they are started together
(Ng and others 2021, "Accelerating PyTorch with CUDA Graphs"). What a step reads that changes (which
images, the augmentation's draws, the learning rates) lies in tensors that stay where they are.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from trainer.errors import first_line
from trainer.kernels.images import Draws
from trainer.loop import host_random

Replay = Callable[[], None]
Work = Callable[[Tensor, Draws, int, bool], None]
"""One step: indices int64 [B], draws, side of the images in pixels, whether layers are measured."""
WARM_UP = 3
"""Steps before recording: libraries choose their algorithms, optimizers create their state."""
AHEAD = 16
"""Steps that the host may be ahead of the GPU: enough that the GPU never waits for it."""
AHEAD_SECONDS = 0.25
"""Of long steps it is ahead of so much at most, or of two: a stop is soon obeyed."""


class CaptureFailed(Exception):  # noqa: N818  # what is told is its message
    """Work could be done, but not be captured, or not be undone: training cannot go on.

    Torch may still believe that it is captured.
    """


class StepGraphs:
    """Records a step once for each size of images, and runs it by replaying.

    Args:
        work: the step. It may read and write what it finds in place, never make the host wait for
            the device, and decide nothing on the host: what it did when recorded is done again.
        index: int64 [B], images of any batch.
        draws: of any epoch; they tell the shapes of all later ones.
        recorder: turns work into its replay.
    """

    def __init__(
        self, work: Work, index: Tensor, draws: Draws, recorder: Callable[[Replay], Replay]
    ) -> None:
        self._work, self._recorder = work, recorder
        self._index, self._draws = index.clone(), _each(draws, Tensor.clone)
        self._replays: dict[tuple[int, bool], Replay] = {}

    def record(self, side: int, *, measured: bool = False) -> None:
        """Record the step for images of a side in pixels, with or without measuring layers.

        The step is run some times before: the caller keeps what it changes (``steps_undone``).

        Raises:
            RuntimeError: it cannot be recorded, which was seen before it was captured, or there
                is too little memory.
            CaptureFailed: it was seen while it was captured.
        """
        work = partial(self._work, self._index, self._draws, side, measured)
        self._replays[side, measured] = self._recorder(work)

    def begin_epoch(self, draws: Draws) -> None:
        """Take an epoch's draws."""
        for mine, new in zip(_tensors(self._draws), _tensors(draws), strict=True):
            mine.copy_(new)

    def __call__(self, index: Tensor, side: int, *, measured: bool = False) -> None:
        """One step on the images of these indices, int64 [B]."""
        self._index.copy_(index)
        self._replays[side, measured]()


class Recorder:
    """Records work as CUDA graphs that share their memory: they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # torch's own stream for it is one a process, of the GPU of the first run
        self._aside = torch.cuda.Stream(device)

    def __call__(self, work: Replay) -> Replay:
        """The replay of some work."""
        with torch.cuda.device(self._device):
            main = torch.cuda.current_stream()
            self._aside.wait_stream(main)
            with torch.cuda.stream(self._aside):
                for _ in range(WARM_UP):
                    work()
                with _not_waiting():
                    work()
            main.wait_stream(self._aside)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(
                    graph,
                    pool=self._pool,
                    stream=self._aside,
                    # other threads of this process may use the device meanwhile
                    capture_error_mode="thread_local",
                ):
                    work()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                if "out of memory" in str(error):  # the driver's own, when the capture is over
                    raise torch.OutOfMemoryError(first_line(error)) from error
                raise CaptureFailed(first_line(error)) from error
            finally:
                # a capture that fails at its end leaves its own stream
                torch.cuda.set_stream(main)
            graph.replay()  # the first one takes longer: the graph goes to the GPU
        return graph.replay


@contextmanager
def _not_waiting() -> Iterator[None]:
    """What makes the host wait is an error: found before recording, which such an error spoils."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not find everything
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def steps_undone(
    net: nn.Module, optimizers: Iterable[torch.optim.Optimizer], others: Iterable[Tensor]
) -> Iterator[None]:
    """Whatever steps are done within, afterwards net, optimizers and tensors are as before.

    They keep their places in memory. State that an optimizer creates within is set to 0, with which
    SGD, Adam and Muon begin. Random generators go on from where they were,
    Python's and numpy's too.

    Raises:
        RuntimeError: the net has put other tensors in the place of its buffers, which then have no
            place that a recorded step could write to.
        CaptureFailed: not all is as before.
    """
    buffers = [
        (module, name, buffer)
        for module in net.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    tensors = [*net.parameters(), *(buffer for _, _, buffer in buffers), *others]
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors]
    states = {id(tensor): tensor.clone() for tensor in _states(optimizers)}
    gpus = {t.device.index for t in tensors if t.device.type == "cuda"}
    random, random_host = torch.get_rng_state(), host_random.state()
    random_of_gpus = [(gpu, torch.cuda.get_rng_state(gpu)) for gpu in gpus]
    try:
        yield
        if any(getattr(module, name) is not buffer for module, name, buffer in buffers):
            raise RuntimeError("the net exchanges its buffers for others")
    finally:
        try:
            for gpu in gpus:
                torch.cuda.synchronize(gpu)  # what failed may not have been waited for
            with torch.no_grad():
                for module, name, buffer in buffers:
                    setattr(module, name, buffer)
                for tensor, before in kept:
                    tensor.copy_(before)
                for tensor in _states(optimizers):
                    before_it = states.get(id(tensor))
                    if before_it is None:
                        tensor.zero_()
                    else:
                        tensor.copy_(before_it)
            torch.set_rng_state(random)
            host_random.restore(random_host)
            for gpu, state in random_of_gpus:
                torch.cuda.set_rng_state(state, gpu)
        except RuntimeError as error:
            # what failed before it, if anything, says more
            raise CaptureFailed(first_line(error.__context__ or error)) from error


class Mark(Protocol):
    """The end of what was queued until then, as a CUDA event."""

    def synchronize(self) -> None:
        """Wait until it is reached."""


class RunAhead:
    """Keeps the host a bounded number of steps ahead of a GPU; elsewhere it does nothing.

    Without a bound a whole epoch is queued at once: progress would be told, and a stop obeyed, only
    at its end.

    Args:
        device: where the steps are done.
        mark: puts a mark behind what is queued, whose ``synchronize`` waits until it is reached.
        clock: tells the seconds.
    """

    def __init__(
        self,
        device: torch.device,
        mark: Callable[[], Mark] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mark = mark or (partial(_event, device) if device.type == "cuda" else None)
        self._clock = clock
        self._queued: deque[Mark] = deque()
        self._reached: float | None = None
        self._seconds: float | None = None
        """From one step to the next."""

    @property
    def bound(self) -> int:
        """Steps that the host may be ahead now."""
        if self._seconds is None:
            return 2
        return max(2, min(AHEAD, int(AHEAD_SECONDS / max(self._seconds, 1e-9))))

    def begin(self) -> None:
        """Steps begin, or begin again, with nothing queued."""
        self._queued.clear()
        self._reached = None

    def queued(self) -> None:
        """A step was queued; waits for the one so many steps earlier."""
        if self._mark is None:
            return
        self._queued.append(self._mark())
        waited = len(self._queued) - self.bound  # more than one where steps have become longer
        if waited <= 0:
            return
        for _ in range(waited):
            self._queued.popleft().synchronize()
        now = self._clock()
        if self._reached is not None:
            took = (now - self._reached) / waited
            before = took if self._seconds is None else self._seconds
            self._seconds = 0.8 * before + 0.2 * took
        self._reached = now


def _event(device: torch.device) -> torch.cuda.Event:
    event = torch.cuda.Event(blocking=True)  # waits asleep, not in a loop
    event.record(torch.cuda.current_stream(device))
    return event


def _states(optimizers: Iterable[torch.optim.Optimizer]) -> list[Tensor]:
    return [
        value
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]


def _tensors(draws: Draws) -> list[Tensor]:
    found = (getattr(draws, field.name) for field in fields(draws))
    return [tensor for tensor in found if tensor is not None]


def _each(draws: Draws, change: Callable[[Tensor], Tensor]) -> Draws:
    values = {field.name: getattr(draws, field.name) for field in fields(draws)}
    return Draws(**{name: None if t is None else change(t) for name, t in values.items()})

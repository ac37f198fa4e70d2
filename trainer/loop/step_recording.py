"""Which runs record their steps as CUDA graphs, and how: all sizes of images, without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from model import user_file
from trainer.config import RunConfig
from trainer.errors import first_line
from trainer.kernels.images import Draws
from trainer.loop.compilation import Compiled, Forward
from trainer.loop.cuda_graphs import Replay, StepGraphs, Work


def why_not(config: RunConfig, *, grouped: bool, scaling: bool) -> str:
    """Why steps on a GPU are not recorded as CUDA graphs; empty: they are.

    Args:
        config: the run's settings.
        grouped: whether several processes train together.
        scaling: whether the loss is scaled, as in fp16.
    """
    if scaling:
        return "in fp16 each step asks the GPU whether its gradients are finite"
    if grouped:
        return "several processes hear of each other at each step"
    if config.train.cuda_graphs == "auto" and user_file.is_file(config.model.name):
        return (
            "what a net of your own decides in Python at each step would be decided once; if "
            "it decides nothing, train.cuda_graphs=on makes training faster"
        )
    return ""


def record(
    compute: Work,
    index: Tensor,
    draws: Draws,
    recorder: Callable[[], Callable[[Replay], Replay]],
    *,
    sides: Iterable[int],
    measured: bool,
    undone: AbstractContextManager[None],
    forward: Forward,
) -> StepGraphs | str:
    """Record a step for each size of images; if that cannot be done, the reason.

    Args:
        compute: the step, with ``index`` (int64 [B]) and ``draws`` of any batch and epoch.
        index: see there.
        draws: see there.
        recorder: makes what turns work into its replay.
        sides: the sides of images in pixels.
        measured: whether layers are measured at some steps.
        undone: takes back what steps change (``steps_undone``).
        forward: the net's forward pass, which may give up compiling meanwhile.

    Raises:
        CaptureFailed: it has failed so that training cannot go on.
    """
    graphs = StepGraphs(compute, index, draws, recorder())
    kinds = [(side, how) for side in sides for how in ((False, True) if measured else (False,))]
    try:
        with undone:
            compiles = _compiles(forward)
            for side, how in kinds:
                graphs.record(side, measured=how)
            if compiles and not _compiles(forward):
                # all anew and uncompiled, as told. With memory and a stream of their own: a graph
                # that ends takes the workspace of its stream's products with it (torch 2.14)
                graphs = StepGraphs(compute, index, draws, recorder())
                for side, how in kinds:
                    graphs.record(side, measured=how)
    except torch.OutOfMemoryError:
        return "the GPU has too little memory for them"
    except RuntimeError as error:
        return first_line(error)
    return graphs


def _compiles(forward: Forward) -> bool:
    return isinstance(forward, Compiled) and not forward.given_up

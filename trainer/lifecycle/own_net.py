"""A net of the user's own file, tried in the way a run would train it, before the run begins."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from model.checks import check_scores
from model.errors import ModelError
from model.inspection import untouched
from model.user_file import reason, told_as
from trainer.device import DTYPES, Precision
from trainer.errors import RunError
from trainer.runs import checkpoint

IMAGES = 2


@dataclass(frozen=True)
class Way:
    """How a run computes."""

    precision: Precision
    layout: torch.memory_format


def find_way(
    net: nn.Module,
    classes: int,
    sides: tuple[int, ...],
    device: torch.device,
    wanted: Way,
    *,
    batch: int,
) -> tuple[Way, str]:
    """The way in which a net can be trained: the wanted one, or the next one to it.

    Views of a tensor's memory fail in another layout than torch's own, and additions to float32
    buffers under autocast. The net stays as it was; the same net has the same way again.

    Args:
        net: it takes [N, 3, side, side] and should give [N, classes].
        classes: number of outputs.
        sides: of the training images in pixels, the last one also of the test images.
        device: where it will be trained.
        wanted: as the settings have it.
        batch: training images that it takes at once; it may need as many.

    Returns:
        The way, and one line on why it is another than the wanted one, or nothing.

    Raises:
        ModelError: it fails in any way.
    """
    ways = [wanted]
    for precision in (wanted.precision, "fp32"):
        for layout in (wanted.layout, torch.contiguous_format):
            if (way := Way(precision, layout)) not in ways:
                ways.append(way)
    first = problem = ""
    for way in ways:
        problem = _problem(net, classes, sides, device, way, batch)
        if not problem:
            return way, _told(wanted, way, first)
        first = first or problem
    raise ModelError(problem)


def check_state(net: nn.Module) -> None:
    """Check that the net's checkpoints could be opened again.

    Raises:
        ModelError: its state holds more than plain data.
    """
    with told_as("the net cannot be kept in a checkpoint"):  # it cannot be packed, or it fails
        state = net.state_dict()
        odd = {key: value for key, value in state.items() if type(value) is not torch.Tensor}
        packed = bytes(checkpoint.pack({"net": odd}))
    try:
        checkpoint.unpack(packed, "of the net")
    except RunError:
        raise ModelError(
            f"the net's checkpoints could not be opened again: {', '.join(map(str, odd))} may only "
            "have tensors, numbers, strings, lists and dicts (see get_extra_state)"
        ) from None


def _problem(
    net: nn.Module,
    classes: int,
    sides: tuple[int, ...],
    device: torch.device,
    way: Way,
    batch: int,
) -> str:
    """Empty when the net can be trained so, else one line."""
    probe = net  # where it cannot be copied; it will be moved there anyway
    with suppress(ModelError), told_as("the net cannot be copied"):
        probe = copy.deepcopy(net)
    probe = probe.to(device).to(memory_format=way.layout)
    kept = [(parameter, parameter.grad) for parameter in probe.parameters()]
    autocast = torch.autocast(
        device.type, dtype=DTYPES[way.precision], enabled=way.precision != "fp32"
    )
    doing, shape = "", [batch, 3, *sides[-1:] * 2]
    try:
        with untouched(probe):
            doing = "training"
            probe.train()
            for side in sides:
                shape = [batch, 3, side, side]
                images = torch.rand(shape, device=device).to(DTYPES[way.precision])
                with torch.enable_grad(), autocast:
                    scores = probe(images.contiguous(memory_format=way.layout))
                check_scores(scores, batch, classes)
                loss = F.cross_entropy(scores.float(), torch.zeros_like(scores[:, 0]).long())
                if loss.requires_grad:
                    loss.backward()
                elif any(parameter.requires_grad for parameter in probe.parameters()):
                    raise ModelError("no gradient comes back from its scores (detach, no_grad?)")
            doing = "evaluation"
            probe.eval()
            shape, images = [IMAGES, *shape[1:]], images[:IMAGES]
            with torch.inference_mode(), autocast:
                check_scores(probe(images), len(images), classes)
    except (KeyboardInterrupt, torch.OutOfMemoryError):
        raise
    except ModelError as error:
        return f"in {doing}: {error}"
    except BaseException as error:  # as in told_as
        return f"the net fails in {doing} on a batch {shape}: {reason(error)}"
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient
    return ""


def _told(wanted: Way, way: Way, problem: str) -> str:
    if way == wanted:
        return ""
    changes = []
    if way.precision != wanted.precision:
        changes.append(f"in {way.precision} instead of {wanted.precision}")
    if way.layout != wanted.layout:
        changes.append("without channels_last")
    return f"training {' and '.join(changes)}: otherwise {problem}"

"""One rank's part in training: its share of each batch, gradients, sums and evaluations of all."""

from __future__ import annotations

import inspect
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.summary import Summary
from trainer import device as devices
from trainer import events
from trainer.distributed.agreement import Agreement, Figures, Heard
from trainer.distributed.batch_norm import synchronise
from trainer.distributed.group import Group
from trainer.loop.meter import Meter
from trainer.runs.control import Control

_SYNC_BUFFERS: str = (
    "forward_sync_buffers"  # the newer name
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)
RANKS_SECONDS = 5.0
"""Between two events with the figures of each rank."""


class Together:
    """What the training loop does differently when it is not alone.

    The order of an epoch and its augmentation follow from the seed and the epoch, so each rank
    takes its part of every global batch and nobody has to be told anything.
    """

    def __init__(self, group: Group, control: Control, device: torch.device) -> None:
        self.group, self.device = group, device
        self.control = Agreement(group, control)
        self.norms = 0
        """Layers of the net that wait for the other ranks in the middle of it."""
        self._before = (0.0, 0.0, 0)
        self._rate_from = (time.monotonic(), 0)
        self._told_at = -RANKS_SECONDS

    def wrap(self, net: nn.Module, summary: Summary) -> nn.Module:
        """The net with gradients averaged over all ranks and batch norms over all images."""
        self.norms = synchronise(net, self.group.norms)
        unused = any("not used" in layer.reason for layer in summary.layers)
        # running statistics are the same on all ranks
        no_sync: dict[str, Any] = {_SYNC_BUFFERS: False}
        return DistributedDataParallel(
            net,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            **no_sync,
            gradient_as_bucket_view=True,
            find_unused_parameters=unused,
        )

    def share(self, index: Tensor) -> Tensor:
        """This rank's images of a global batch."""
        return index[self.group.part(len(index))]

    def weight(self, images: int, batch: int) -> float:
        """What a mean over this rank's images counts, so that the ranks' mean is the batch's."""
        return images * self.group.size / batch

    def seed_dropout(self, seed: int, step: int) -> None:
        """Random numbers inside the net: others on each rank, the same when a step is repeated."""
        torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + self.group.rank) % 2**63)

    def exchange(self, meter: Meter) -> Heard | None:
        """Tell and hear the figures of training, at the agreed ticks."""
        if not self.control.due():
            return None
        images = meter.images
        now, (since, before) = time.monotonic(), self._rate_from
        self._rate_from = now, images
        if images < before:
            before = 0
        if meter.ready():
            meter.window()
        mine = Figures(
            *meter.read_sums,
            images_per_second=(images - before) / (now - since) if now > since else 0.0,
            memory=devices.memory(self.device),
        )
        if not meter.reading():
            meter.begin_read()
        return self.control.exchange(mine)

    def window(self, heard: Heard) -> tuple[float, float] | None:
        """Mean loss and accuracy over the images of all ranks since the last call."""
        loss, correct, images = self._before
        new = heard.images - images
        if new <= 0:
            return None
        self._before = heard.loss, heard.correct, heard.images
        return (heard.loss - loss) / new, (heard.correct - correct) / new

    def begin_epoch(self, meter: Meter) -> None:
        """Sums of the epoch begin anew, or where a checkpoint left them."""
        self.control.settle()  # figures of the epoch before
        self._before = self.sums(meter)
        self._rate_from = time.monotonic(), meter.images

    def sums(self, meter: Meter) -> tuple[float, float, int]:
        """Loss, correct predictions and images of all ranks; waits for the device."""
        values = torch.tensor([*meter.sums(), meter.images], dtype=torch.float64)
        loss, correct, images = self.group.sum(values).tolist()
        return loss, correct, int(images)

    def totals(self, meter: Meter) -> tuple[float, float]:
        """Mean loss and accuracy over the images of all ranks."""
        loss, correct, images = self.sums(meter)
        return loss / max(1, images), correct / max(1, images)

    def meter_state(self, meter: Meter) -> dict[str, object]:
        """For a checkpoint that any number of ranks can go on from."""
        loss, correct, images = self.sums(meter)
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        return {"sums": torch.tensor([loss, correct], dtype=dtype), "images": images}

    def load_meter(self, meter: Meter, state: dict[str, object]) -> None:
        """Rank 0 goes on with the sums of all, the others with nothing."""
        if self.group.first:
            meter.load_state_dict(state)

    def news(self, heard: Heard, *, step: int) -> events.Ranks | None:
        """The figures of each rank, now and then."""
        now = time.monotonic()
        if now - self._told_at < RANKS_SECONDS or not any(heard.images_per_second):
            return None
        self._told_at = now
        return events.Ranks(
            step=step, images_per_second=heard.images_per_second, memory=heard.memory
        )

"""Loss and accuracy accumulated on the device, read back without stalling its queue."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.device import HostCopy


class Meter:
    """Sums of loss and correct predictions over an epoch, and over the window since the last read.

    On CUDA a read is a copy to pinned memory that ``ready`` finds done some steps later; on a CPU
    it is done at once.
    """

    def __init__(self, device: torch.device) -> None:
        dtype = torch.float64 if device.type != "mps" else torch.float32
        self.device_sums = torch.zeros(2, dtype=dtype, device=device)
        """Loss and correct predictions, on the device."""
        self.images = 0
        """Images of which there are sums, or will be when the device has done what is queued."""
        self._before = (0.0, 0.0, 0)
        self.read_sums = (0.0, 0.0, 0)
        """Loss, correct predictions and images at the last read that was taken."""
        self._copy: HostCopy | None = None
        self._copy_images = 0

    def add(self, loss_sum: Tensor, correct: Tensor) -> None:
        """Add a batch: sum of the cross-entropy, number of correct predictions, both on device.

        Its number of images is added to ``images``, on the host.
        """
        batch = torch.stack((loss_sum.detach(), correct.detach()))
        self.device_sums += batch.to(self.device_sums.dtype)

    def begin_epoch(self) -> None:
        """Forget everything; the sums stay where they are, a recorded step adds to them."""
        self.device_sums.zero_()
        self.images = self._copy_images = 0
        self._before = self.read_sums = (0.0, 0.0, 0)
        self._copy = None

    def begin_read(self) -> None:
        """Start copying the sums to the host."""
        self._copy_images = self.images
        self._copy = HostCopy(self.device_sums)

    def reading(self) -> bool:
        """Whether a read is under way."""
        return self._copy is not None

    def ready(self) -> bool:
        """Whether the read that was begun can be taken without waiting."""
        return self._copy is not None and self._copy.ready()

    def window(self) -> tuple[float, float] | None:
        """Mean loss and accuracy over the images between the last two reads; None without any."""
        assert self._copy is not None
        loss, correct = self._copy.numbers()
        self._copy = None
        before_loss, before_correct, before_images = self._before
        images = self._copy_images - before_images
        self._before = self.read_sums = (loss, correct, self._copy_images)
        if not images:
            return None
        return (loss - before_loss) / images, (correct - before_correct) / images

    def totals(self) -> tuple[float, float]:
        """Mean loss and accuracy over all images; waits for the device."""
        loss, correct = self.sums()
        return loss / max(1, self.images), correct / max(1, self.images)

    def sums(self) -> tuple[float, float]:
        """Sums of loss and correct predictions; waits for the device."""
        loss, correct = self.device_sums.tolist()
        return loss, correct

    def state_dict(self) -> dict[str, object]:
        """Sums so far, for a checkpoint in mid-epoch."""
        return {"sums": self.device_sums.cpu(), "images": self.images}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on with sums from a checkpoint."""
        sums, images = state["sums"], state["images"]
        assert isinstance(sums, Tensor)
        assert isinstance(images, int)
        self.device_sums.copy_(sums)
        self.images = images
        loss, correct = sums.tolist()
        self._before = self.read_sums = (loss, correct, images)

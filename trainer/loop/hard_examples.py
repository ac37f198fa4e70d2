"""Epochs of the hardest images only, for the last part of a run.

Late in training most images have a loss near zero and so hardly a gradient: leaving them out costs
little accuracy and saves their time. As Jiang et al. 2019 (arXiv:1910.00762, "biggest losers") and
Jordan 2024 (arXiv:2404.00498), here by the loss that each image had when it was last trained on, so
that choosing costs no forward pass of its own. An image that was left out keeps its loss and comes
back as soon as it is among the hardest again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config import TrainSettings
from trainer.device import send


class HardExamples:
    """Which images an epoch trains on, and in which order.

    Args:
        images: of the training split.
        settings: batch size, epochs, seed and the share that is left out.
        device: where the losses are kept; choosing does not wait for it.
    """

    def __init__(self, images: int, settings: TrainSettings, device: torch.device) -> None:
        self._images, self._settings, self._device = images, settings, device
        size, epochs = settings.batch_size, settings.epochs
        self._all = images // size
        self._few = max(1, round(images * (1 - settings.skip_easy)) // size)
        late = round(epochs * (1 - settings.skip_easy_from)) if settings.skip_easy else 0
        self.first = epochs - late + 1
        """The first epoch that leaves images out."""
        self.losses: Tensor | None = None
        """float32 [N]: each image's cross-entropy when it was last trained on; None: not needed."""
        if late:
            self.losses = torch.full((images,), torch.inf, device=device)
            self._unseen = send(_shuffled(images, 0, settings.seed), device)
            """Rank of each image among those without a loss."""
        self._order: Tensor | None = None
        self._shuffle: tuple[int, Tensor] | None = None

    def steps(self, epoch: int) -> int:
        """Optimizer steps of an epoch; images that fill no batch are left to another epoch."""
        return self._few if epoch >= self.first else self._all

    def leaves_out(self, epoch: int) -> bool:
        """Whether an epoch leaves the easiest images out, be they fewer than a batch."""
        trained = self._few * self._settings.batch_size
        return self.losses is not None and epoch >= self.first and trained < self._images

    def total(self) -> int:
        """Optimizer steps of the whole run."""
        epochs = self._settings.epochs
        late = epochs - self.first + 1
        return self._few * late + self._all * (epochs - late)

    def order(self, epoch: int, *, resumed: bool) -> Tensor:
        """The images of an epoch, int64 [steps · batch size or more].

        Args:
            epoch: which.
            resumed: whether it goes on in mid-epoch: the losses have changed since it began.
        """
        if self.losses is None or epoch < self.first:
            return self.shuffle(epoch)
        if self._order is None or not resumed:
            self._order = self._hardest(self.losses)[self.shuffle(epoch)]
        return self._order

    def _hardest(self, losses: Tensor) -> Tensor:
        """All images, int64 [N], those of the largest losses first; none waits for the device."""
        unknown = losses.isinf()
        # where not all of them are trained on: the first of a sorted set are of a few classes
        too_many = unknown.sum() > self._few * self._settings.batch_size
        places = torch.arange(self._images, device=self._device)
        mixed = torch.where(unknown & too_many, self._unseen, places).argsort(stable=True)
        return mixed[losses[mixed].argsort(descending=True, stable=True)]

    def shuffle(self, epoch: int) -> Tensor:
        """Places among an epoch's images, int64 [images]; can be asked for before it begins."""
        if self._shuffle is None or self._shuffle[0] != epoch:
            late = self.losses is not None and epoch >= self.first
            count = self._few * self._settings.batch_size if late else self._images
            places = _shuffled(count, epoch, self._settings.seed)
            self._shuffle = epoch, send(places, self._device)
        return self._shuffle[1]

    def note(self, index: Tensor, log_probabilities: Tensor, labels: Tensor) -> None:
        """Remember a batch's losses.

        Args:
            index: int64 [B], which training images these are.
            log_probabilities: float32 [B, classes].
            labels: int64 [B].
        """
        if self.losses is not None:
            chosen = log_probabilities.detach().gather(1, labels[:, None]).squeeze(1)
            self.losses.index_copy_(0, index, chosen.neg())

    def state_dict(self) -> dict[str, Tensor]:
        """What a resume needs and seed and position do not tell; empty where nothing is skipped."""
        if self.losses is None:
            return {}
        state = {"losses": self.losses.cpu()}
        if self._order is not None:
            state["order"] = self._order.cpu()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where a checkpoint was saved; one without losses knows of none yet."""
        if self.losses is None or "losses" not in state:
            return
        self.losses.copy_(state["losses"])
        order = state.get("order")
        self._order = None if order is None else self._whole(order.to(self._device))

    def _whole(self, order: Tensor) -> Tensor:
        """An order with the hardest others: older versions may have left out a batch more."""
        assert self.losses is not None
        lacks = self._few * self._settings.batch_size - len(order)
        if lacks <= 0:
            return order
        hardest = self.losses.argsort(descending=True, stable=True)
        return torch.cat((order, hardest[~torch.isin(hardest, order)][:lacks]))


def _shuffled(images: int, epoch: int, seed: int) -> Tensor:
    """A permutation that depends on seed and epoch alone, int64 [N]."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(images, generator=generator)

"""Augmentation of training batches on the device: vectorised, without waiting for the device.

All random parameters of an epoch are drawn before it begins, from the seed and the epoch alone, on
the CPU: every device sees the same pictures, and resuming in mid-epoch needs no random state.
"""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import AugmentSettings, Tta
from trainer.device import send
from trainer.kernels.images import Draws, augmented

SIDE = 32
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in ITU-R BT.601 luma."""
_NOWHERE = 2 * SIDE


class Augment:
    """Turns uint8 images into the net's input.

    In this order: flip, shift, shift-scale-rotate, grayscale, normalisation, coarse dropout. A hole
    is therefore exactly 0 after normalisation, which is the data set's mean.

    Args:
        settings: what to do.
        mean, std: per channel, 0 to 1, of the training split.
        device, dtype: of what comes out; the arithmetic is float32.
        kernels: compute bf16 on a CPU by the compiled kernels, which are there.
    """

    def __init__(
        self,
        settings: AugmentSettings,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        device: torch.device,
        dtype: torch.dtype,
        kernels: bool = False,
    ) -> None:
        self.settings = settings
        self._kernels = kernels and device.type == "cpu" and dtype == torch.bfloat16
        self.device, self.dtype = device, dtype
        deviation = torch.tensor(std, dtype=torch.float64)
        offset = -torch.tensor(mean, dtype=torch.float64) / deviation
        self._scale = (1 / (255 * deviation)).float().view(1, 3, 1, 1).to(device)
        self._offset = offset.float().view(1, 3, 1, 1).to(device)
        self._luma = torch.tensor(LUMA, device=device).view(1, 3, 1, 1)
        self._line = torch.arange(SIDE, device=device)

    def draw(self, count: int, *, epoch: int, seed: int) -> Draws:
        """The parameters of an epoch for ``count`` images; the same arguments give the same."""
        settings = self.settings
        rows, columns = self._moves(count, epoch, seed)
        warped = warps = gray = holes = None
        if settings.shift_scale_rotate:
            random = torch.rand(5, count, generator=_generator("warp", seed, epoch))
            warped = send(random[0] < settings.shift_scale_rotate, self.device)
            warps = send(_warps(random[1:] * 2 - 1, settings), self.device)
        if settings.grayscale:
            random = torch.rand(count, generator=_generator("gray", seed, epoch))
            gray = send(random < settings.grayscale, self.device)
        if settings.dropout:
            random = torch.rand(3, count, generator=_generator("hole", seed, epoch))
            places = SIDE - settings.dropout_size + 1
            corners = (random[1:] * places).long().clamp_(max=places - 1)
            corners[:, random[0] >= settings.dropout] = _NOWHERE
            holes = send(corners.T.contiguous(), self.device)
        return Draws(rows, columns, warped, warps, gray, holes)

    def _moves(self, count: int, epoch: int, seed: int) -> tuple[Tensor | None, Tensor | None]:
        """Rows and columns of flip and shift, both together."""
        # made of few numbers on the device: the tables themselves would take long to copy
        settings, line = self.settings, self._line
        rows = columns = None
        if settings.flip != "none":
            # alternating (Jordan 2024, arXiv:2404.00498): the coin belongs to the image, not the
            # epoch, and each image is flipped in every second epoch
            coin_epoch = 0 if settings.flip == "alternating" else epoch
            flipped = torch.rand(count, generator=_generator("flip", seed, coin_epoch)) < 0.5
            if settings.flip == "alternating" and epoch % 2:
                flipped = ~flipped
            columns = torch.where(send(flipped, self.device)[:, None], SIDE - 1 - line, line)
        if settings.shift:
            limit = settings.shift
            shifts = torch.randint(
                -limit, limit + 1, (2, count, 1), generator=_generator("shift", seed, epoch)
            )
            shifts = send(shifts, self.device)
            rows = _reflect(line + shifts[0])
            columns = _reflect((line if columns is None else columns) + shifts[1])
        return rows, columns

    def __call__(self, images: Tensor, index: Tensor, draws: Draws) -> Tensor:
        """Augment and normalise a training batch.

        Args:
            images: uint8 [B, 3, 32, 32].
            index: int64 [B], which training image each is.
            draws: this epoch's.

        Returns:
            [B, 3, 32, 32] in the chosen dtype.
        """
        if self._kernels:
            return augmented(
                images,
                index,
                draws,
                hole=self.settings.dropout_size,
                luma=self._luma,
                scale=self._scale,
                offset=self._offset,
            )
        moved = self._move(images, index, draws)
        if draws.warps is not None and draws.warped is not None:
            moved = _warp(moved, draws.warps[index], draws.warped[index])
        if draws.gray is not None:
            values = moved.float()
            luma = (values * self._luma).sum(1, keepdim=True)
            moved = torch.where(draws.gray[index].view(-1, 1, 1, 1), luma, values)
        normalised = self.normalise(moved)
        if draws.holes is not None:
            normalised = normalised.masked_fill_(self._inside(draws.holes[index]), 0)
        return normalised

    def normalise(self, images: Tensor) -> Tensor:
        """Only normalise: what evaluation does. Values 0 to 255, [B, 3, H, W]."""
        values = images.to(torch.float32, copy=True)
        return values.mul_(self._scale).add_(self._offset).to(self.dtype)

    def _move(self, images: Tensor, index: Tensor, draws: Draws) -> Tensor:
        if draws.columns is None:
            return images
        columns = draws.columns.index_select(0, index)
        rows = self._line if draws.rows is None else draws.rows.index_select(0, index)
        source = rows.view(-1, SIDE, 1) * SIDE + columns.view(-1, 1, SIDE)
        source = source.view(len(images), 1, SIDE * SIDE).expand(-1, images.shape[1], -1)
        return images.flatten(2).gather(2, source).view_as(images)

    def _inside(self, corners: Tensor) -> Tensor:
        """Which pixels lie in the hole, bool [B, 1, 32, 32]."""
        distance = self._line - corners[:, :, None]
        hit = (distance >= 0) & (distance < self.settings.dropout_size)
        return (hit[:, 0, :, None] & hit[:, 1, None, :])[:, None]


def resized(images: Tensor, side: int) -> Tensor:
    """Images as they are trained on in the first part of a run that shrinks them.

    Args:
        images: [B, C, H, W].
        side: pixels; that of the images: they are returned as they are.
    """
    if side == images.shape[3]:
        return images
    small = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
    return small.to(images.dtype)


def tta_views(images: Tensor, kind: Tta) -> list[tuple[Tensor, float]]:
    """Views of normalised test images with their weights, which add up to 1.

    ``flip+shift`` has the six views of airbench (Jordan 2024, arXiv:2404.00498): the image and its
    mirror image, and both again moved one pixel to the lower right and to the upper left.
    """
    if kind == "none":
        return [(images, 1.0)]
    mirrored = images.flip(3)
    if kind == "flip":
        return [(images, 0.5), (mirrored, 0.5)]
    views = [(images, 0.25), (mirrored, 0.25)]
    for step in (1, -1):
        lines = (
            _reflect(torch.arange(size, device=images.device) - step, size)
            for size in images.shape[2:]
        )
        height, width = lines
        moved = images.index_select(2, height).index_select(3, width)
        views += [(moved, 0.125), (moved.flip(3), 0.125)]
    return views


def _generator(purpose: str, seed: int, epoch: int) -> torch.Generator:
    """A stream for each purpose: more of one augmentation does not change another."""
    digest = hashlib.sha256(f"{purpose} {seed} {epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _reflect(index: Tensor, size: int = SIDE) -> Tensor:
    """Mirror indices that lie outside; the border pixel is not repeated."""
    index = index.abs()
    return torch.minimum(index, 2 * (size - 1) - index)


def _warps(random: Tensor, settings: AugmentSettings) -> Tensor:
    """Inverse affine maps [N, 2, 3] from random numbers -1 to 1, [4, N]."""
    # coordinates run from -1 to 1: a share of the side is twice as much
    x, y = random[:2] * (2 * settings.shift_limit)
    scale = 1 + random[2] * settings.scale_limit
    angle = random[3] * math.radians(settings.rotate_limit)
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    first = torch.stack([cosine, sine, -cosine * x - sine * y], 1)
    second = torch.stack([-sine, cosine, sine * x - cosine * y], 1)
    return torch.stack([first, second], 1)


def _warp(images: Tensor, warps: Tensor, chosen: Tensor) -> Tensor:
    """Bilinear sampling of the chosen images, float32, values 0 to 255."""
    values = images.float()
    if values.device.type == "cpu":
        # here choosing costs nothing; on a GPU it would wait for the device
        where = chosen.nonzero().squeeze(1)
        if len(where):
            values = values.index_copy(0, where, _sample(values[where], warps[where]))
        return values
    return torch.where(chosen.view(-1, 1, 1, 1), _sample(values, warps), values)


def _sample(values: Tensor, warps: Tensor) -> Tensor:
    grid = F.affine_grid(warps, list(values.shape), align_corners=False)
    return F.grid_sample(values, grid, padding_mode="reflection", align_corners=False)

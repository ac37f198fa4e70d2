"""Features of the training images, kept in the run's folder, and the images nearest to one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainer.files.regular_file import open_regular
from trainer.files.whole_file import whole_file

UNPACKED_BYTES = 1 << 30


class TrainingFeatures:
    """Unit vectors of ``N`` training images, float32 [N, D], on the CPU."""

    def __init__(self, features: Tensor) -> None:
        self._unit = F.normalize(features.float(), dim=1)

    def __len__(self) -> int:
        return len(self._unit)

    def nearest(self, feature: Tensor, count: int) -> list[tuple[int, float]]:
        """Index and cosine similarity of the training images nearest to a feature [D].

        The nearest first; of equally near ones the first.
        """
        similar = self._unit @ F.normalize(feature.float().cpu().flatten(), dim=0)
        order = torch.argsort(similar, descending=True, stable=True)[:count]
        return [(int(i), float(similar[i])) for i in order]


def compute(
    batches: Callable[[int], Tensor],
    images: int,
    *,
    batch_size: int,
    on_batch: Callable[[int, int], None],
    done: list[NDArray[np.float16]],
) -> NDArray[np.float16]:
    """Features of all training images as unit vectors, float16 [N, D].

    Args:
        batches: features [B, D] of the batch that begins at an index.
        images: N.
        batch_size: B, of the last batch perhaps fewer.
        on_batch: called with the images done and N before each batch; may raise to end it.
        done: batches that are done; a computation that was ended goes on after them.
    """
    for start in range(len(done) * batch_size, images, batch_size):
        on_batch(start, images)
        # larger values than float16 has are only needed for their direction
        unit = F.normalize(batches(start).float(), dim=1)
        done.append(unit.half().cpu().numpy())
    return np.concatenate(done)


def save(features: NDArray[np.float16], identity: str, path: Path) -> None:
    """Write atomically.

    Args:
        features: [N, D].
        identity: of the weights and images they were computed from.
        path: the file.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    with whole_file(path, synced=False) as file:
        np.savez(file, features=features, identity=np.array(identity))


def load(path: Path, identity: str, images: int) -> NDArray[np.float16] | None:
    """Features of ``save``, float16 [N, D]; ``None`` if absent, damaged, or of something else."""
    try:
        with open_regular(path) as raw, np.load(raw, allow_pickle=False) as file:
            members = [] if file.zip is None else file.zip.infolist()
            if sum(member.file_size for member in members) > UNPACKED_BYTES:
                return None
            if str(file["identity"]) != identity:
                return None
            found: NDArray[np.float16] = file["features"]
    except Exception:  # a damaged archive raises nearly anything; it is computed again
        return None
    fits = found.dtype == np.float16 and found.ndim == 2 and len(found) == images
    return found if fits and bool(np.isfinite(found).all()) else None

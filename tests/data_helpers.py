"""Small data sets on disk in every layout."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.data import python_layout
from trainer.data.binary import CIFAR10_CLASSES


def shared_file(name: str) -> Path:
    """A file of the data beside the repository; skips the test where it is not."""
    given = os.environ.get("CIFAR_TUI_SHARED")
    shared = Path(given) if given else Path(__file__).parents[2] / "shared"
    path = shared / "data" / name
    if not path.is_file():
        pytest.skip(f"no shared data: {path} is not there (set CIFAR_TUI_SHARED)")
    return path


def some_images(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, 32, 32)).astype(np.uint8)


def records(images: np.ndarray, *labels: np.ndarray) -> bytes:
    """The bytes of a binary file; several label columns for CIFAR-100."""
    columns = [column.astype(np.uint8)[:, None] for column in labels]
    return np.concatenate([*columns, images.reshape(len(images), -1)], 1).tobytes()


def binary_layout(parent: Path, train: int = 20, test: int = 10, batches: int = 2) -> Path:
    """CIFAR-10's binary layout with made-up images: the folder of its files, in ``parent``."""
    folder = parent / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for number in range(1, batches + 1):
        content = records(some_images(train, number), np.arange(train) % 10)
        (folder / f"data_batch_{number}.bin").write_bytes(content)
    (folder / "test_batch.bin").write_bytes(records(some_images(test, 99), np.arange(test) % 10))
    return folder


def python_folder(
    parent: Path, monkeypatch: pytest.MonkeyPatch, kind: str = "cifar10", count: int = 20
) -> Path:
    """The pickled layout with made-up images, its checksums entered as the official ones."""
    layout = python_layout.LAYOUTS[kind]
    folder = parent / layout.folder
    folder.mkdir(parents=True)
    sums: dict[str, str] = {}
    for seed, name in enumerate([*layout.train, *layout.test]):
        labels = [(i + seed) % layout.classes for i in range(count)]
        values = {
            b"data": some_images(count, seed).reshape(count, -1),
            layout.labels_key: labels,
            b"filenames": [b"x.png"] * count,
        }
        sums[name] = write_pickle(folder / name, values)
    names = [name.encode() for name in CIFAR10_CLASSES]
    if kind == "cifar100":
        names = [f"fine {i}".encode() for i in range(100)]
    for name in layout.meta:
        sums[name] = write_pickle(folder / name, {layout.names_key: names})
    enter_checksums(monkeypatch, kind, sums)
    return folder


class Python2Pickler(pickle._Pickler):
    """Writes strings as Python 2 and names numpy's modules as its old versions did."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, text: bytes | str) -> None:
        content = text.encode("ascii") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(text)

    dispatch[bytes] = dispatch[str] = save_string


def pickled(values: Any) -> bytes:
    """As the official files are written."""
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(values)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")


def write_pickle(path: Path, values: Any) -> str:
    content = pickled(values)
    path.write_bytes(content)
    return hashlib.md5(content).hexdigest()


def enter_checksums(monkeypatch: pytest.MonkeyPatch, kind: str, sums: Mapping[str, str]) -> None:
    layout = python_layout.LAYOUTS[kind]
    changed = replace(
        layout,
        train={name: sums.get(name, md5) for name, md5 in layout.train.items()},
        test={name: sums.get(name, md5) for name, md5 in layout.test.items()},
        meta={name: sums.get(name, md5) for name, md5 in layout.meta.items()},
    )
    monkeypatch.setattr(python_layout, "LAYOUTS", {**python_layout.LAYOUTS, kind: changed})


def image_folders(parent: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 2) -> Path:
    """PNG files of 32 x 32 pixels, ``train`` and ``test``."""
    for split, seed in (("train", 0), ("test", 100)):
        for label, name in enumerate(classes):
            folder = parent / split / name
            folder.mkdir(parents=True)
            for i, image in enumerate(some_images(count, seed + label)):
                Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i}.png")
    return parent


def entry(
    index: int, given: int, guessed: int, votes: tuple[int, int, int, int], **changes: Any
) -> dict[str, Any]:
    names = ("given", "guessed", "neither", "both")
    return {
        "id": index,
        "given_original_label": given,
        "given_original_label_name": "x",
        "our_guessed_label": guessed,
        "our_guessed_label_name": "y",
        "mturk": dict(zip(names, votes, strict=True)),
        **changes,
    }

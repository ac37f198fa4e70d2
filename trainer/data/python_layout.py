"""The pickled layout of the official archives, read without trusting a pickle.

A file's bytes are read once, compared with the official checksum, and only then are these very
bytes unpickled, by an unpickler that knows nothing but arrays.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy._core.multiarray import _reconstruct

from trainer.data.dataset import Images, Labels, TestSplit, TrainSplit
from trainer.errors import DataError

# what a pickled array of either major version of numpy is made of
_ARRAY_PARTS: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


@dataclass(frozen=True)
class Layout:
    """Files of an official archive with their MD5 checksums."""

    title: str
    kind: Literal["cifar10", "cifar100"]
    folder: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    meta: Mapping[str, str]
    labels_key: bytes
    names_key: bytes
    classes: int

    @property
    def files(self) -> tuple[str, ...]:
        """All names."""
        return (*self.train, *self.test, *self.meta)

    def download_command(self, data_dir: Path | None = None) -> str:
        """What to type to get these files, into a data directory that was named, quoted."""
        option = "" if self.kind == "cifar10" else f" --data {self.kind}"
        if data_dir is not None:
            option += f" --data-dir {shlex.quote(str(data_dir))}"
        return f"'cifar-tui data --download{option}'"


# MD5 of the files in the archives at https://www.cs.toronto.edu/~kriz/cifar.html
CIFAR10 = Layout(
    title="CIFAR-10",
    kind="cifar10",
    folder="cifar-10-batches-py",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
    labels_key=b"labels",
    names_key=b"label_names",
    classes=10,
)
CIFAR100 = Layout(
    title="CIFAR-100",
    kind="cifar100",
    folder="cifar-100-python",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
    labels_key=b"fine_labels",
    names_key=b"fine_label_names",
    classes=100,
)
LAYOUTS: Mapping[str, Layout] = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def detect(folder: Path) -> Layout | None:
    """Which archive a folder was unpacked from, if any, by its files' names."""
    for layout in LAYOUTS.values():
        if (folder / next(iter(layout.test))).is_file() and (
            folder / next(iter(layout.meta))
        ).is_file():
            return layout
        if (folder / next(iter(layout.train))).is_file():
            return layout
    return None


def missing(folder: Path, layout: Layout) -> tuple[str, ...]:
    """Names of files that are not there; nothing is read."""
    return tuple(name for name in layout.files if not (folder / name).is_file())


def read_train(folder: Path, layout: Layout) -> TrainSplit:
    """The official training split.

    Raises:
        DataError: a file is missing or does not have the official checksum.
    """
    return TrainSplit(*_read(folder, layout, layout.train))


def read_test(folder: Path, layout: Layout) -> TestSplit:
    """The official test split.

    Raises:
        DataError: as ``read_train``.
    """
    return TestSplit(*_read(folder, layout, layout.test))


def class_names(folder: Path, layout: Layout) -> tuple[str, ...]:
    """The official class names.

    Raises:
        DataError: as ``read_train``.
    """
    ((name, md5),) = layout.meta.items()
    values = _verified(folder / name, md5, layout)
    names = values.get(layout.names_key)
    if not isinstance(names, list) or not all(isinstance(x, bytes) for x in names):
        raise _unexpected(folder / name)
    return tuple(x.decode("ascii", "replace") for x in names)


def _read(folder: Path, layout: Layout, files: Mapping[str, str]) -> tuple[Images, Labels]:
    images, labels = [], []
    for name, md5 in files.items():
        values = _verified(folder / name, md5, layout)
        data, classes = values.get(b"data"), values.get(layout.labels_key)
        if (
            not isinstance(data, np.ndarray)
            or data.dtype != np.uint8
            or data.shape[1:] != (3072,)
            or not isinstance(classes, list)
            or len(classes) != len(data)
            or not all(isinstance(x, int) for x in classes)
        ):
            raise _unexpected(folder / name)
        images.append(data.reshape(-1, 3, 32, 32))
        labels.append(np.array(classes, np.int64))
    return np.concatenate(images), np.concatenate(labels)


def read_verified(path: Path, md5: str, layout: Layout) -> bytes:
    """A file's bytes.

    Raises:
        DataError: it is missing, or does not have this checksum.
    """
    if not path.is_file():
        raise DataError(
            f"{path.name} is missing in {path.parent}: delete the folder and run "
            f"{layout.download_command()}"
        )
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DataError(
            f"{path} does not have the official checksum and was not opened: delete the folder "
            f"and run {layout.download_command()}"
        )
    return content


def _verified(path: Path, md5: str, layout: Layout) -> dict[bytes, Any]:
    content = read_verified(path, md5, layout)
    try:
        values = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a pickle can raise anything
        raise _unexpected(path) from error
    if not isinstance(values, dict):
        raise _unexpected(path)
    return values


def _unexpected(path: Path) -> DataError:
    return DataError(f"{path} does not contain what {path.parent.name} has: unpack it again")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds arrays, dictionaries, lists and bytes, and refuses every other object."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _ARRAY_PARTS[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no array") from None

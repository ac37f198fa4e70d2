from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.data_helpers import (
    binary_layout,
    enter_checksums,
    pickled,
    python_folder,
    some_images,
    write_pickle,
)
from trainer.data import python_layout, sources
from trainer.data.binary import CIFAR10_CLASSES
from trainer.errors import DataError


class Hostile:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        import os

        return os.mkdir, (str(self.path),)


def test_verified_files_are_the_official_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_folder(tmp_path, monkeypatch)
    dataset = sources.load("cifar10", data_dir=tmp_path)
    assert dataset.kind == "cifar10"
    assert dataset.notices == ()
    assert dataset.classes == CIFAR10_CLASSES
    assert len(dataset.train.labels) == 100
    np.testing.assert_array_equal(dataset.train.images[20:40], some_images(20, 1))
    np.testing.assert_array_equal(dataset.test.images, some_images(20, 5))
    assert dataset.test.labels.tolist() == [(i + 5) % 10 for i in range(20)]
    assert sources.load_test("cifar10", data_dir=tmp_path).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_as_a_folder_and_as_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = python_folder(tmp_path, monkeypatch, kind)
    for source in (folder, tmp_path):
        data = sources.load_test(str(source))
        assert data.kind == kind == sources.available(str(source)).kind
    assert len(data.classes) == (10 if kind == "cifar10" else 100)


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python_folder(tmp_path, monkeypatch)
    monkeypatch.setenv("CIFAR_TUI_DATA", str(tmp_path))
    assert sources.default_data_dir() == tmp_path
    assert sources.load_test("cifar10").kind == "cifar10"
    assert sources.available("cifar10").path == tmp_path / "cifar-10-batches-py"


def test_a_wrong_checksum_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = python_folder(tmp_path, monkeypatch)
    file = folder / "data_batch_3"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(DataError, match="data_batch_3 does not have the official checksum"):
        sources.load("cifar10", data_dir=tmp_path)
    # the test split alone is intact
    assert len(sources.load_test("cifar10", data_dir=tmp_path).test.labels) == 20


def test_a_hostile_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = python_folder(tmp_path, monkeypatch)
    proof = tmp_path / "it ran"
    write_pickle(folder / "test_batch", Hostile(proof))
    with pytest.raises(DataError, match="checksum"):
        sources.load("cifar10", data_dir=tmp_path)
    assert not proof.exists()


def test_a_hostile_pickle_does_not_run_even_with_the_right_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = python_folder(tmp_path, monkeypatch)
    proof = tmp_path / "it ran"
    md5 = write_pickle(folder / "test_batch", Hostile(proof))
    enter_checksums(monkeypatch, "cifar10", {"test_batch": md5})
    with pytest.raises(DataError, match="test_batch"):
        sources.load("cifar10", data_dir=tmp_path)
    assert not proof.exists()
    # and the pickle is one that would have run
    pickle.loads((folder / "test_batch").read_bytes())
    assert proof.exists()


@pytest.mark.parametrize(
    "values",
    [
        [1, 2],
        {},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
        {b"data": np.zeros((2, 3072), np.float32), b"labels": [1, 1]},
        {b"data": np.zeros((2, 5), np.uint8), b"labels": [1, 1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [b"a", b"b"]},
    ],
)
def test_other_content_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: object
) -> None:
    folder = python_folder(tmp_path, monkeypatch)
    md5 = write_pickle(folder / "test_batch", values)
    enter_checksums(monkeypatch, "cifar10", {"test_batch": md5})
    with pytest.raises(DataError, match="does not contain"):
        sources.load_test("cifar10", data_dir=tmp_path)


def test_a_pickle_of_python_2_and_old_numpy_is_read(tmp_path: Path) -> None:
    content = pickled({"data": np.arange(6, dtype=np.uint8).reshape(2, 3)})
    assert b"numpy.core.multiarray" in content
    read = python_layout._ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    assert read[b"data"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = python_folder(tmp_path, monkeypatch)
    (folder / "data_batch_2").unlink()
    found = sources.available("cifar10", data_dir=tmp_path)
    assert not found.ready
    assert found.missing == ("data_batch_2",)
    assert "cifar-tui data --download" in found.message
    with pytest.raises(DataError, match="data_batch_2 is missing"):
        sources.load("cifar10", data_dir=tmp_path)


def test_no_cifar10_here_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        sources.load("cifar10", data_dir=tmp_path)
    line = str(raised.value)
    assert line == sources.available("cifar10", data_dir=tmp_path).message
    for part in (str(tmp_path), "'cifar-tui data --download --data-dir", "--data", "synthetic"):
        assert part in line
    hundred = sources.available("cifar100", data_dir=tmp_path)
    assert "--download --data cifar100" in hundred.message
    assert hundred.kind == "cifar100"


def test_unverified_files_never_stand_in_for_cifar10(tmp_path: Path) -> None:
    folder = binary_layout(tmp_path)
    with pytest.raises(DataError) as raised:
        sources.load("cifar10", data_dir=tmp_path)
    assert f"--data '{folder}'" in str(raised.value)
    assert not sources.available("cifar10", data_dir=tmp_path).ready

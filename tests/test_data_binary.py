from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data_helpers import binary_layout, records, some_images
from trainer.data import sources
from trainer.data.binary import CIFAR10_CLASSES
from trainer.errors import DataError


@pytest.mark.parametrize("parent", [True, False])
def test_folder_and_its_parent(tmp_path: Path, parent: bool) -> None:
    folder = binary_layout(tmp_path)
    dataset = sources.load(str(tmp_path if parent else folder))
    expected = np.concatenate([some_images(20, 1), some_images(20, 2)])
    np.testing.assert_array_equal(dataset.train.images, expected)
    np.testing.assert_array_equal(dataset.train.labels, np.tile(np.arange(20) % 10, 2))
    np.testing.assert_array_equal(dataset.test.images, some_images(10, 99))
    assert dataset.classes == CIFAR10_CLASSES
    assert sources.available(str(folder)).ready


def test_it_is_never_taken_for_the_official_files(tmp_path: Path) -> None:
    dataset = sources.load(str(binary_layout(tmp_path)))
    assert dataset.kind == "folder" == sources.available(str(tmp_path)).kind
    assert "not the official bytes" in dataset.source
    assert any("not verified" in notice for notice in dataset.notices)


def test_planes_are_red_green_blue_in_rows(tmp_path: Path) -> None:
    folder = binary_layout(tmp_path)
    record = bytearray(3073)
    record[0], record[1 + 2 * 1024 + 5 * 32 + 7] = 4, 200
    (folder / "test_batch.bin").write_bytes(bytes(record))
    test = sources.load_test(str(folder)).test
    assert test.labels.tolist() == [4]
    assert np.argwhere(test.images[0]).tolist() == [[2, 5, 7]]


def test_batches_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    dataset = sources.load(str(binary_layout(tmp_path, train=3, batches=11)))
    np.testing.assert_array_equal(dataset.train.images[-3:], some_images(3, 11))


def test_load_test_is_the_same_test_split(tmp_path: Path) -> None:
    binary_layout(tmp_path)
    whole, part = sources.load(str(tmp_path)), sources.load_test(str(tmp_path))
    assert part.fingerprint == whole.fingerprint
    assert part.classes == whole.classes
    assert (part.kind, part.source) == (whole.kind, whole.source)


def test_class_names_of_the_folder(tmp_path: Path) -> None:
    folder = binary_layout(tmp_path)
    names = [f"name {i}" for i in range(10)]
    (folder / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    data = sources.load_test(str(folder))
    assert data.classes == tuple(names)
    assert not any("named" in notice for notice in data.notices)
    (folder / "batches.meta.txt").write_text("\n".join([*names[:7], "cat", "cat", "cat"]))
    data = sources.load_test(str(folder))
    assert data.classes[7:] == ("cat", "cat (2)", "cat (3)")
    told = "several classes are named 'cat': class 8 is called 'cat (2)' here, and 1 more alike"
    assert data.notices[-1] == told
    (folder / "batches.meta.txt").write_text("only one\n")
    with pytest.raises(DataError, match="1 names, not 10"):
        sources.load_test(str(folder))
    (folder / "batches.meta.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        sources.load_test(str(folder))


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    folder = binary_layout(tmp_path)
    file = folder / "data_batch_2.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_2\.bin.*cut off"):
        sources.load(str(folder))
    file.write_bytes(b"")
    with pytest.raises(DataError, match="0 bytes"):
        sources.load(str(folder))


def test_a_label_out_of_range_is_named(tmp_path: Path) -> None:
    folder = binary_layout(tmp_path)
    wrong = records(some_images(3), np.array([0, 9, 10]))
    (folder / "test_batch.bin").write_bytes(wrong)
    with pytest.raises(DataError, match="image 2 has label 10"):
        sources.load_test(str(folder))


@pytest.mark.parametrize("name", ["data_batch_1.bin", "test_batch.bin"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    folder = binary_layout(tmp_path)
    (folder / name).unlink()
    found = sources.available(str(folder))
    assert not found.ready
    assert found.missing
    assert "copy it there" in found.message
    with pytest.raises(DataError, match=f"{name} is missing"):
        sources.load(str(folder))


def test_fewer_batches_than_the_official_ones_are_said(tmp_path: Path) -> None:
    folder = binary_layout(tmp_path, train=1, batches=3)
    pixels = np.zeros((10_000, 3, 32, 32), np.uint8)
    (folder / "data_batch_1.bin").write_bytes(records(pixels, np.arange(10_000) % 10))
    assert any("3 training files only" in x for x in sources.load(str(folder)).notices)


def test_test_images_among_the_training_images_are_said(tmp_path: Path) -> None:
    folder = binary_layout(tmp_path)
    assert not any("also training images" in x for x in sources.load(str(folder)).notices)
    (folder / "test_batch.bin").write_bytes((folder / "data_batch_1.bin").read_bytes())
    assert any("20 of 20 test images" in x for x in sources.load(str(folder)).notices)


def test_cifar100_has_two_label_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    fine = np.array([0, 99, 50])
    for name, seed in (("train.bin", 0), ("test.bin", 1)):
        (folder / name).write_bytes(records(some_images(3, seed), fine // 5, fine))
    dataset = sources.load(str(tmp_path))
    assert dataset.test.labels.tolist() == fine.tolist()
    assert len(dataset.classes) == 100
    np.testing.assert_array_equal(dataset.test.images, some_images(3, 1))
    (folder / "fine_label_names.txt").write_text("\n".join(f"n{i}" for i in range(100)))
    assert sources.load_test(str(folder)).classes[99] == "n99"


def test_two_data_sets_in_a_folder_are_ambiguous(tmp_path: Path) -> None:
    binary_layout(tmp_path)
    other = tmp_path / "cifar-100-binary"
    other.mkdir()
    (other / "train.bin").touch()
    with pytest.raises(DataError, match="several data sets"):
        sources.load(str(tmp_path))
    assert not sources.available(str(tmp_path)).ready

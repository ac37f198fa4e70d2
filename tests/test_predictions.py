from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import RunError
from trainer.runs import predictions
from trainer.runs.predictions import Predictions

PATH = Path("predictions") / "epoch-0001-plain.npz"


def made(images: int = 5, classes: int = 3) -> Predictions:
    rng = np.random.default_rng(0)
    return Predictions(
        probabilities=rng.dirichlet(np.ones(classes), images).astype(np.float16),
        labels=rng.integers(0, classes, images),
        split="test",
        fingerprint="f" * 64,
        epoch=1,
    )


def columns(**changes: object) -> dict[str, object]:
    good = made()
    return {
        "probabilities": good.probabilities,
        "labels": good.labels.astype(np.int16),
        "predicted": good.predicted.astype(np.int16),
        "split": np.array("test"),
        "fingerprint": np.array("f"),
        "epoch": np.array(1),
        **changes,
    }


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / PATH
    good = made()
    predictions.save(good, path)
    found = predictions.load(path)
    assert np.array_equal(found.probabilities, good.probabilities)
    assert found.probabilities.dtype == np.float16
    assert np.array_equal(found.labels, good.labels)
    assert np.array_equal(found.predicted, good.predicted)
    assert (found.split, found.fingerprint, found.epoch) == ("test", "f" * 64, 1)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no partial file stays"


def test_round_trip_of_many_classes(tmp_path: Path) -> None:
    good = replace(made(4, 1000), labels=np.array([0, 127, 128, 999]))
    good = replace(good, predicted=np.array([999, 128, 300, 127]))
    predictions.save(good, tmp_path / PATH)
    found = predictions.load(tmp_path / PATH)
    assert found.labels.tolist() == [0, 127, 128, 999]
    assert found.predicted.tolist() == [999, 128, 300, 127]


def test_wrong_are_the_misclassified_in_order() -> None:
    one = Predictions(
        probabilities=np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], np.float16),
        labels=np.array([1, 1, 0]),
        split="test",
        fingerprint="",
        epoch=1,
        predicted=np.array([0, 1, 1]),
    )
    assert one.wrong.tolist() == [0, 2], "a tie of float16 goes by the predicted class"


def test_a_full_disk_leaves_the_old_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / PATH
    predictions.save(made(), path)
    before = path.read_bytes()

    def fails(file: io.BufferedWriter, **arrays: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fails)
    with pytest.raises(OSError, match="No space"):
        predictions.save(made(9), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (exec, ("raise SystemExit('code of a file was run')",))


def refused(path: Path) -> str:
    with pytest.raises(RunError) as error:
        predictions.load(path)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)
    return str(error.value)


def test_missing(tmp_path: Path) -> None:
    assert "gone" in refused(tmp_path / "epoch-0001-plain.npz")


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    path.write_bytes(pickle.dumps(Hostile()))
    assert refused(path).endswith("it is no .npz file")


@pytest.mark.parametrize("column", sorted(columns()))
def test_an_object_array_is_not_unpickled(tmp_path: Path, column: str) -> None:
    path = tmp_path / "p.npz"
    hostile = np.array([Hostile()], dtype=object)
    np.savez(path, **columns(**{column: hostile}))  # type: ignore[arg-type]
    refused(path)


WRONG: list[dict[str, object]] = [
    {"probabilities": np.zeros((5, 3), np.float64)},
    {"probabilities": np.zeros((4, 3), np.float16)},
    {"probabilities": np.zeros(5, np.float16)},
    {"probabilities": np.zeros((5, 0), np.float16)},
    {"labels": np.full(5, 3)},
    {"labels": np.full(5, -1)},
    {"labels": np.zeros((5, 1))},
    {"labels": np.array(["a"] * 5)},
    {"labels": np.full(5, np.nan)},
    {"predicted": np.full(5, 99)},
    {"predicted": np.array(1)},
    {"epoch": np.array([1, 2])},
    {"epoch": np.array("one")},
    {"probabilities": np.full((5, 3), np.nan, np.float16)},
    {"probabilities": np.full((5, 3), -1, np.float16)},
]


@pytest.mark.parametrize("change", WRONG)
@pytest.mark.filterwarnings("error")
def test_a_wrong_shape_type_or_class(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "p.npz"
    np.savez(path, **columns(**change))  # type: ignore[arg-type]
    refused(path)


def test_a_wrong_kind_of_number_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    np.savez(path, **columns(probabilities=np.zeros((5, 3), np.float32)))  # type: ignore[arg-type]
    assert "hold float32, not float16" in refused(path)


@pytest.mark.parametrize("column", sorted(columns()))
def test_a_missing_column(tmp_path: Path, column: str) -> None:
    path = tmp_path / "p.npz"
    rest = {key: value for key, value in columns().items() if key != column}
    np.savez(path, **rest)  # type: ignore[arg-type]
    refused(path)


def test_an_array_instead_of_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    refused(path)


def test_an_archive_that_claims_to_be_huge(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    header = io.BytesIO()
    shape = {"descr": "<f2", "fortran_order": False, "shape": (10**9, 10**9)}
    np.lib.format.write_array_header_1_0(header, shape)  # type: ignore[arg-type]
    np.savez(path, **{k: v for k, v in columns().items() if k != "probabilities"})  # type: ignore[arg-type]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("probabilities.npy", header.getvalue() + b"\0" * 64)
    refused(path)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "p.npz"
    predictions.save(made(), path)
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore")  # numpy warns of some damage before it raises
@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_damage_is_refused_or_of_the_right_shape(
    tmp_path_factory: pytest.TempPathFactory, good: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    raw = bytearray(good)
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    for _ in range(data.draw(st.integers(0, 4))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    try:
        found = predictions.load(path)
    except RunError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert found.probabilities.shape == (len(found.labels), 3)

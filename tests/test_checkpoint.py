from __future__ import annotations

import pickle
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
import torch

from tests.checkpoint_helpers import save_checkpoint
from trainer.errors import RunError
from trainer.runs import checkpoint


def test_a_round_trip_gives_the_same_tensors(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.pt"
    weight = torch.randn(3, 4)
    save_checkpoint({"net": {"w": weight}, "position": {"step": 7}}, path)
    state = checkpoint.load(path)
    assert torch.equal(state["net"]["w"], weight)
    assert state["position"] == {"step": 7}
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


def test_a_hostile_checkpoint_does_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(trap), "w")

    for name, write in {
        "zip.pt": lambda p: torch.save({"format": 1, "net": Hostile()}, p),
        "pickle.pt": lambda p: p.write_bytes(pickle.dumps(Hostile())),
    }.items():
        write(tmp_path / name)
        with pytest.raises(RunError):
            checkpoint.load(tmp_path / name)
    assert not trap.exists()


def test_damage_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint({"net": {"w": torch.randn(100)}}, path)
    whole = path.read_bytes()
    for part in (b"", b"junk", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(part)
        with pytest.raises(RunError) as error:
            checkpoint.load(path)
        assert "\n" not in str(error.value)
    with pytest.raises(RunError, match="no checkpoint"):
        checkpoint.load(tmp_path / "gone.pt")
    torch.save({"format": 99}, path)
    with pytest.raises(RunError, match="format"):
        checkpoint.load(path)


def test_a_flipped_bit_is_damage() -> None:
    state = {"net": {"w": torch.randn(100)}, "position": {"step": 7}}
    whole = bytes(checkpoint.pack(state))
    assert torch.equal(checkpoint.unpack(whole, "last.pt")["net"]["w"], state["net"]["w"])
    places = state["net"]["w"].numpy().tobytes(), b"position", b"step"
    for at in (whole.index(place) for place in places):
        flipped = bytearray(whole)
        flipped[at] ^= 1
        with pytest.raises(RunError, match="damaged"):
            checkpoint.unpack(bytes(flipped), "last.pt")


@pytest.mark.parametrize("bomb", ["compressed", "twice"])
def test_an_archive_that_unpacks_to_more_than_it_has_is_not_unpacked(
    monkeypatch: pytest.MonkeyPatch, bomb: str
) -> None:
    whole = BytesIO(checkpoint.pack({"a": 1}))
    with zipfile.ZipFile(whole, "a") as archive:
        way = zipfile.ZIP_DEFLATED if bomb == "compressed" else zipfile.ZIP_STORED
        archive.writestr("archive/data/0", bytes(1 << 16), way)
        if bomb == "twice":
            archive.filelist += [archive.filelist[-1]] * 9
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("unpacked"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpacked"))
    with pytest.raises(RunError, match="damaged"):
        checkpoint.unpack(whole.getvalue(), "last.pt")


def test_a_failed_write_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint({"step": 1}, path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.runs.checkpoint.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint({"step": 2}, path)
    assert checkpoint.load(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]

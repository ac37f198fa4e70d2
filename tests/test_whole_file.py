"""Files that are whole or not there, and never written through links."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.training_helpers import tiny_dataset, tiny_run
from trainer.errors import RunError
from trainer.files.whole_file import whole_file
from trainer.inspection import features
from trainer.lifecycle.session import train_run
from trainer.lifecycle.submit import resubmit
from trainer.runs import checkpoint, predictions
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.bin"
    with whole_file(path) as file:
        file.write(b"old")

    def fails() -> None:
        with whole_file(path) as file:
            file.write(b"new")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half"):
        fails()
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_two_writers_of_one_number_do_not_mix(tmp_path: Path) -> None:
    """Two containers with one folder in common number their processes alike."""
    path = tmp_path / "file.bin"
    with whole_file(path) as first:
        first.write(b"first, all of it")
        with whole_file(path) as second:
            second.write(b"sec")
            second.flush()
            assert not path.exists()
            second.write(b"ond")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first, all of it"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_a_link_in_the_way_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "run" / "file.bin"
    path.parent.mkdir()
    path.symlink_to(victim)
    with monkeypatch.context() as patch:
        patch.setattr(os, "urandom", bytes)
        path.with_name(f".{os.getpid()}-00000000.partial").symlink_to(victim)
        with pytest.raises(FileExistsError), whole_file(path) as file:
            file.write(b"new")
    with whole_file(path) as file:
        file.write(b"new")
    assert victim.read_text() == "precious"
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()
    folder = tmp_path / "linked"
    folder.symlink_to(tmp_path / "run")
    with pytest.raises(OSError, match="link"), whole_file(folder / "x"):
        pass


def test_a_run_of_others_cannot_have_a_file_written_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)
    run = tiny_run(tmp_path / "runs")
    control = Control(run)
    control.request("stop")
    train_run(run, control)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(os, "urandom", bytes)
    names = "config", "cache/folded", "cache/features-last", "checkpoints/last", "predictions/p"
    for name in names:
        place = run.path / f"{name}.{os.getpid()}-00000000.partial"
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(victim)
    with suppress(RunError, OSError):  # it was stopped before there was a checkpoint
        resubmit(run, processes=2)
    with suppress(OSError):
        Follower(run).keep_growing()
    assert victim.read_text() == "precious"
    assert RunDir(run.path).config.is_file()
    assert not run.config.is_symlink()


def test_who_saves_in_a_run_uses_it() -> None:
    for module in (checkpoint, features, predictions):
        assert module.whole_file is whole_file

"""Of two runs on the same cores the later one gives way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.import_helpers import ROOT
from trainer.loop import cores

TELL = "from trainer.loop import cores; cores.give_way(); import os; print(os.environ.get({!r}))"


def given(name: str = "GOMP_SPINCOUNT", first: str = "") -> str:
    """What a new process has in its environment when it has looked around."""
    program = f"{first}\n{TELL.format(name)}"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@contextmanager
def trains() -> Iterator[None]:
    cores.take()
    cores.take()  # once more, as the next run of a process does
    try:
        yield
    finally:
        cores.leave()


def test_who_comes_later_gives_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # no lock of a process that an earlier test has left behind
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert given() == "None\n"
    with trains():
        assert given() == f"{cores.TURNS}\n"
        assert given(first="import torch") == "None\n", "it has been read by then"
        monkeypatch.setenv("OMP_WAIT_POLICY", "active")
        assert given() == "None\n", "the user knows better"
        monkeypatch.delenv("OMP_WAIT_POLICY")
        monkeypatch.setenv("GOMP_SPINCOUNT", "7")
        assert given() == "7\n"
        monkeypatch.delenv("GOMP_SPINCOUNT")
    assert given() == "None\n"


def test_a_cache_that_cannot_be_written_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("cache") / "a file"
    file.touch()
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    with trains():
        assert given() == "None\n"

"""What all tests share."""

from __future__ import annotations

import signal

import pytest

from trainer import stall

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # started in the background by a shell: programs under test would be deaf to it as well
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_stalls_of_old_samples(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples of running runs carry a fixed date: to the clock they have stalled for long."""
    module = request.module.__name__.rpartition(".")[2]
    if module.startswith(("test_tui_", "test_snapshots")) and module != "test_tui_alerts":
        monkeypatch.setattr(stall, "SHORTEST", float("inf"))

"""What all tests share."""

from __future__ import annotations

import signal

import pytest

from trainer import stall

# started in the background or under nohup: programs under test would be deaf to these as well
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def no_stalls_of_old_samples(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples of running runs carry a fixed date: to the clock they have stalled for long."""
    module = request.module.__name__.rpartition(".")[2]
    if module.startswith(("test_tui_", "test_snapshots")) and module != "test_tui_alerts":
        monkeypatch.setattr(stall, "SHORTEST", float("inf"))

"""Opening the app or asking for help must not wait for torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.import_helpers import modules_after

TORCH_FREE = [
    "tui.app",
    "tui.runs.store",
    "trainer.cli.main",
    "trainer.config",
    "trainer.runs.control",
    "trainer.runs.eta",
    "trainer.events",
    "trainer.runs.follower",
    "trainer.runs.predictions",
    "trainer.lifecycle.prepare",
    "trainer.presets.catalog",
    "trainer.runs.rundir",
    "trainer.runs.runlog",
    "trainer.runs.runstate",
    "trainer.lifecycle.session",
    "trainer.lifecycle.submit",
    "trainer.worker.worker",
    "model.registry",
    "model.user_file",
]


def heavy(modules: set[str]) -> set[str]:
    return modules & {"torch", "torchvision", "PIL", "plotext"}


def test_the_check_sees_torch() -> None:
    assert "json" in modules_after("import json")
    assert heavy({"torch", "sys"}) == {"torch"}


@pytest.mark.parametrize("module", TORCH_FREE)
def test_importing_loads_no_torch(module: str) -> None:
    loaded = modules_after(f"import {module}")
    assert module in loaded
    assert not heavy(loaded)


def test_reading_a_log_loads_no_torch_and_no_widgets(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from trainer.config import RunConfig\n"
        "from trainer.lifecycle.submit import submit; from trainer.runs.follower import Follower\n"
        "Follower(submit(RunConfig(), Path(sys.argv[1]))).catch_up()"
    )
    loaded = modules_after(script, str(tmp_path))
    assert not heavy(loaded)
    assert "textual" not in loaded

"""Stalls and alerts in the app."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tui_helpers import append, held, make_app, make_run, until
from trainer import events
from trainer.lifecycle.alerts import AlertSettings
from tui import formatting, themes
from tui.app import CifarApp
from tui.runs import store
from tui.widgets.run_header import RunHeader


def app_of(runs_dir: Path, settings: AlertSettings) -> tuple[CifarApp, list[str]]:
    app = make_app(runs_dir, alerts=settings)
    written: list[str] = []
    app.write_to_terminal = written.append  # type: ignore[method-assign, assignment]
    return app, written


def progress(step: int) -> events.Progress:
    return events.Progress(phase="train", epoch=3, step=step, done=1, total=8, loss=1.0)


def test_a_stall_in_eleven_cells() -> None:
    for seconds in (31, 59, 60, 3600, 86_399, 86_400 * 40, 10**9):
        text = themes.state_text("training", {}, stalled=seconds, narrow=True)
        assert text.cell_len <= 11
    assert themes.state_text("training", {}, stalled=45).plain == "▶ stalled 45 s"
    assert formatting.brief(45) == "45s"
    assert formatting.brief(7199) == "1h"


@pytest.mark.parametrize("size", [(160, 50), (80, 24)])
async def test_a_stall_is_shown_until_the_next_step(tmp_path: Path, size: tuple[int, int]) -> None:
    run = make_run(tmp_path / "runs", epochs=9, done=2, end=None)
    app, _ = app_of(tmp_path / "runs", AlertSettings())

    def header() -> str:
        found = app.screen.query(RunHeader)
        return "" if not found else "\n".join(s.text for s in found.first()._strips)

    with held(run):
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.store.get(run.id) is not None)
            await until(pilot, lambda: "stalled" in app.export_screenshot())
            await pilot.press("2")
            await until(pilot, lambda: "stalled" in header())
            append(run, progress(17))
            await until(pilot, lambda: "training" in header())
            assert "stalled" not in header()


async def test_what_was_chosen_calls_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-kitty")
    monkeypatch.delenv("TMUX", raising=False)
    make_run(tmp_path / "runs", seed=1, created=-100)
    run = make_run(tmp_path / "runs", epochs=9, done=2, end=None, name="[b]it[/b]\x1b[31m")
    app, written = app_of(tmp_path / "runs", AlertSettings(when=("end", "nan")))
    with held(run):
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: run.id in app.caller._watchers)
            append(run, progress(17))
            await pilot.pause(0.6)
            assert not written, "a stall that is over, and a finished run, are not called out"
            nan = events.Notice(level="error", code="not-a-number", message="the loss is \x1bnan")
            append(run, nan)
            await until(pilot, lambda: written)
            append(run, events.RunEnded(state="failed", error="the loss"))
            await until(pilot, lambda: len(written) == 2)
            await pilot.pause(0.6)
    assert written == [
        "\a\x1b]9;cifar-tui: [b]it[/b][31m: the loss is nan\a",
        "\a\x1b]9;cifar-tui: [b]it[/b][31m: failed: the loss\a",
    ]


async def test_the_command_at_the_end_goes_to_the_trainer(tmp_path: Path) -> None:
    app, _ = app_of(tmp_path / "runs", AlertSettings(on_end="notify me"))
    assert app.worker._on_end == "notify me"


async def test_damaged_runs_are_listed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SUBMIT_SECONDS", 0.3)  # as if they were made a while ago
    runs_dir = tmp_path / "runs"
    good = make_run(runs_dir, seed=1, name="good one")
    empty, garbage = (make_run(runs_dir, seed=seed, created=seed) for seed in (2, 3))
    empty.log.write_bytes(b"")
    garbage.log.write_bytes(b"\xff\x1b[2J\n" * 20)
    folder = make_run(runs_dir, seed=4, created=4)
    folder.log.unlink()
    folder.log.mkdir()
    app, _ = app_of(runs_dir, AlertSettings())
    async with app.run_test(size=(160, 50)) as pilot:

        def shown() -> str:
            return app.export_screenshot().replace("&#160;", " ")

        await until(pilot, lambda: shown().count("damaged") >= 3)
        for reason in ("the log is empty", "no line of the log can be read", "it is no file"):
            assert reason in shown()
        assert "good one" in shown()
        app.open_run(garbage.id)
        await until(pilot, lambda: "no line of the log" in shown())
        assert "damaged" in shown()
        assert "crashed" not in shown()
        assert app.store.get(good.id) is not None

"""The dashboard in a test: opened, read, and what an epoch ends with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from textual.pilot import Pilot

from tests.tui_helpers import make_app, until
from trainer import events
from tui.app import CifarApp
from tui.screens.charts import ChartScreen
from tui.screens.dashboard import DashboardScreen
from tui.widgets.curve_chart import CurveChart
from tui.widgets.lines import Lines

LARGE, MIDDLE, SMALL = (160, 50), (120, 40), (80, 24)
SIZES = [LARGE, MIDDLE, SMALL]


@asynccontextmanager
async def dashboard(
    runs_dir: Path, size: tuple[int, int] = LARGE
) -> AsyncIterator[tuple[CifarApp, Pilot[None]]]:
    app = make_app(runs_dir)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: len(app.store) and not app.store.loading)
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
        await drawn(pilot, app)
        yield app, pilot


async def drawn(pilot: Pilot[None], app: CifarApp) -> None:
    """Until all charts of the screen are drawn."""
    screen = app.screen
    assert isinstance(screen, ChartScreen)
    await until(pilot, lambda: screen._drawn is not None)
    await until(pilot, lambda: not screen._waiting and screen._due is None)
    await pilot.pause()


def text(app: CifarApp, where: str) -> str:
    widget = app.screen.query_one(where, Lines)
    return "\n".join(widget.render_line(y).text for y in range(widget.size.height))


def chart(app: CifarApp, name: str) -> CurveChart:
    return app.screen.query_one(f"#{name}", CurveChart)


def epoch_ended(epoch: int, steps: int = 8) -> list[events.Event]:
    return [
        events.EpochEnded(
            epoch=epoch,
            step=epoch * steps,
            loss=0.5,
            accuracy=0.8,
            lr=0.1,
            seconds=2.0,
            images_per_second=1000.0,
        ),
        evaluated(epoch, 0.99, steps=steps),
    ]


def evaluated(
    epoch: int, accuracy: float, variant: events.Variant = "plain", steps: int = 8
) -> events.EvalEnded:
    return events.EvalEnded(
        epoch=epoch,
        step=epoch * steps,
        split="test",
        variant=variant,
        loss=0.4,
        accuracy=accuracy,
        correct=round(200 * accuracy),
        images=200,
        per_class=(accuracy,) * 10,
        confusion=((20,) * 10,) * 10,
        seconds=0.5,
    )

"""Ways into the comparison of two models: two marked runs, or two evaluations of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.events import PredictionsSaved
from trainer.runs.follower import Follower
from trainer.runs.runstate import RunState
from tui import formatting
from tui.images import evaluations
from tui.images.difference import Side

if TYPE_CHECKING:
    from tui.app import CifarApp


def marked_runs(app: CifarApp) -> None:
    """The newest evaluations of the two marked runs, in the order they were marked."""
    runs = app.store.marked()
    if len(runs) != 2:
        count = {0: "no run is", 1: "only one run is"}.get(len(runs), f"{len(runs)} runs are")
        app.tell(f"mark exactly two runs to put them side by side (1, then space): {count} marked")
        return
    _show(app, Side(runs[0].run.id), Side(runs[1].run.id), back="compare")


def evaluations_of(app: CifarApp, run: Follower | None, saved: PredictionsSaved | None) -> None:
    """Ask which other evaluation of the run this one is put beside; the earlier comes first."""
    if run is None or saved is None or saved not in run.state.predictions:
        app.tell("there is no evaluation of this run to put beside another")
        return
    listed = list(run.state.predictions)
    if len(listed) < 2:
        app.tell("this run has no other evaluation: mark two runs (1, space), then 5 and d")
        return
    from tui.screens.dialogs import Choice

    at = listed.index(saved)
    before = listed[at - 1 if at else 1]

    def answered(answer: str | None) -> None:
        if answer is None:
            return
        sides = []
        for one in sorted((saved, listed[int(answer)]), key=listed.index):
            newest = one == evaluations.newest(run.state)
            sides.append(Side(run.run.id, None if newest else one))
        _show(app, *sides, back="mistakes")

    choices = [
        ("", str(i), _line(run.state, one)) for i, one in enumerate(listed) if one is not saved
    ]
    dialog = Choice(
        f"Epoch {saved.epoch} beside which evaluation?",
        "enter takes it, escape cancels",
        choices,
        chosen=str(listed.index(before)),
        about=run.run.id,
    )
    app.push_screen(dialog, answered)


def _line(state: RunState, saved: PredictionsSaved) -> str:
    """An evaluation in a list: epoch, variant, accuracy where the log has it."""
    same = (e for e in state.evals if (e.step, e.variant) == (saved.step, saved.variant))
    known = next(same, None)
    variant = "" if saved.variant == "plain" else f" ({saved.variant})"
    accuracy = formatting.percent(known.accuracy) if known is not None else ""
    return f"epoch {saved.epoch}{variant}  {accuracy}"


def _show(app: CifarApp, first: Side, second: Side, *, back: str) -> None:
    from tui.screens.difference import DifferenceScreen

    # in the place of the screen below, so that the numbers 1 to 5 go on from here as well
    app.switch_screen(DifferenceScreen(first, second, back=back))

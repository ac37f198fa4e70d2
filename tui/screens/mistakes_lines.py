"""The lines around the images of the mistakes screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from trainer.analysis.mistakes import Sort
from trainer.events import NOT_SAVED
from trainer.runs.follower import Follower
from trainer.runs.runstate import ACTIVE
from tui import run_words
from tui.formatting import clean
from tui.images import evaluations
from tui.images.evaluations import Evaluation

if TYPE_CHECKING:
    from tui.widgets.mistake_grid import MistakeGrid


def why_nothing(run: Follower | None, problem: str) -> str:
    """Why there are no mistakes to see; empty when there are, or when they are being read."""
    if run is None:
        return "No run is chosen: start one with s, or choose one in the list (1)."
    if not run.state.predictions:
        if run_words.damaged(run):
            return f"Nothing is known of this run: {run.problem}."
        if run.state.told(f"predictions{NOT_SAVED}"):
            return "The predictions of this run's evaluations were not saved: see its notices."
        if run.status in ACTIVE:
            return "The first mistakes appear after the run's first evaluation."
        some = " is incomplete, and" if run.damaged or run.state.incomplete else ""
        return f"This run's log{some} tells of no evaluation with its images."
    if problem:
        others = "; [ and ] go to other evaluations" if len(run.state.predictions) > 1 else ""
        return clean(problem, 300) + others
    return ""


def title(
    run: Follower | None,
    found: Evaluation | None,
    colours: dict[str, str],
    problem: str = "",
    *,
    stays: bool = False,
) -> Text:
    """Run, data, epoch, accuracy with its split.

    Args:
        problem: why there is no evaluation.
        stays: a newer one is there, and will be shown later, or when its key is pressed.
    """
    text = Text(no_wrap=True)
    if run is None or run.state.queued is None:
        return text
    text.append(f" {clean(run.name, 30)}", style="bold")
    style = colours["secondary" if run.state.real_data else "warning"]
    text.append(f"  {run_words.data_of(run)}", style=style)
    if found is not None:
        remark, newest = ("", ""), evaluations.newest(run.state)
        if found.saved is newest:
            remark = (" newest", colours["secondary"])
        elif stays and newest is not None:
            remark = (f", {newest.epoch} is there: ]", colours["warning"])
        text.append_text(run_words.evaluation(found, colours, remark))
    elif run.state.predictions and not problem:
        text.append("  reading…", style=colours["secondary"])
    return text


def page(
    grid: MistakeGrid,
    colours: dict[str, str],
    *,
    sort: Sort,
    turned: bool,
    wrong_only: bool,
    where: str,
    about: str = "",
) -> Text:
    """How many images, in which order, which page, what is filtered, what people say."""
    text = Text(no_wrap=True)
    at, pages = grid.pages
    text.append(f" {grid.count:,} {'mistakes' if wrong_only else 'images'}", style="bold")
    text.append(f"  sorted by {sort}{'▲' if turned else '▼'}")
    text.append(f"  page {at:,} of {pages:,}", style=colours["secondary"])
    if grid.chosen is not None:
        text.append(f"  #{grid.chosen}", style=colours["secondary"])
    if where:
        text.append(f"  only {clean(where, 60)}", style=colours["primary"])
    if about:
        text.append(f"  {about}", style=colours["secondary"])
    return text

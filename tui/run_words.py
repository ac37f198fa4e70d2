"""What runs and their evaluations are called, the same on all screens. No widgets, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from trainer.runs.follower import Follower
from trainer.runs.runstate import ACTIVE
from tui import formatting, themes
from tui.formatting import DASH

if TYPE_CHECKING:
    from tui.images.evaluations import Evaluation


def name_of(run: Follower) -> str:
    """A run's name, else its id."""
    return formatting.clean(run.name)


def run_name(run: Follower) -> str:
    """A run's name for a sentence."""
    return formatting.clean(run.name, 40)


def norm_of(model: str, norm: str | None) -> str | None:
    """The norm that was asked for; ``None`` where a net of the user's own may well have none."""
    from model.user_file import is_file  # not for the first paint

    return None if norm == "batch" and is_file(model) else norm


def model_of(run: Follower) -> str:
    """The net's name as it was asked for."""
    return formatting.clean(run.state.queued.model if run.state.queued else "")


def data_of(run: Follower) -> str:
    """What the images of a run are: as its trainer found them, before that as asked for."""
    kind = run.state.data_kind
    return formatting.data_label(kind) if kind else DASH


def damaged(run: Follower) -> bool:
    """Whether nothing of its log can be read."""
    return bool(run.problem) and run.status == "crashed"


def state_of(
    run: Follower, colours: dict[str, str], *, asked: str = "", narrow: bool = False
) -> Text:
    """The state of a run; ``asked`` and ``narrow`` as ``themes.state_text`` has them."""
    if damaged(run):
        return Text("✗ damaged", style=Style(color=colours.get("error")), no_wrap=True, end="")
    return themes.state_text(run.status, colours, asked=asked, stalled=run.stalled, narrow=narrow)


def time_of(run: Follower) -> str:
    """Time of training: while it grows it changes once a second at most."""
    running = run.status in ACTIVE
    return formatting.duration(run.state.elapsed, tenths=not running) if run.state.started else DASH


def evaluation(
    found: Evaluation, colours: dict[str, str], remark: tuple[str, str] = ("", "")
) -> Text:
    """For a title: epoch and variant, a remark (words, style), accuracy with its split."""
    text = Text(no_wrap=True)
    variant = "" if found.saved.variant == "plain" else f" ({found.saved.variant})"
    text.append(f"  epoch {found.saved.epoch}{variant}", style=f"bold {colours['primary']}")
    text.append(*remark)
    wrong = int(found.images.wrong.sum())
    text.append(f"  test accuracy {formatting.percent(found.accuracy)}")
    return text.append(f", {wrong:,} of {len(found.images):,} wrong")

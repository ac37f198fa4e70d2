"""Two evaluations put side by side, and what is said of them in words. Torch-free, no widgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.text import Text

from trainer.analysis import calibration as calibrations
from trainer.analysis import model_diff
from trainer.analysis.calibration import Calibration
from trainer.analysis.mistakes import Indices
from trainer.analysis.model_diff import ModelDiff
from trainer.errors import UserError
from trainer.events import PredictionsSaved
from trainer.runs.follower import Follower
from trainer.runs.runstate import RunState
from tui import formatting, run_words
from tui.images import evaluations
from tui.images.evaluations import Evaluation

SIGNIFICANT = 0.05
GROUPS = (
    ("fixed", "fixed", "only the second right"),
    ("broken", "broken", "only the first right"),
    ("both_wrong", "both wrong", "neither right"),
    ("same_mistake", "· same class", "taken for the same class"),
    ("both_right", "both right", ""),
)
"""Sets of images: their names in ``ModelDiff``, what they are called, what that means."""


@dataclass
class Side:
    """What is compared: an evaluation of a run."""

    run: str
    chosen: PredictionsSaved | None = None
    """``None``: the newest, whichever that is."""

    def wanted(self, state: RunState) -> PredictionsSaved | None:
        """The evaluation; the newest where the chosen one is gone: the run was resumed earlier."""
        if self.chosen is not None and self.chosen not in state.predictions:
            self.chosen = None
        return self.chosen or evaluations.newest(state)

    def step(self, state: RunState, step: int) -> None:
        """The evaluation before, or after; at the last one the newest is followed."""
        listed, now = state.predictions, self.wanted(state)
        if now is None:
            return
        at = max(0, min(listed.index(now) + step, len(listed) - 1))
        self.chosen = None if listed[at] == evaluations.newest(state) else listed[at]


@dataclass(frozen=True, eq=False)
class Difference:
    """What is known once both sides are read, or one of them."""

    sides: tuple[Evaluation | None, Evaluation | None] = (None, None)
    found: ModelDiff | None = None
    problem: str = ""
    """Why both were read, and cannot be compared."""
    calibrations: tuple[Calibration | None, Calibration | None] = field(default=(None, None))

    def group(self, name: str) -> Indices:
        """Images of a set; those first whose actual class changed its probability most."""
        if self.found is None:
            return np.empty(0, np.int64)
        return self.ordered(getattr(self.found, name))

    def cell(self, actual: int, predicted: int) -> Indices:
        """Images of a cell of the confusion matrix in one model and not in the other."""
        if self.found is None:
            return np.empty(0, np.int64)
        first, second = self.found.first, self.found.second
        moved = (first.predicted == predicted) != (second.predicted == predicted)
        return self.ordered(np.flatnonzero(moved & (first.labels == actual)))

    def ordered(self, chosen: Indices) -> Indices:
        """By the change of the actual class's probability, the largest first; ties by index."""
        first, second = self.sides
        if first is None or second is None:
            return chosen
        change = np.abs(second.images.p_actual - first.images.p_actual)[chosen]
        return chosen[np.argsort(-change, kind="stable")]


def between(first: Evaluation | None, second: Evaluation | None) -> Difference:
    """Compare two evaluations as far as they are there: each alone has its calibration."""
    sides = first, second
    calibrated = tuple(
        None if one is None else calibrations.calibration(one.images.confidence, ~one.images.wrong)
        for one in sides
    )
    found, problem = None, ""
    if first is not None and second is not None:
        try:
            found = model_diff.compare(first.images.source, second.images.source)
        except UserError as error:
            problem = str(error)
    return Difference(sides, found, problem, (calibrated[0], calibrated[1]))


# ---- words --------------------------------------------------------------------------------------


def title(
    number: int,
    follower: Follower | None,
    side: Side,
    found: Evaluation | None,
    problem: str,
    colours: dict[str, str],
    *,
    with_id: bool,
) -> Text:
    """A side in one line: which, its run, epoch, accuracy; or why there is none."""
    text = Text(no_wrap=True)
    text.append(
        f" {number} ", style=f"bold {colours['background']} on {side_colour(number, colours)}"
    )
    if follower is None:
        return text.append(f" the run {formatting.clean(side.run, 40)} is gone")
    text.append(f" {formatting.clean(follower.name, 30)}", style="bold")
    if not follower.state.real_data:
        text.append(f"  {run_words.data_of(follower)}", style=colours["warning"])
    if with_id:
        text.append(f" {formatting.clean(side.run, 40)}", style=colours["secondary"])
    saved = side.wanted(follower.state)
    if saved is None and follower.partial:
        return text.append("  reading…", style=colours["secondary"])
    if saved is None:
        return text.append("  no predictions of this run are there", style=colours["warning"])
    if problem:
        text.append(f"  epoch {saved.epoch}  ")
        return text.append(formatting.clean(problem, 200), style=colours["error"])
    if found is None:
        return text.append(f"  epoch {saved.epoch}  reading…", style=colours["secondary"])
    remark = (" newest", colours["secondary"]) if side.chosen is None else ("", "")
    return text.append_text(run_words.evaluation(found, colours, remark))


def side_colour(number: int, colours: dict[str, str]) -> str:
    """The colour of the first or the second model, wherever both are seen."""
    return colours["primary" if number == 1 else "accent"]


def group_line(index: int, difference: Difference, colours: dict[str, str]) -> Text:
    """A set of images: name, how many, share, meaning."""
    name, words, meaning = GROUPS[index]
    found = difference.found
    assert found is not None
    count, total = len(getattr(found, name)), max(1, len(found.first.labels))
    style = {"fixed": colours["success"], "broken": colours["error"]}.get(name, "")
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{words:<12}", style=f"bold {style}".strip())
    text.append(f" {count:>7,} {formatting.percent(count / total):>8}")
    return text.append(f"  {meaning}", style=colours["secondary"])


def verdict(found: ModelDiff) -> str:
    """McNemar's exact p-value with what it says."""
    fixed, broken = len(found.fixed), len(found.broken)
    if not fixed + broken:
        return "Both are right on the same images: McNemar's test has nothing to weigh."
    p = found.p_value
    figures = f"McNemar's exact {found.p_words}: "
    apart = (
        f"of {fixed + broken:,} images on which one alone is right, {fixed:,} fall to the second"
    )
    if p < SIGNIFICANT:
        better = "second" if fixed > broken else "first"
        return (
            f"{figures}{apart}. Equally good models would differ at least so far with this "
            f"probability: the {better} is better on these images."
        )
    return (
        f"{figures}{apart}. Equally good models would often differ as far: "
        "this does not show that one is better."
    )


def calibration_lines(known: Calibration, width: int) -> tuple[str, str]:
    """Expected calibration error with its bins; confidence beside accuracy."""
    bins = len(known.bins)
    head = f"expected calibration error {formatting.percent(known.error)} ({bins} bins)"
    if len(head) > width:
        head = f"ECE {formatting.percent(known.error)} ({bins} bins)"
    line = f"confidence {formatting.percent(known.confidence, 1)}, "
    line += f"accuracy {formatting.percent(known.accuracy, 1)}"
    if known.confidence is not None and known.accuracy is not None:
        more = known.confidence - known.accuracy
        sure = "overconfident" if more > 0 else "underconfident" if more < 0 else ""
        if sure and len(line) + len(sure) + 2 <= width:
            line += f": {sure}"
    return head, line


def changed_most(found: ModelDiff, classes: Sequence[str], top: int) -> list[str]:
    """The confusions that changed most, ``cat → dog +12``."""
    change = found.confusion.copy()
    np.fill_diagonal(change, 0)
    order = np.argsort(-np.abs(change), axis=None, kind="stable")[:top].tolist()
    places = [divmod(flat, len(change)) for flat in order]
    return [
        f"{formatting.clean(classes[a], 12)} → {formatting.clean(classes[p], 12)} {change[a, p]:+,}"
        for a, p in places
        if change[a, p]
    ]

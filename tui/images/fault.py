"""Whose fault the mistakes are: sets of images by model and people, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.text import Text

from trainer.analysis import human, label_doubt, review
from trainer.analysis.human import People
from trainer.analysis.mistakes import Mistakes, Sort
from trainer.analysis.review import Review
from tui.formatting import clean, percent

QUADRANTS = (
    ("wrong_sure", "model wrong, people sure", "wrong sure", "the model's own fault"),
    ("wrong_doubt", "model wrong, people doubt", "wrong unsure", "people doubt these labels too"),
    ("right_sure", "model right, people sure", "right sure", "easy"),
    ("right_doubt", "model right, people doubt", "right unsure", "learned, though people doubt"),
)
"""Name in the analysis, words, filter, meaning."""


@dataclass(frozen=True)
class Group:
    """A set of images that can be opened."""

    name: str
    words: str
    meaning: str
    where: str
    """The filter that finds exactly these images among all."""
    count: int
    of: int
    """Images that could have been in it."""
    sort: Sort


@dataclass(frozen=True)
class Fault:
    """What is known of an evaluation: sets of images, and sentences."""

    groups: tuple[Group, ...]
    lines: tuple[str, ...]


def fault(images: Mistakes) -> Fault:
    """By people and by label review, where they are known; without people a guess."""
    groups: list[Group] = []
    lines: list[str] = []
    if images.people is not None:
        _by_people(images, images.people, groups, lines)
    if images.review is not None:
        _by_review(images, images.review, groups, lines)
    if images.people is None:
        _by_guess(images, groups, lines)
    return Fault(tuple(groups), tuple(lines))


def _by_people(images: Mistakes, people: People, groups: list[Group], lines: list[str]) -> None:
    found = human.quadrants(images.wrong, people)
    asked = len(images) - len(found.unasked)
    groups += [
        Group(name, words, meaning, where, found.counts[name], asked, "human")
        for name, words, where, meaning in QUADRANTS
    ]
    lines.append(
        f"People are sure of a label when at least {100 * human.SURE:.0f} % of them say it, and "
        "doubt it otherwise."
    )
    if found.doubted_share is not None:
        lines.append(f"Of the mistakes, people doubt {percent(found.doubted_share)} as well.")
    rank = human.entropy_correlation(images.entropy, people)
    known = "not defined" if rank is None else f"{rank:.2f}"
    lines.append(
        "Is the model unsure where people are? Entropy of the model's and of the people's "
        f"answers, Spearman's rank correlation: {known}."
    )
    if len(found.unasked):
        count = len(found.unasked)
        lines.append(f"Nobody was asked about {count:,} image{'s' * (count != 1)}.")


def _by_review(images: Mistakes, reviewed: Review, groups: list[Group], lines: list[str]) -> None:
    known = review.accuracy(images.actual, images.predicted, reviewed)
    counts = known.doubtful_wrong, known.doubtful - known.doubtful_wrong
    for word, count in zip(("wrong", "right"), counts, strict=True):
        where, words = f"{word} doubtful", f"model {word}, label doubtful"
        name, meaning = f"doubtful_{word}", "by the label review"
        groups.append(Group(name, words, meaning, where, count, known.images, "loss"))
    lines.append(
        f"Label review: {len(reviewed):,} labels were looked at, {known.doubtful:,} are doubtful. "
        f"Test accuracy {percent(known.with_doubtful)} with them, "
        f"{percent(known.without_doubtful)} without. {known.doubtful_wrong:,} of them are "
        f"mistakes, {known.as_people:,} of these predicted as people would say."
    )


def _by_guess(images: Mistakes, groups: list[Group], lines: list[str]) -> None:
    suspect = images.label_doubt.doubtful
    for word, wrong in (("wrong", True), ("right", False)):
        count = int(np.count_nonzero(suspect & (images.wrong == wrong)))
        where, words = f"{word} suspect", f"model {word}, label suspect"
        name, meaning = f"suspect_{word}", "a guess, the surest first"
        groups.append(Group(name, words, meaning, where, count, len(images), "doubt"))
    lines.append(
        f"Suspect labels are {label_doubt.CALLED}, by confident learning: the net is as sure of "
        "another class as it usually is of that class. It knows no more than the net does, and "
        "most of these labels are right."
    )
    if images.review is None:
        lines.append("What people say is known from files: start with --human or --review FILE.")


def about_label(images: Mistakes, index: int, classes: Sequence[str]) -> str:
    """What people say of an image's label; nothing where it is not known."""
    said = []
    if images.people is not None and images.people.asked[index]:
        agree = images.people.agreement[index]
        said.append(f"{percent(agree, 0)} of {images.people.asked[index]:,} people agree")
    entry = None if images.review is None else images.review.by_index.get(index)
    if entry is not None:
        said.append(f"reviewers say {clean(entry.says(classes), 60)}")
    return ", ".join(said)


def group_line(group: Group, colours: dict[str, str]) -> Text:
    """A set of images: which, how many, share, meaning."""
    style = colours["error" if "wrong" in group.where else "success"]
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{group.words:<27}", style=f"bold {style}")
    text.append(f" {group.count:>7,} {percent(group.count / max(1, group.of)):>8}")
    return text.append(f"  {group.meaning}", style=colours["secondary"])

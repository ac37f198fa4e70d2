"""What people say about the test images, from the files that the app was started with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from trainer.files.paths import expanded

if TYPE_CHECKING:
    from trainer.analysis.human import People
    from trainer.analysis.mistakes import Mistakes
    from trainer.analysis.review import Review


class _Read(msgspec.Struct, frozen=True):
    """What the files say of one set of test images, and what is wrong with them."""

    people: People | None = None
    review: Review | None = None
    notices: tuple[str, ...] = ()


class Opinions:
    """A file of people's answers and one of a label review, or either, or none.

    Each is read once for each set of test images, on the thread that reads the predictions.
    """

    def __init__(self, human: str | None = None, review: str | None = None) -> None:
        self._human = expanded(human) if human else None
        self._review = expanded(review) if review else None
        self._read: dict[tuple[str, int], _Read] = {}

    def beside(self, images: Mistakes) -> tuple[Mistakes, tuple[str, ...]]:
        """The images with what people say about them, and a line for each file that is of no use
        or of doubtful use. Blocks."""
        key = images.source.fingerprint, images.classes
        if key not in self._read:
            self._read[key] = self._load(images)
        read = self._read[key]
        return images.beside(read.people, read.review), read.notices

    def _load(self, images: Mistakes) -> _Read:
        # imported where it is needed: the app's first paint does not wait for it
        from trainer.analysis import human, review
        from trainer.errors import UserError

        people = reviewed = None
        notices = []
        try:
            if self._human is not None:
                people = human.load(self._human, images.actual, images.classes)
                if people.notice:
                    notices.append(people.notice)
        except UserError as error:
            notices.append(str(error))
        try:
            if self._review is not None:
                reviewed = review.load(self._review, images.actual, images.classes)
        except UserError as error:
            notices.append(str(error))
        return _Read(people, reviewed, tuple(notices))

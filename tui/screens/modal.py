"""What opens over a screen and gives an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual.await_complete import AwaitComplete
from textual.events import ScreenResume
from textual.screen import ModalScreen, ScreenResultType

from tui import toasts

if TYPE_CHECKING:
    from tui.app import CifarApp


class Modal(ModalScreen[ScreenResultType]):
    """Closes itself, once.

    Textual's ``dismiss`` closes whatever lies on top: the screen below where two keys come at once,
    or another dialog that was opened over this one. Here the first answer counts, and one that
    comes while something lies above is given when that has gone.
    """

    FILLS: ClassVar[bool] = False
    """Whether it fills the terminal: messages in the corner are seen."""

    about: str = ""
    """Id of the run that it is about, see ``run_gone``."""
    _answer: tuple[ScreenResultType | None] | None = None

    @property
    def cifar(self) -> CifarApp:
        """The app, typed."""
        return cast("CifarApp", self.app)

    @property
    def stands(self) -> bool:
        """Whether it still shows what arrives: not once it has its answer, or the app is left.

        What is on it is taken away first, while it counts as mounted and its workers go on. It
        stands while it is being mounted as well: a form then fills itself in.
        """
        return self._answer is None and self.is_attached

    def run_gone(self) -> None:
        """The folder of the run that it is about was moved or deleted: it closes, unanswered."""
        self.dismiss(None)

    def dismiss(self, result: ScreenResultType | None = None) -> AwaitComplete:
        """Close with an answer."""
        if self._answer is not None:
            return AwaitComplete()
        self._answer = (result,)
        return super().dismiss(result) if self.is_active else AwaitComplete()

    def on_screen_resume(self, event: ScreenResume) -> None:
        """What lay above has gone; Textual calls the methods of the classes below as well."""
        toasts.seen(self.cifar)
        if self._answer is not None:
            super().dismiss(self._answer[0])

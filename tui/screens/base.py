"""What the main screens have in common: the header line, the key line, and repainting."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.app import ComposeResult
from textual.css.query import NoMatches
from textual.events import ScreenResume
from textual.screen import Screen

from tui import toasts
from tui.runs.store import Changes, Store
from tui.terminal import exact
from tui.widgets.header import HeaderLine
from tui.widgets.key_line import KeyLine

if TYPE_CHECKING:
    from tui.app import CifarApp


class StoreScreen(Screen[None]):
    """A screen that shows the store. Only the visible one is told about changes.

    Subclasses yield their widgets in ``body`` (header and key line come around them) and repaint
    in ``show``. Class names by size, for the style sheets: ``-narrow`` below 100 columns,
    ``-normal``, ``-wide`` from 120, ``-huge`` from 150; ``-short`` below 32 lines, ``-tall``.
    """

    TAB: ClassVar[str] = ""
    """Name of the screen in the app's list, for the header's tabs; from the class's name."""

    _styled_for: tuple[object, ...] = ()
    """What the styles depended on when the screen was last shown."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "TAB" not in cls.__dict__:  # not the one of the class between
            cls.TAB = cls.__name__.removesuffix("Screen").lower()

    def __init__(self) -> None:
        super().__init__()
        exact.install(self)

    @property
    def cifar(self) -> CifarApp:
        """The app, typed."""
        return cast("CifarApp", self.app)

    @property
    def store(self) -> Store:
        """The runs."""
        return self.cifar.store

    @property
    def stands(self) -> bool:
        """Whether it can show something: it is made, and not about to be taken away.

        What is on it is taken away first, while it counts as mounted and its workers go on.
        """
        if not (self.is_mounted and self.is_attached):
            return False
        return self in self.app.screen_stack or self.app.is_screen_installed(self)

    def body(self) -> ComposeResult:
        """The screen's own widgets, between the header and the key line."""
        yield from ()

    def ready(self) -> None:
        """The body is there, perhaps not visible yet: set what does not depend on the runs."""

    def on_mount(self) -> None:
        """Make it ready, unless the app is left while screens are still being made."""
        with suppress(NoMatches):  # then Textual leaves out what was not mounted yet
            self.ready()

    def compose(self) -> ComposeResult:
        """Header, body, key line."""
        yield HeaderLine()
        yield from self.body()
        yield KeyLine()

    def on_screen_resume(self, event: ScreenResume) -> None:
        """Show what came while another screen was visible."""
        # Textual makes the styles of all widgets anew, and they draw all of their lines anew: half
        # of a key's time, for what only another theme or more style sheets can have changed
        look = (self.app.theme, len(self.app.stylesheet.source), self.app.app_focus)
        event.refresh_styles = look != self._styled_for
        self._styled_for = look
        self.show(Changes(listing=True, runs=set(self.store.followers)))
        self.cifar.refresh_header()
        self.call_after_refresh(self.keep_focus)
        toasts.seen(self.cifar)
        self.app.call_later(self.cifar.go_home)  # after what the answer of a dialog does

    def on_descendant_blur(self) -> None:
        """A line that was typed may have been left; not with the terminal's window. Or what had the
        keys is hidden.
        """
        if self.app.app_focus:
            self.app.call_later(self.cifar.go_home)
            self.call_after_refresh(self.keep_focus)

    def keep_focus(self) -> None:
        """Give the keys to the main part (``AUTO_FOCUS``) when no visible part has them: Textual
        takes them from one that is hidden, gives them to one that may be hidden with it, and does
        not give them back when it is shown again.
        """
        if not self.app.app_focus or not self.AUTO_FOCUS:
            return
        visible = self.focus_chain
        if self.focused in visible:
            return
        main = next((part for part in self.query(self.AUTO_FOCUS) if part in visible), None)
        if main is not None:
            self.set_focus(main, scroll_visible=False)

    @property
    def points_at_run(self) -> bool:
        """Whether the chosen run is seen to be chosen: else keys do not mean it."""
        return True

    def shows(self, run: str) -> bool:
        """Whether it is about this run, which was chosen until it went."""
        return True

    def show(self, changes: Changes) -> None:
        """Repaint what these changes touch; called on the UI thread, once a poll at most."""
        raise NotImplementedError

"""Bindings as a list: the key line, the help and the command palette are made of the same one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
from textual.binding import Binding
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.dom import DOMNode
from textual.screen import Screen

from trainer.characters import in_words
from tui.formatting import clean, escape

if TYPE_CHECKING:
    from tui.app import CifarApp

RUNS_OFFERED = 200


class Entry(msgspec.Struct, frozen=True):
    """A documented binding: all its keys, what it does, where its action lives."""

    key: str
    """As shown: ``space``, ``ctrl+p``, ``/``."""
    title: str
    tooltip: str
    binding: Binding
    node: DOMNode
    enabled: bool

    async def run(self) -> None:
        """Do what the key does."""
        await self.node.app.run_action(self.binding.action, self.node)


def entries(screen: Screen[Any]) -> list[Entry]:
    """The bindings that work on a screen now, the focused widget's first.

    Only those with an id count: Textual's own (tab, arrows) are known and need no line.
    """
    found: dict[str, Entry] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if binding.id is None or not binding.description or binding.system:
            continue
        key = binding.key_display or screen.app.get_key_display(binding)
        key = in_words(key, ascii=cast("CifarApp", screen.app).terminal.ascii)
        if binding.id in found:
            known = found[binding.id]
            key = f"{known.key} {key}"
            binding = known.binding
        found[binding.id or ""] = Entry(
            key=key,
            title=binding.description,
            tooltip=active.tooltip or binding.tooltip,
            binding=binding,
            node=active.node,
            enabled=active.enabled,
        )
    return list(found.values())


class CifarCommands(Provider):
    """What the command palette offers."""

    def _commands(self) -> Iterable[tuple[str, str, Callable[[], Any]]]:
        """Title, help, what to call."""
        app = cast("CifarApp", self.app)
        for entry in entries(self.screen):
            if entry.enabled and entry.binding.id != "app.palette":
                yield f"{entry.title} ({entry.key})", entry.tooltip, entry.run
        for name, description in app.presets():
            yield f"Start preset {name}", description, partial(app.start_preset, name)
        for theme in sorted(app.available_themes):
            if theme.startswith("cifar-"):
                yield f"Theme {theme}", "Colours of the app", partial(app.set_theme, theme)
        for follower in list(app.store)[:RUNS_OFFERED]:
            name = clean(follower.name, 40)
            yield (
                f"Open run {name}",
                f"{follower.run.id} · {follower.status}",
                partial(app.open_run, follower.run.id),
            )

    async def discover(self) -> Hits:
        """Everything, before anything is typed."""
        for title, tip, command in self._commands():
            yield DiscoveryHit(Content(title), command, text=title, help=escape(tip))

    async def search(self, query: str) -> Hits:
        """What fits the query."""
        matcher = self.matcher(query)
        for title, tip, command in self._commands():
            score = matcher.match(title)
            if score > 0:
                # names of runs are data: one with brackets is shown as it is, not highlighted
                shown = Content(title) if "[" in title else matcher.highlight(title)
                yield Hit(score, shown, command, text=title, help=escape(tip))

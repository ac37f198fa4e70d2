"""What is asked about the shown image, and what is known of the answer. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from rich.text import Text

from trainer.events import LayerRow
from trainer.protocol import Inspect, Inspected
from trainer.runs.follower import Follower
from trainer.runs.runstate import RUNNING
from trainer.words import NO_CONVOLUTION, axes
from tui.formatting import clean
from tui.images import overlay
from tui.images.evaluations import Evaluation


def checkpoint_of(run: Follower, epoch: int) -> str:
    """The checkpoint of an epoch, as far as one is kept; empty: the best there is.

    While the run goes on ``last`` is another one after each epoch, and what is computed of it is
    of no use right after.
    """
    saved = run.state.checkpoints
    if "best" in saved and saved["best"].epoch == epoch:
        return "best"
    # at an epoch's end ``last`` stands at the first step of the next one
    if "last" in saved and saved["last"].epoch == epoch + 1 and run.status not in RUNNING:
        return "last"
    return ""


def convolution_at(layers: Sequence[LayerRow], chosen: str) -> str:
    """The convolution that was chosen, or the last one before what was; empty: none."""
    found = ""
    for layer in layers:
        if layer.type.endswith("Conv2d"):
            found = layer.path
        if layer.path == chosen:
            return found
    return ""


class Inside:
    """Questions and answers about one run's images. Lives on the UI thread."""

    def __init__(self, ask: Callable[[Inspect], None], changed: Callable[[], None]) -> None:
        self._ask = ask
        self._changed = changed
        self._number = 0
        self._asked: Inspect | None = None
        self.layer = ""
        self.trusted = False
        self.answer: Inspected | None = None
        """Of the image that is shown; ``None``: computing."""
        self.layers: tuple[str, ...] = ()
        self.bare = False
        """Whether the net is known to have no convolution."""

    def want(
        self, run: Follower, found: Evaluation, index: int, data: str, neighbours: int = 8
    ) -> None:
        """Ask about an image, unless it was asked already."""
        question = Inspect(
            ask=0,
            run=str(run.run.path.absolute()),
            checkpoint=checkpoint_of(run, found.saved.epoch),
            index=index,
            layer=self.layer,
            of_class=int(found.images.predicted[index]),
            neighbours=neighbours,
            data=data,
            trusted=self.trusted,
        )
        if question == self._asked:
            return
        self._asked = question
        self._number += 1
        self.answer = None
        self._ask(_numbered(question, self._number))

    def close(self) -> None:
        """Nothing is wanted any more."""
        self._asked = None
        self._number += 1
        self._ask(Inspect(ask=self._number))

    def told(self, answer: Inspected) -> None:
        """An answer has come; those to earlier questions are of no use."""
        if answer.ask == self._number and self._asked is not None:
            self.answer = answer
            if not answer.error:
                self.layers, self.bare = answer.layers, not answer.layers
            self._changed()

    def step(self, step: int) -> None:
        """The convolution before, or after."""
        if not self.layers or self.answer is None:
            return
        now = self.answer.layer
        at = self.layers.index(now) if now in self.layers else len(self.layers) - 1
        self.layer = self.layers[max(0, min(at + step, len(self.layers) - 1))]

    def neighbours_line(self, width: int) -> str:
        """What stands above the neighbours."""
        answer = self.answer
        if answer is None:
            return "nearest training images: computing…"
        if answer.error:
            return "nearest training images: not known, see above"
        if answer.neighbours is None:
            done, total = answer.computing or (0, 0)
            return (
                f"nearest training images: computing features… {done:,} of {total:,}, "
                "kept for the next time"
            )[:width]
        return "nearest training images, by the cosine of their features"

    def lines(self, found: Evaluation, colours: dict[str, str], view: str, boxes: bool) -> Text:
        """Checkpoint, layer, receptive fields; or one line that says why not."""
        text, grey = Text(no_wrap=True, overflow="ellipsis"), colours["secondary"]
        answer = self.answer
        if answer is None:
            return text.append("looking into the net: computing…", style=grey)
        if answer.needs_trust:
            text.append(clean(answer.error, 200), style=colours["warning"])
            return text.append("\nt runs it, to look inside", style="bold")
        if answer.error:
            return text.append(f"no look inside: {clean(answer.error, 300)}", style=grey)
        named = min(answer.of_class, len(found.classes) - 1)
        text.append("net       ", style=grey)
        text.append(f"{answer.checkpoint} checkpoint, epoch {answer.epoch}")
        if answer.epoch != found.saved.epoch or found.saved.variant != "plain":
            text.append(f": not epoch {found.saved.epoch} {found.saved.variant}", style=grey)
        if not answer.layers:
            why = NO_CONVOLUTION.replace(": ", ":\n")  # beside the image there is little room
            return text.append(f"\n{why}", style=grey)
        at = answer.layers.index(answer.layer) + 1 if answer.layer in answer.layers else 0
        text.append("\nlayer     ", style=grey)
        text.append(clean(answer.layer, 60), style=colours["primary"])
        text.append(f"  {at} of {len(answer.layers)} convolutions", style=grey)
        text.append("\nfield     ", style=_hex(overlay.THEORY) if boxes else grey)
        text.append_text(_field(answer))
        text.append("\neffective ", style=_hex(overlay.EFFECTIVE) if boxes else grey)
        text.append_text(_effective(answer))
        cam = f"Grad-CAM of {clean(found.classes[named], 30)}"
        shown = {
            "": "as it is",
            "cam": cam if answer.cam else "no Grad-CAM: the net keeps no gradients",
            "effective": "the effective field's gradient"
            if answer.effective
            else "no effective field: the net keeps no gradients",
        }[view]
        text.append("\nimage     ", style=grey).append(shown)
        return text


def _numbered(question: Inspect, number: int) -> Inspect:
    return msgspec.structs.replace(question, ask=number)


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _field(answer: Inspected) -> Text:
    if answer.field_size is None:
        return Text("the theoretical one is not known")
    text = Text(axes(answer.field_size, square=True))
    if overlay.is_clipped(answer.field_size, answer.field_box):
        text.append(", clipped at the image's edge")
    return text


def _effective(answer: Inspected) -> Text:
    if not answer.effective:
        return Text("not known: the net keeps no gradients")
    if answer.effective_box is None:
        return Text("no pixel changes this layer")
    top, bottom, left, right = answer.effective_box
    size = axes((bottom - top + 1, right - left + 1), square=True)
    return Text(f"{size} holds 95 % of the gradient")

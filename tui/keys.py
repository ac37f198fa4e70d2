"""The keys that work on every screen; key line, help and palette are made of them."""

from __future__ import annotations

from textual.binding import Binding, BindingType

HELP = Binding(
    "question_mark", "app.help", "Help", id="app.help", tooltip="All keys of this screen"
)
"""Of the app; a dialog with keys of its own, which hides those of the app, has it as well."""
BINDINGS: list[BindingType] = [
    Binding("n", "new_run", "New", id="run.new", tooltip="Choose preset, model, data, …"),
    Binding("s", "start", "Start", id="run.start", tooltip="Start the chosen preset, or queue"),
    Binding("x", "stop", "Stop", id="run.stop", tooltip="Stop the run, keep its checkpoint"),
    Binding("p", "pause", "Pause", id="run.pause", tooltip="Pause the run, or go on"),
    Binding(
        "r",
        "resume",
        "Resume",
        id="run.resume",
        tooltip="Go on with the chosen run: it stopped, failed or crashed",
    ),
    Binding(
        "c",
        "checkpoint",
        "Checkpoint",
        id="run.checkpoint",
        show=False,
        tooltip="Save a checkpoint of the run now",
    ),
    Binding(
        "P",
        "choose_preset",
        "Preset",
        id="run.preset",
        show=False,
        tooltip="Choose the preset that s starts",
    ),
    Binding(
        "S",
        "start_synthetic",
        "Synthetic",
        id="data.synthetic",
        show=False,
        tooltip="Start the chosen preset on the synthetic set",
    ),
    Binding(
        "D",
        "download",
        "Download",
        id="data.download",
        show=False,
        tooltip="Download CIFAR-10 (170 MB)",
    ),
    Binding(
        "F",
        "choose_folder",
        "Folder",
        id="data.folder",
        show=False,
        tooltip="Choose the data: a name or a folder",
    ),
    Binding(
        "ctrl+z",
        "suspend_process",
        "Suspend",
        id="app.suspend",
        show=False,
        tooltip="Back to the shell, fg goes on",
    ),
    Binding("1", "show('runs')", "Runs", id="screen.runs", show=False, tooltip="All runs"),
    Binding(
        "2",
        "show('dashboard')",
        "Dashboard",
        id="screen.dashboard",
        show=False,
        tooltip="Curves and epochs of the chosen run",
    ),
    Binding(
        "3",
        "show('layers')",
        "Layers",
        id="screen.layers",
        show=False,
        tooltip="The net of the chosen run, layer by layer",
    ),
    Binding(
        "4",
        "show('mistakes')",
        "Mistakes",
        id="screen.mistakes",
        show=False,
        tooltip="Misclassified test images and the confusion matrix",
    ),
    Binding(
        "5",
        "show('compare')",
        "Compare",
        id="screen.compare",
        show=False,
        tooltip="The marked runs side by side",
    ),
    HELP,
    Binding(
        "ctrl+p",
        "command_palette",
        "Palette",
        id="app.palette",
        show=False,
        tooltip="Search all commands, presets and runs",
    ),
    Binding("q", "quit", "Quit", id="app.quit", tooltip="Quit; asks while a run is going"),
    Binding("ctrl+c,ctrl+q", "quit", "Quit", show=False, priority=True, system=True),
]

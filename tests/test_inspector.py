"""The process that looks into nets, through the worker's pipes as the app does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.training_helpers import binary_folder, tiny_run
from trainer.data.dataset import Dataset
from trainer.inspection import answers as inspection
from trainer.inspection import inspector, inspector_process
from trainer.inspection.answers import open_inspection
from trainer.inspection.inspector import Inspector
from trainer.inspection.inspector_process import InspectorProcess
from trainer.lifecycle.session import train_run
from trainer.protocol import Asked, Inspect, Inspected, State
from trainer.runs.control import Control
from trainer.runs.rundir import RunDir
from trainer.worker.worker import Worker


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("inspector")
    data = binary_folder(folder / "data")
    run = tiny_run(folder, f"data='{data}'", "train.precision=fp32", "train.epochs=1")
    assert train_run(run, Control(run)).state == "completed"
    return run


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Inspected]]:
    answers: list[Inspected] = []
    monkeypatch.setattr(inspector, "tell", answers.append)
    return answers


def serve(*asked: Inspect) -> None:
    serving = Inspector(idle_seconds=0)
    for one in asked:
        serving.hear(msgspec.json.encode(Asked(inspect=one, busy=True)))
        serving.serve()


def test_an_answer_has_what_the_library_says(trained: RunDir, told: list[Inspected]) -> None:
    trained.features("best").unlink(missing_ok=True)
    serve(Inspect(ask=7, run=str(trained.path), index=3, layer="4", neighbours=4, trusted=True))
    assert [(a.ask, a.computing, a.neighbours is None) for a in told] == [
        (7, (0, 100), True),
        (7, None, False),
    ]
    found = open_inspection(trained, device="cpu", trusted=True)
    answer = msgspec.json.decode(msgspec.json.encode(told[-1]), type=Inspected)
    assert answer.layers == ("0", "4")
    assert answer.layer == "4"
    assert np.allclose(answer.probabilities, found.probabilities(3).numpy(), atol=1e-6)
    assert answer.of_class == int(np.argmax(answer.probabilities))
    cam = np.frombuffer(answer.cam, np.uint8).reshape(32, 32)
    assert np.allclose(cam / 255, found.grad_cam(3, "4", answer.of_class).numpy(), atol=0.003)
    assert answer.field_size == (7, 7)
    assert answer.field_box == (13, 19, 13, 19)
    assert answer.neighbours is not None
    wanted = found.nearest(3, 4)
    assert [one.index for one in answer.neighbours] == [one.index for one in wanted]
    pixels = np.frombuffer(answer.neighbours[0].pixels, np.uint8).reshape(3, 32, 32)
    assert np.array_equal(pixels, found.dataset.train.images[wanted[0].index])


def test_neighbours_have_the_index_of_the_whole_split_and_their_own_pixels(
    trained: RunDir, told: list[Inspected], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = open_inspection(trained, device="cpu", trusted=True)
    found.compute_features()
    before = found.nearest(3, 4)
    monkeypatch.setattr(Dataset, "train_index", lambda self, position: 5000 + position)
    assert [one.index for one in found.nearest(3, 4)] == [5000 + one.index for one in before]
    serve(Inspect(ask=1, run=str(trained.path), index=3, neighbours=4, trusted=True))
    near = told[-1].neighbours
    assert near is not None
    assert [one.index for one in near] == [5000 + one.index for one in before]
    images = found.dataset.train.images
    assert [one.pixels for one in near] == [images[one.index].tobytes() for one in before]


def test_what_cannot_be_answered_is_said_and_the_next_is(
    trained: RunDir, told: list[Inspected], tmp_path: Path
) -> None:
    folder = str(trained.path)
    serving = Inspector(idle_seconds=0)
    for one in (
        Inspect(ask=1, run=str(tmp_path)),
        Inspect(ask=2, run=folder),
        Inspect(ask=3, run=folder, index=999, trusted=True),
        Inspect(ask=4, run=folder, trusted=True),
    ):
        serving.hear(b"no json")
        serving.hear(msgspec.json.encode(Asked(inspect=one)))
        serving.serve()
    errors = {answer.ask: answer for answer in told}
    assert "cannot read" in errors[1].error
    assert errors[2].needs_trust
    assert "no test image 999" in errors[3].error
    assert errors[4].neighbours is not None


def test_other_images_are_answered_while_features_are_computed(
    trained: RunDir, told: list[Inspected], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.features("best").unlink(missing_ok=True)
    monkeypatch.setitem(inspection.BATCH, "cpu", 10)
    monkeypatch.setitem(inspection.BATCH, "cuda", 10)
    serving = Inspector(idle_seconds=0)

    def ask(number: int, run: str) -> None:
        one = Inspect(ask=number, run=run, index=number, trusted=True)
        serving.hear(msgspec.json.encode(Asked(inspect=one)))

    def tell(answer: Inspected) -> None:
        told.append(answer)
        if answer.computing == (0, 100):
            ask(2, str(trained.path))  # another image
        elif answer.ask == 2 and answer.computing == (10, 100):
            ask(0, "")  # the screen is closed
            ask(3, str(trained.path))  # and opened again

    monkeypatch.setattr(inspector, "tell", tell)
    ask(1, str(trained.path))
    serving.serve()
    told_of = [(a.ask, a.computing, a.neighbours is not None) for a in told]
    assert told_of[:2] == [(1, (0, 100), False), (2, (10, 100), False)]
    # what was computed is not computed again
    assert told_of[2:] == [(3, (20, 100), False), (3, None, True)]


def test_the_process_is_started_anew_answers_and_ends(
    trained: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    told: list[State] = []

    def tell(state: State) -> None:
        told.append(state)
        if state.inspected is not None and (state.inspected.neighbours or state.inspected.error):
            answered.set()

    dies = "import os; input(); os.kill(os.getpid(), 9)"
    process = InspectorProcess(tell, (sys.executable, "-c", dies))
    process.ask(Inspect(ask=0))  # nothing is wanted, nothing is started
    assert process._process is None
    process.ask(Inspect(ask=5, run="x"))
    assert answered.wait(60)
    assert told[0].inspected == Inspected(
        ask=5, error="the inspector ended (signal 9): memory may be short"
    )
    answered.clear()
    monkeypatch.setattr(process, "_command", inspector_process.COMMAND)
    process.ask(Inspect(ask=1, run=str(trained.path), trusted=True))
    assert answered.wait(60)
    assert told[-1].inspected is not None
    assert (told[-1].inspected.ask, told[-1].inspected.error) == (1, "")
    child = process._process
    assert child is not None
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, child.pid) == min(19, own + 10)
    answered.clear()
    process.ask(Inspect(ask=2, run="nowhere"))
    assert answered.wait(60)
    assert [state.inspected.ask for state in told if state.inspected][-1] == 2
    assert child.stdin is not None
    child.stdin.close()  # the worker has gone
    assert child.wait(60) == 0


def test_the_end_of_one_process_takes_no_question_from_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one's end is heard when the second one has been asked already."""
    told: list[State] = []
    answered, go, done = (threading.Event() for _ in range(3))

    def tell(state: State) -> None:
        told.append(state)
        answered.set()

    dies = "import os; input(); input(); os.kill(os.getpid(), 9)"
    process = InspectorProcess(tell, (sys.executable, "-c", "pass"))
    listen = process._listen

    def late(child: subprocess.Popen[bytes]) -> None:
        if child.args[-1] != "pass":  # type: ignore[index]
            listen(child)
        elif go.wait(60):
            listen(child)
            done.set()

    monkeypatch.setattr(process, "_listen", late)
    process.ask(Inspect(ask=1, run="x"))
    first = process._process
    assert first is not None
    first.wait()
    monkeypatch.setattr(process, "_command", (sys.executable, "-c", dies))
    question = Inspect(ask=2, run="x")
    process.ask(question)
    second = process._process
    assert second not in (None, first)
    go.set()
    assert done.wait(60)
    assert process.question() == question
    process.busy(True)
    assert answered.wait(60)
    error = "the inspector ended (signal 9): memory may be short"
    assert [state.inspected for state in told] == [Inspected(ask=2, error=error)]


def test_a_process_that_cannot_be_started_is_one_line() -> None:
    told: list[State] = []
    InspectorProcess(told.append, ("/nonexistent",)).ask(Inspect(ask=6, run="x"))
    assert "cannot be started" in (told[0].inspected or Inspected(ask=0)).error


def test_the_worker_tells_questions_from_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[State] = []
    asked: list[Inspect] = []
    worker = Worker(told.append)
    monkeypatch.setattr(worker.inspector, "ask", asked.append)
    one = Inspect(ask=1, run="here", index=2)
    worker.hear(msgspec.json.encode(Asked(inspect=one)))
    worker.hear(b"{}")
    assert asked == [one]
    assert [state.state for state in told] == ["refused"]

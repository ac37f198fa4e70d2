"""Nets of a user's own file that do what nets in the wild do: exit, use views, keep odd state."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from model import registry
from model.checks import check_output
from model.errors import ModelError
from model.summary import summarize
from tests.checkpoint_helpers import save_checkpoint
from tests.training_helpers import losses_of, tiny_dataset, tiny_run
from trainer import events
from trainer.cli import main
from trainer.errors import ConfigError, DataError, RunError
from trainer.inspection.answers import open_inspection
from trainer.lifecycle import own_net
from trainer.lifecycle.session import train_locked, train_run
from trainer.lifecycle.submit import read_config, resubmit
from trainer.loop import host_random
from trainer.runs import checkpoint, net_files
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.worker import worker

BASE = """
import random
import numpy as np
import torch
from torch import nn


class Base(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


"""


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., RunDir]:
    """A run of the class ``Own``, whose body is given."""

    def run(body: str, *overrides: str, name: str = "own") -> RunDir:
        path = tmp_path / f"{name}.py"
        path.write_text(f"{BASE}class Own(Base):\n{body}")
        return tiny_run(tmp_path / name, f"model.name='{path}:Own'", *overrides)

    return run


EXITS = """
    steps = 0

    def forward(self, x):
        self.steps += self.training and len(x) > 2
        if self.steps == 3:
            exit(0)
        return super().forward(x)
"""


def test_a_net_that_exits_fails_its_run_and_says_where(own: Callable[..., RunDir]) -> None:
    run = own(EXITS)
    ended = train_run(run, Control(run))
    assert ended.state == "failed"
    lines = (run.path.parents[2] / "own.py").read_text().splitlines()
    assert ended.error == f"own.py, line {1 + lines.index('            exit(0)')}: SystemExit: 0"


PANICS = """
    steps = 0

    def forward(self, x):
        self.steps += self.training and len(x) > 2
        if self.steps >= first:
            raise Panic("from Rust")
        return super().forward(x)


class Panic(BaseException):
    pass


"""


@pytest.mark.parametrize("kind", ["BaseException", "KeyboardInterrupt"])
def test_what_is_no_exception_fails_the_run_with_its_line(
    own: Callable[..., RunDir], kind: str
) -> None:
    run = own(PANICS.replace("BaseException", kind) + "first = 3\n")
    found: list[BaseException] = []
    with ThreadPoolExecutor(1) as pool:  # as ever; the main thread has Ctrl-C
        ended = pool.submit(
            train_locked,
            run,
            Control(run),
            on_failure=found.append,
            on_end=f"touch {run.path}/called",
        ).result()
    assert ended.state == "failed"
    assert str(ended.error).startswith("own.py, line ")
    assert str(ended.error).endswith(": Panic: from Rust")
    assert Follower(run).catch_up().status(locked=False) == "failed"
    assert [type(error).__name__ for error in found] == ["Panic"]
    assert run.on_end_log.exists()


SILENT = """
    steps = 0

    def forward(self, x):
        self.steps += self.training and len(x) > 2
        if self.steps >= 3:
            raise Silent
        return super().forward(x)


class Silent(Exception):
    def __str__(self):
        raise ValueError("this as well")
"""


def test_an_exception_that_cannot_say_what_it_is_fails_the_run(own: Callable[..., RunDir]) -> None:
    run = own(SILENT)
    ended = train_run(run, Control(run))
    assert ended.state == "failed"
    assert str(ended.error).startswith("own.py, line ")
    assert str(ended.error).endswith(": Silent")
    assert "Silent" in run.traceback.read_text()
    assert Follower(run).catch_up().status(locked=False) == "failed"


def test_what_is_no_exception_is_refused_before_the_first_step(
    own: Callable[..., RunDir],
) -> None:
    run = own(PANICS + "first = 1\n")
    with pytest.raises(ConfigError, match=r"own\.py, line \d+: Panic: from Rust"):
        train_run(run, Control(run))
    for body in ("import sys\n", "class Net:\n    def __init__(self):\n        "):
        path = run.path.parents[2] / "raises.py"
        path.write_text(f"{body}raise BaseException('from Rust')\n")
        with pytest.raises(ModelError, match=r"raises\.py, line \d: BaseException: from Rust"):
            registry.build(f"{path}:Net")


def test_a_net_that_exits_at_once_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(f"{BASE}class Own(Base):\n    def forward(self, x):\n        exit(0)\n")
    net = registry.build(f"{path}:Own")
    for look in (lambda: check_output(net, 10), lambda: summarize(net)):
        with pytest.raises(ModelError, match=r": own\.py, line \d+: SystemExit: 0$"):
            look()


def test_whatever_a_run_raises_the_next_one_is_trained(
    own: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def train(run: RunDir, *_: object, **__: object) -> None:
        tried.append(run.id)
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "train_locked", train)
    runs = [own(EXITS, name=name) for name in "ab"]
    serving = worker.Worker(lambda state: None)
    for run in runs:
        serving.add(f'{{"run": "{run.path}"}}'.encode())
    serving.close()
    worker._train_all(serving, lambda state: None)
    assert tried == [run.id for run in runs]
    assert not any(run.is_locked() for run in runs)


NOT_A_NUMBER = """
    def forward(self, x):
        y = super().forward(x)
        return y if self.training or len(x) == 2 or {when} else y * float("nan")
"""


def test_an_output_that_is_no_number_is_no_accuracy(own: Callable[..., RunDir]) -> None:
    run = own(NOT_A_NUMBER.format(when="False"), "evaluate.tta='flip'", "train.ema=0.9")
    ended = train_run(run, Control(run))
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error.startswith("the net's output on the test images is not a number")
    assert (ended.best_accuracy, ended.best_epoch, ended.final_accuracy) == (None, None, None)
    state = Follower(run).catch_up()
    assert (state.evals, state.predictions) == ([], [])
    told = [notice.message for _, notice in state.notices if notice.code == "not-a-number"]
    assert ["(ema)" in message for message in told] == [False, True, False, True]
    assert run.checkpoint("last").is_file()
    assert not run.checkpoint("best").exists()
    assert not (run.path / "predictions").exists()


def test_training_goes_on_after_an_evaluation_that_gave_no_numbers(
    own: Callable[..., RunDir],
) -> None:
    body = NOT_A_NUMBER.format(when="self.finite")
    body += "\n    finite = property(lambda self: self.body[1].num_batches_tracked > 6)\n"
    run = own(body)
    ended = train_run(run, Control(run))
    assert (ended.state, ended.best_epoch) == ("completed", 2)
    assert ended.final_accuracy == ended.best_accuracy
    state = Follower(run).catch_up()
    assert [row.test_accuracy is not None for row in state.epochs] == [False, True]
    assert [n.level for _, n in state.notices if n.code == "not-a-number"] == ["warning"]


GHOSTS = """
    def forward(self, x):
        if self.training:  # batch norm over parts of four images
            x = torch.cat([part - part.mean(0) for part in x.view(4, -1, *x.shape[1:])])
            assert len(x) == 16
        return super().forward(x)
"""


def test_a_net_that_needs_the_whole_batch_is_tried_with_it(own: Callable[..., RunDir]) -> None:
    run = own(GHOSTS)
    assert train_run(run, Control(run)).state == "completed"


# what PyTorch's CIFAR-10 tutorial does, and what fails under autocast
VIEWS = """
    def __init__(self, classes):
        super().__init__(classes)
        self.head = nn.Linear(8 * 16 * 16, classes)

    def forward(self, x):
        return self.head(self.body(x).view(-1, 8 * 16 * 16))
"""
BUFFERS = """
    def forward(self, x):
        y = self.body(x)
        z = torch.zeros(y.shape, device=y.device)
        return self.head(z.index_add(0, torch.arange(len(y), device=y.device), y).mean((2, 3)))
"""


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        (VIEWS, "without channels_last"),
        (BUFFERS, "in fp32 instead of bf16"),
    ],
    ids=["views", "buffers"],
)
def test_a_net_is_trained_in_the_way_in_which_it_works(
    own: Callable[..., RunDir], body: str, changes: str
) -> None:
    run = own(body, "train.precision=bf16", "train.epochs=1")
    for resume in (False, True):
        assert train_run(run, Control(run), resume=resume).state == "completed"
        state = Follower(run).catch_up()
        told, *again = [notice for _, notice in state.notices if notice.code == "net-fallback"]
        assert again == [told] * resume
        assert told.level == "warning"
        assert told.message.startswith(f"training {changes}: otherwise the net fails")
        assert "own.py, line" in told.message
        assert state.started is not None
        assert state.started.precision == ("fp32" if "fp32" in changes else "bf16")


def test_trying_a_net_leaves_no_trace_in_it(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        f"{BASE}class Own(Base):\n    calls = 0\n"
        "    def forward(self, x):\n        self.calls += 1\n        random.random()\n"
        "        return nn.functional.dropout(super().forward(x), 0.5) * np.random.rand()\n"
    )
    net = registry.build(f"{path}:Own", classes=4).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    drawn = []
    for tried in (False, True):
        torch.manual_seed(1)
        host_random.seed(1)
        if tried:
            wanted = own_net.Way("bf16", torch.channels_last)
            found = own_net.find_way(net, 4, (20, 32), torch.device("cpu"), wanted, batch=8)
            assert found == (wanted, "")
        drawn.append((float(torch.rand(())), random.random(), float(np.random.rand())))
    assert drawn[0] == drawn[1]
    assert net.calls == 0
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "    def forward(self, x):\n        y = super().forward(x)\n"
            "        return (y, y) if self.training else y\n",
            r"in training: the net must return one tensor \[N, 4\], not a tuple",
        ),
        (
            "    def forward(self, x):\n        return super().forward(x).detach()\n",
            r"in training: no gradient comes back from its scores \(detach, no_grad\?\)",
        ),
        (
            "    def forward(self, x):\n        assert not self.training\n"
            "        return super().forward(x)\n",
            r"fails in training on a batch \[16, 3, 32, 32\]: own\.py, line \d+: AssertionError",
        ),
        (
            "    def get_extra_state(self):\n        return {'kind': nn.Conv2d}\n",
            "checkpoints could not be opened again: _extra_state may only have tensors",
        ),
    ],
)
def test_a_net_that_cannot_be_trained_is_refused_before_its_first_step(
    own: Callable[..., RunDir], body: str, message: str
) -> None:
    run = own(body)
    with pytest.raises(ConfigError, match=message):
        train_run(run, Control(run))


def test_a_layer_called_prepare_is_the_nets_own(own: Callable[..., RunDir]) -> None:
    run = own(
        "    def __init__(self, classes):\n        super().__init__(classes)\n"
        "        self.prepare = nn.BatchNorm2d(3)\n"
        "    def forward(self, x):\n        return super().forward(self.prepare(x))\n",
        "train.epochs=1",
    )
    assert train_run(run, Control(run)).state == "completed"
    seen = checkpoint.load(run.checkpoint("last"))["net"]["prepare.num_batches_tracked"]
    assert seen == 6  # one a step


RANDOM = """
    def forward(self, x):
        y = super().forward(x)
        return y * (random.random() + np.random.rand()) if self.training else y
"""


def test_random_numbers_of_python_and_numpy_are_the_seeds_and_are_resumed(
    own: Callable[..., RunDir],
) -> None:
    runs = [own(RANDOM, name=name) for name in "abc"]
    losses = [losses_of(run, stopped=run is runs[2]) for run in runs]
    assert losses[0] == losses[1] == losses[2]
    state = checkpoint.load(runs[0].checkpoint("last"))
    del state["random_host"]  # as earlier versions have left it
    save_checkpoint(state, runs[0].checkpoint("last"))
    assert train_run(runs[0], Control(runs[0]), resume=True).state == "completed"


WIDER = """
    def __init__(self, classes):
        super().__init__(classes)
        self.more = nn.Linear(2, 2)
"""


def test_an_edited_net_is_not_the_one_that_was_trained(own: Callable[..., RunDir]) -> None:
    run = own("    pass\n", "train.epochs=1")
    train_run(run, Control(run))
    run.net.unlink()  # as in earlier versions: its parameters are compared
    own(WIDER)
    with pytest.raises(ConfigError, match=r"not the one that was trained: put .*own\.py back"):
        train_run(run, Control(run), resume=True)


def stopped(run: RunDir) -> RunDir:
    """Trained for an epoch."""
    control = Control(run)

    def stop(envelope: events.Envelope) -> None:
        if isinstance(envelope.event, events.EpochEnded):
            control.request("stop")

    assert train_run(run, control, listener=stop).state == "stopped"
    return run


@pytest.mark.parametrize("edited", ["own", "helper", "gone"])
def test_a_run_does_not_go_on_with_other_files(
    own: Callable[..., RunDir],
    tmp_path: Path,
    edited: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    helper = tmp_path / "helper_of_own.py"
    helper.write_text("def twice(x):\n    return 2 * x\n")
    run = own("    from helper_of_own import twice\n")
    net = tmp_path / "own.py"
    stopped(run)
    path = helper if edited == "helper" else net
    before, log = path.read_text(), run.log.read_bytes()
    path.write_text(f"{before}# the same net\n")
    if edited == "gone":
        path.unlink()
    line = f"{path.name} was {'removed' if edited == 'gone' else 'changed'} since run {run.id}"
    with pytest.raises(ConfigError, match=line):
        resubmit(run)
    with pytest.raises(ConfigError, match=line):
        open_inspection(run, trusted=True)
    where = ("--runs-dir", str(run.path.parent))
    for arguments in (("train", "--resume", "last"), ("inspect", "last", "0")):
        assert main.run([*arguments, *where]) == 2
        assert line in capsys.readouterr().err
    assert run.log.read_bytes() == log
    assert Follower(run).catch_up().status(locked=False) == "stopped"
    path.write_text(before)
    resubmit(run)
    assert train_run(run, Control(run), resume=True).state == "completed"


def test_a_run_goes_on_with_other_files_where_that_is_asked_for(
    own: Callable[..., RunDir], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "parts_of_own").mkdir()
    helper = tmp_path / "parts_of_own" / "twice.py"
    helper.write_text("def twice(x):\n    return 2 * x\n")
    run = own("    from parts_of_own.twice import twice\n")
    config = read_config(run)
    net = tmp_path / "own.py"
    stopped(run)
    before = helper.read_text()
    copies = {path.name: path.read_text() for path in (run.path / "net").iterdir()}
    assert copies == {"own.py": net.read_text(), "parts_of_own.twice.py": before}
    helper.write_text(f"{before}# the same\n")
    with pytest.raises(ConfigError, match=rf"as they were lie in {run.path}/net; .*--changed-net"):
        resubmit(run)
    with pytest.raises(DataError):  # no word of the net
        open_inspection(run, trusted=True, changed_net=True)
    other = net_files.identity(run, config)
    arguments = ["train", "--resume", "last", "--runs-dir", str(run.path.parent)]
    resubmit(run, changed_net=True)
    assert net_files.identity(run, config) == other, "it has none of the features kept so far"
    helper.write_text(before)  # who changes his mind may go on as well
    assert not net_files.identity(run, config)
    net_files.check(run, config)
    helper.write_text(f"{before}# the same\n")
    assert main.run([*arguments, "--changed-net"]) == 0
    assert f"{helper} was changed since the run trained it" in capsys.readouterr().err
    assert not net_files.changed(run, config)
    assert (run.path / "net" / "parts_of_own.twice.py").read_text() == helper.read_text()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "no such file"),
        ("    def forward(self, x:\n", "syntax error"),
        (WIDER, "not the one that was trained"),
    ],
)
def test_a_changed_net_that_is_refused_is_not_said_to_be_trained(
    own: Callable[..., RunDir], tmp_path: Path, body: str | None, reason: str
) -> None:
    run = stopped(own("    pass\n"))
    net = tmp_path / "own.py"
    net.unlink() if body is None else net.write_text(f"{BASE}class Own(Base):\n{body}")
    resubmit(run, changed_net=True)
    with pytest.raises(ConfigError, match=reason):
        train_run(run, Control(run), resume=True)
    codes = [notice.code for _, notice in Follower(run).catch_up().notices]
    assert "net-changed" not in codes


@pytest.mark.parametrize("waiting", [False, True])
def test_a_stopped_run_that_cannot_go_on_stays_stopped(
    own: Callable[..., RunDir], waiting: bool
) -> None:
    run = stopped(own("    pass\n"))
    net = run.path.parent.parent.parent / "own.py"
    text = net.read_text()
    if waiting:
        resubmit(run)
    else:
        run.net.unlink()  # as in earlier versions
    net.write_text(f"{text}    def forward(self, x:\n")
    if not waiting:
        resubmit(run)
    reason = "was changed since" if waiting else "syntax error"
    for _ in range(2):
        with pytest.raises(ConfigError, match=reason):
            train_run(run, Control(run), resume=True)
        state = Follower(run).catch_up()
        assert state.status(locked=False) == "stopped"
        assert state.ended is not None
        assert reason in str(state.ended.error)
        assert state.epochs
    net.write_text(text)
    resubmit(run)
    assert train_run(run, Control(run), resume=True).state == "completed"


def test_a_net_that_was_edited_while_its_run_waited_is_trained_with_a_word(
    own: Callable[..., RunDir],
) -> None:
    run = own("    pass\n", "train.epochs=1")
    net = run.path.parent.parent.parent / "own.py"
    net.write_text(f"{net.read_text()}# edited\n")
    notices: list[str] = []

    def listen(envelope: events.Envelope) -> None:
        if isinstance(envelope.event, events.Notice) and envelope.event.code == "net-changed":
            notices.append(envelope.event.message)

    assert train_run(run, Control(run), listener=listen).state == "completed"
    line = f"{net} was changed since the run was queued: it is trained as it is now"
    assert notices == [line]
    net_files.check(run, read_config(run))  # the one that was trained


def test_what_was_put_down_by_others_reads_no_other_files(
    own: Callable[..., RunDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = own("    pass\n")
    config = read_config(run)
    kept = net_files._digest(tmp_path / "own.py")
    read: list[Path] = []
    look = net_files._digest
    monkeypatch.setattr(net_files, "_digest", lambda path, *_: (read.append(path), look(path))[1])
    for name in ("/etc/passwd", "../other", "x/../../other"):
        run.net.write_bytes(msgspec.json.encode(net_files.NetFiles(kept, {name: "0"})))
        assert net_files.changed(run, config)
    assert set(read) == {tmp_path / "own.py"}
    run.net.write_bytes(b"{")
    with pytest.raises(RunError, match="cannot be read"):
        net_files.changed(run, config)


HELPED = """
    def __init__(self, classes):
        from pathlib import Path
        super().__init__(classes)
        from build_helper import width
        Path(__file__).with_name("build_helper.py").write_text("width = 2\\n")

    def forward(self, x):
        from forward_helper import once
        return once * super().forward(x)
"""


def test_what_is_put_down_is_what_was_trained(own: Callable[..., RunDir], tmp_path: Path) -> None:
    helper, late = tmp_path / "build_helper.py", tmp_path / "forward_helper.py"
    helper.write_text("width = 1\n")
    late.write_text("once = 1\n")
    run = own(HELPED, "train.epochs=1")
    assert train_run(run, Control(run)).state == "completed"
    copies = {path.name: path.read_text() for path in (run.path / "net").iterdir()}
    assert copies == {
        "own.py": (tmp_path / "own.py").read_text(),
        helper.name: "width = 1\n",
        late.name: "once = 1\n",
    }
    with pytest.raises(ConfigError, match=r"build_helper\.py was changed since"):
        open_inspection(run, trusted=True)
    helper.write_text("width = 1\n")
    net_files.check(run, read_config(run))
    late.write_text("once = 2\n")
    with pytest.raises(ConfigError, match=r"forward_helper\.py was changed since"):
        open_inspection(run, trusted=True)


def test_a_file_that_is_edited_after_it_was_compared_is_not_gone_on_with(
    own: Callable[..., RunDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "helper_of_race.py"
    helper.write_text("one = 1\n")
    run = own("    from helper_of_race import one\n")
    stopped(run)
    before, build = run.net.read_bytes(), registry.build

    def late(*arguments: Any, **named: Any) -> object:
        helper.write_text("one = 2\n")
        net = build(*arguments, **named)
        helper.write_text("one = 1\n")  # as if nothing had been
        return net

    monkeypatch.setattr(registry, "build", late)
    resubmit(run)
    with pytest.raises(ConfigError, match=r"helper_of_race\.py was changed since"):
        train_run(run, Control(run), resume=True)
    assert run.net.read_bytes() == before


def test_weights_from_before_a_change_are_not_looked_at_with_the_new_files(
    own: Callable[..., RunDir], tmp_path: Path
) -> None:
    run = stopped(own("    pass\n"))
    earlier = run.checkpoint("last").read_bytes()
    net = tmp_path / "own.py"
    net.write_text(f"{net.read_text()}# the same\n")
    resubmit(run, changed_net=True)
    assert train_run(run, Control(run), resume=True).state == "completed"
    run.checkpoint("best").write_bytes(earlier)  # as where no later epoch is better
    with pytest.raises(
        ConfigError, match=r"best\.pt was written at step 6, .* since step 6: .*net"
    ):
        open_inspection(run, "best", trusted=True)
    assert net_files.identity(run, read_config(run)), "not that of features kept before"
    for role, changed in (("last", False), ("best", True)):
        with pytest.raises(DataError):  # no word of the net
            open_inspection(run, role, trusted=True, changed_net=changed)


def test_each_file_has_a_copy_of_its_own(own: Callable[..., RunDir], tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "v2.py").write_text("one = 1\n")
    run = own("    from own.v2 import one\n", "train.epochs=1", name="own.v2")
    assert train_run(run, Control(run)).state == "completed"
    texts = {(tmp_path / name).read_text() for name in ("own.v2.py", "own/v2.py")}
    assert {path.read_text() for path in (run.path / "net").iterdir()} == texts
    assert len(texts) == 2

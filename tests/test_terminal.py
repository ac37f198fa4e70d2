"""The terminal: ASCII mode, the link's pace, bytes counted, and a terminal that goes away."""

from __future__ import annotations

import os
import queue
import re
import select as selecting
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.color import ColorSystem
from rich.style import Style
from textual import constants, events
from textual.message import Message

from tests.terminal import Terminal
from trainer.characters import TABLE, in_words, to_ascii
from tui import themes
from tui.formatting import STATES
from tui.terminal.difference import Difference
from tui.terminal.driver import Ending, Output, TerminalDriver
from tui.terminal.settings import TerminalSettings, detect
from tui.terminal.thin import Thin
from tui.terminal.traffic import QUESTION, Traffic

ROOT = Path(__file__).resolve().parent.parent
ESCAPES = re.compile(rb"\x1b\[[0-9;?<>=]*[ -/]*[a-zA-Z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("plain", "plain"),
        ("╭──┬╮", "+--++"),
        ("│ 87 % │", "| 87 % |"),
        ("┌─┤", "+-+"),
        ("█▌░", "#|."),
        ("⠁⡀⣿⠀⢸", "'.# :"),
        ("naïve é", "naive e"),
        ("32×32 …", "32x32 ~"),  # noqa: RUF001
        ("日", "??"),
        ("━━┅", "==-"),
    ],
)
def test_ascii_keeps_the_width(text: str, plain: str) -> None:
    assert text.translate(TABLE) == plain
    assert len(plain) == cell_len(text)


def test_running_text_keeps_its_meaning_in_ascii() -> None:
    assert in_words("(≥ 87.0 %)  ↵ opens", ascii=True) == "(>= 87.0 %)  enter opens"
    assert in_words("← → others", ascii=True) == "arrows others"
    assert in_words("≥ 2", ascii=False) == "≥ 2"


def test_every_character_that_is_drawn_has_ascii_of_its_width() -> None:
    for code in [*range(0x80, 0x250), *range(0x2010, 0x2C00), *range(0x4E00, 0x4E40)]:
        character = chr(code)
        plain = to_ascii(character)
        assert plain.isascii(), hex(code)
        assert len(plain) == cell_len(character) or cell_len(character) == 0, hex(code)


def test_marks_of_runs_are_told_apart_in_ascii() -> None:
    marks = [to_ascii(themes.run_glyph(slot)) for slot in range(8)]
    assert len(set(marks)) == 8
    assert "?" not in [*marks, to_ascii("★"), *(to_ascii(glyph) for glyph, _ in STATES.values())]


@pytest.mark.parametrize(
    ("environment", "ascii"),
    [
        ({}, False),
        ({"LANG": "C"}, True),
        ({"LANG": "POSIX"}, True),
        ({"LANG": "C.UTF-8"}, False),
        ({"LANG": "de_DE.UTF-8"}, False),
        ({"LANG": "de_DE"}, False),
        ({"LANG": "de_DE.ISO-8859-1"}, True),
        ({"LANG": "C", "LC_ALL": "en_US.utf8"}, False),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "C"}, True),
        ({"LC_CTYPE": "UTF-8"}, False),
        ({"TERM": "linux", "LANG": "C.UTF-8"}, True),
        ({"TERM": "vt100"}, True),
        ({"TERM": "screen-256color", "LANG": "C.UTF-8"}, False),
    ],
)
def test_ascii_is_chosen_by_locale_and_terminal(environment: dict[str, str], ascii: bool) -> None:
    assert detect(environment).ascii is ascii
    assert detect(environment, ascii=True).ascii


def test_under_ssh_charts_take_their_time_unless_told_otherwise() -> None:
    remote = {"SSH_CONNECTION": "10.0.0.1 50000 10.0.0.2 22"}
    assert detect({"TERM": "xterm-256color"}) == TerminalSettings()
    assert detect(remote).charts > detect({}).charts
    assert detect(remote, full_bandwidth=True) == detect({})
    low = detect({}, low_bandwidth=True)
    assert low.charts > detect(remote).charts
    assert low.rate == 960


def test_traffic_counts_and_says_when_a_slow_link_is_through() -> None:
    now = [100.0]
    traffic = Traffic(960, clock=lambda: now[0])
    assert traffic.behind() == 0
    traffic.add(1920)
    assert traffic.behind() == pytest.approx(2)
    now[0] += 1.5
    assert traffic.behind() == pytest.approx(0.5)
    traffic.add(480)
    assert traffic.behind() == pytest.approx(1)
    now[0] += 5
    assert traffic.behind() == 0
    assert traffic.total == 2400
    assert traffic.per_second() == pytest.approx(2400 / 6.5)
    now[0] += 20
    assert traffic.per_second() == 0
    unlimited = Traffic(None, clock=lambda: now[0])
    unlimited.add(1 << 20)
    assert unlimited.behind() == 0


def test_traffic_waits_for_the_answer_of_a_terminal_that_answers() -> None:
    now = [100.0]
    traffic = Traffic(clock=lambda: now[0])
    traffic.add(100)
    assert traffic.ask() == QUESTION
    assert not traffic.busy, "not every terminal answers"
    traffic.add(104)
    assert traffic.ask() == "", "one that has not answered is not asked again"
    now[0] += 0.5
    traffic.answered()
    assert traffic.seconds == 0.5
    assert traffic.slow
    assert traffic.ask() == QUESTION
    assert traffic.busy
    now[0] += 0.1
    traffic.answered()
    assert not traffic.busy
    assert not traffic.slow
    traffic.add(len(QUESTION))
    assert traffic.ask() == "", "nothing was drawn since the answer"
    traffic.add(10)
    assert traffic.ask() == QUESTION
    now[0] += 60
    assert not traffic.busy, "an answer that is lost stops nothing"


def test_on_a_link_that_buffers_no_picture_is_drawn_before_the_last_is_through(
    tmp_path: Path,
) -> None:
    """Slow to answer, as a far terminal behind SSH: its questions come one at a time."""
    terminal = app(tmp_path, SSH_CONNECTION="10.0.0.1 50000 10.0.0.2 22")
    try:
        terminal.wait("first paint", lambda: "synthetic" in terminal.text(), 120)
        question = QUESTION.encode()
        terminal.wait("a question", lambda: question in terminal.raw, 120)
        terminal.press("\x1b[5;7R")  # the answer, late
        for _ in range(3):
            terminal.raw.clear()
            terminal.press("2")
            terminal.press("1")
            terminal.wait("the next question", lambda: question in terminal.raw, 120)
            terminal.settle()
            assert terminal.raw.count(question) == 1
            terminal.press("\x1b[5;7R")
        terminal.press("q")
        terminal.wait("the program's end", lambda: terminal.status() is not None, 120)
        assert terminal.status() == 0
    finally:
        terminal.kill()


def painted(data: str) -> list[list[object]]:
    """All cells of a terminal after some output, with their colours and attributes."""
    screen = pyte.Screen(40, 6)
    pyte.Stream(screen).feed(data)
    return [[screen.buffer[y][x] for x in range(40)] for y in range(6)]


STYLES = st.builds(
    Style,
    color=st.sampled_from([None, "red", "#123456", "#ffffff", "color(99)"]),
    bgcolor=st.sampled_from([None, "blue", "#101010", "#202020"]),
    bold=st.booleans(),
    reverse=st.booleans(),
)
PIECES = st.one_of(
    st.builds(
        lambda style, text: style.render(text, color_system=ColorSystem.TRUECOLOR),
        STYLES,
        st.text(alphabet="ab ", min_size=0, max_size=30),
    ),
    st.builds(lambda y, x: f"\x1b[{y};{x}H", st.integers(1, 6), st.integers(1, 8)),
    st.sampled_from(["\x1b[2;3H\x1b[K", "\x1b[?25l", "\x1b[31m", "\x1b[0m", "\x1b[?1049h"]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(PIECES, max_size=6), max_size=6))
def test_thinned_output_paints_the_same(writes: list[list[str]]) -> None:
    thin = Thin()
    whole = ["".join(pieces) for pieces in writes]
    thinned = [thin(text) for text in whole]
    assert painted("".join(whole) + "\x1b[0m") == painted("".join(thinned) + "\x1b[0m")
    # on another screen the style may be another: it is said anew
    screens = "".join(whole).count("?1049")
    assert len("".join(thinned)) <= len("".join(whole)) + 4 * len(whole) + 8 + 48 * screens


def test_pieces_of_one_style_are_sent_as_one() -> None:
    style = Style(color="#123456", bgcolor="#101010")
    text = "".join(style.render(word, color_system=ColorSystem.TRUECOLOR) for word in ("a", "b"))
    other = Style(color="#123456", bgcolor="#202020").render("c")
    assert Thin()(text + other) == "\x1b[0;38;2;18;52;86;48;2;16;16;16mab\x1b[48;2;32;32;32mc"


# within the width: what terminals do with a wide character at the margin differs
PLACED = st.one_of(
    st.builds(
        lambda y, x, style, text: (
            f"\x1b[{y};{x}H" + style.render(text, color_system=ColorSystem.TRUECOLOR)
        ),
        st.integers(1, 5),
        st.integers(1, 8),
        STYLES,
        st.text(alphabet="ab ", min_size=0, max_size=30),
    ),
    st.sampled_from(
        ["\x1b[6;3H日本", "\x1b[6;3H本日", "\x1b[6;3Habé…", "\x1b[2;3H\x1b[K", "\x1b[31m"]
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(PLACED, max_size=6), max_size=6))
def test_only_differences_paint_the_same(writes: list[list[str]]) -> None:
    difference = Difference(palette=False, erase=True)
    difference.resize(40, 6)
    sent = ""
    for pieces in writes:
        difference.draw("".join(pieces))
        sent += difference.take()
    difference.draw("\x1b[0m")
    whole = "".join(map("".join, writes))
    assert visible(painted(sent)) == visible(painted("\x1b[?7l" + whole))


def test_after_a_size_that_was_there_only_for_a_moment_all_is_sent_again() -> None:
    difference = Difference(palette=False, erase=True)
    for lost, sent in ((False, True), (False, False), (True, True), (False, False)):
        difference.resize(40, 6, lost=lost)
        difference.draw("\x1b[2;3Hwords")
        assert ("words" in difference.take()) == sent


def visible(cells: list[list[Any]]) -> list[list[tuple[object, ...]]]:
    """What a person sees of the cells: a blank has no foreground and is not bold."""
    return [
        [
            (cell.data, cell.bg, cell.reverse, cell.data != " " and (cell.fg, cell.bold))
            for cell in line
        ]
        for line in cells
    ]


def test_on_a_slow_link_colours_are_numbers_and_blanks_are_erased() -> None:
    difference = Difference(palette=True, erase=True)
    difference.draw("\x1b[1;1H\x1b[48;2;255;0;0mab" + " " * 40 + "c\x1b[2;71Hd" + " " * 9)
    assert difference.take() == ("\x1b[1H\x1b[0;48;5;196mab\x1b[40X\x1b[40Cc\x1b[2;71Hd\x1b[K")


def test_on_a_slow_link_only_the_last_of_many_drawings_is_sent() -> None:
    difference = Difference(palette=True, erase=True)
    for loss in ("1.25", "1.24", "1.20"):
        difference.draw(f"\x1b[3;5Hloss {loss}")
    assert difference.take() == "\x1b[3;5H\x1b[0mloss 1.20"
    difference.draw("\x1b[3;5Hloss 1.19")
    assert difference.take() == "\x1b[3;12H19"
    difference.draw("\x1b[3;5Hloss 1.19")
    assert difference.take() == ""
    difference.draw("\x1b[?1049h\x1b[3;5Hloss 1.19")
    assert difference.take() == "\x1b[0m\x1b[3;14H\x1b[?1049h\x1b[3;5H\x1b[0mloss 1.19"


def test_questions_come_behind_what_was_drawn_before() -> None:
    difference = Difference(palette=True, erase=True)
    difference.draw("\x1b[1;1Ha" + QUESTION + "\x1b[2;1Hb\x07")
    sent = difference.take()
    assert sent.index("a") < sent.index(QUESTION) < sent.index("b")
    assert "\x07" in sent


def test_output_to_a_terminal_that_is_gone_is_dropped() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as file:  # noqa: PTH123  # a descriptor
        output = Output(file, Traffic(), TerminalSettings(ascii=True))
        output.write("é" * 100_000)
        output.flush()
        assert output.gone
        output.write("more")
        output.flush()


class Keyboard(TerminalDriver):
    """The reader alone, of a pipe; notes the keys."""

    def __init__(self, fileno: int, settings: TerminalSettings) -> None:
        self.fileno = fileno
        self.settings = settings
        self.exit_event = Ending()
        self._debug = False
        self._reader_ended = False
        self.keys: queue.Queue[str] = queue.Queue()

    def process_message(self, message: Message) -> None:
        assert isinstance(message, events.Key)
        self.keys.put(message.key)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Keyboard, int]]:
    """A reader on a thread, and the descriptor to type on."""
    monkeypatch.setattr(constants, "ESCAPE_DELAY", constants.ESCAPE_DELAY)  # restored afterwards
    reader, writer = os.pipe()
    keyboard = Keyboard(reader, TerminalSettings())
    thread = threading.Thread(target=keyboard.run_input_thread, daemon=True)
    thread.start()
    yield keyboard, writer
    os.close(writer)
    thread.join(120)
    assert not thread.is_alive()
    assert keyboard._reader_ended
    os.close(reader)


def test_a_lone_escape_is_a_key_and_a_sequence_is_one_too(typed: tuple[Keyboard, int]) -> None:
    keyboard, writer = typed
    for keys, names in (
        (b"\x1b", ["escape"]),
        (b"\x1b[B", ["down"]),
        (b"\x1b\x1b[A", ["escape", "up"]),
        (b"q\xff\xc3", ["q", "replacement_character"]),
        (b"\xa9", ["é"]),
    ):
        os.write(writer, keys)
        assert [keyboard.keys.get(timeout=120) for _ in names] == names


@pytest.mark.parametrize("unknown", [b"\x1b[97;1:3u", b"\x1b[1;1:1A", b"\x1b[1114112u"])
def test_a_sequence_that_nobody_knows_is_not_the_end_of_all_keys(
    typed: tuple[Keyboard, int], unknown: bytes
) -> None:
    keyboard, writer = typed
    os.write(writer, unknown)
    os.write(writer, b"")
    time.sleep(0.05)  # a read of its own
    os.write(writer, b"q")
    while keyboard.keys.get(timeout=120) != "q":
        pass


def test_who_waits_for_keys_sleeps_until_one_comes_or_the_app_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An app that nobody types to must not wake up for it: a training beside it would wait."""
    patient: list[float | None] = []
    select = selecting.select

    def noted(*arguments: Any) -> Any:
        patient.append(arguments[3])
        return select(*arguments)

    monkeypatch.setattr("tui.terminal.driver.select.select", noted)
    before = 0

    class Noting(Keyboard):
        def process_message(self, message: Message) -> None:
            nonlocal before
            before = len(patient)
            super().process_message(message)

    reader, writer = os.pipe()
    keyboard = Noting(reader, TerminalSettings())
    for typed in (b"x", b"y"):  # Textual suspends and goes on: the same event is set twice
        thread = threading.Thread(target=keyboard.run_input_thread, daemon=True)
        thread.start()
        os.write(writer, typed)
        assert keyboard.keys.get(timeout=120) == typed.decode()
        while len(patient) == before or patient[-1] is not None:  # it waits for the next key
            time.sleep(0.01)
        looks = len(patient)
        time.sleep(0.3)
        assert len(patient) == looks
        keyboard.exit_event.set()
        thread.join(120)
        assert not thread.is_alive()
        keyboard.exit_event.clear()
    assert not keyboard._reader_ended
    os.close(writer)
    os.close(reader)


def test_who_is_woken_by_the_end_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the reader would go on and wait for a key that nobody types: the app would hang."""
    ending, seen, write = Ending(), [], os.write

    def noted(descriptor: int, data: bytes) -> int:
        seen.append(ending.is_set())
        return write(descriptor, data)

    monkeypatch.setattr("tui.terminal.driver.os.write", noted)
    ending.set()
    assert seen == [True]
    assert selecting.select([ending], [], [], 0)[0] == [ending]
    for _ in range(100_000):  # more than a pipe holds
        ending.set()
    ending.clear()
    assert not ending.is_set()
    assert selecting.select([ending], [], [], 0)[0] == []


@pytest.mark.parametrize("said", [True, False])
def test_a_sequence_that_comes_in_parts_is_one_key(
    monkeypatch: pytest.MonkeyPatch, said: bool
) -> None:
    """As long as the parts come soon enough, by ESCDELAY or by what the link takes."""
    monkeypatch.setattr(constants, "ESCAPE_DELAY", 30.0 if said else 0.01)
    monkeypatch.setenv("ESCDELAY", "30000")
    if not said:
        monkeypatch.delenv("ESCDELAY")
        monkeypatch.setattr(TerminalSettings, "escape", 30.0)
    reader, writer = os.pipe()
    keyboard = Keyboard(reader, TerminalSettings())
    thread = threading.Thread(target=keyboard.run_input_thread, daemon=True)
    thread.start()
    for part in (b"\x1b", b"[", b"1;5", b"C"):
        os.write(writer, part)
        time.sleep(0.2)  # read one by one
    assert keyboard.keys.get(timeout=120) == "ctrl+right"
    os.close(writer)
    thread.join(120)
    os.close(reader)
    assert keyboard.keys.empty()


def test_a_slower_link_is_given_longer_for_a_sequence() -> None:
    local, far = detect({}), detect({"SSH_TTY": "/dev/pts/1"})
    slow = detect({"SSH_TTY": "/dev/pts/1"}, low_bandwidth=True)
    assert local.escape < far.escape < slow.escape <= 0.1


def app(tmp_path: Path, *options: str, **environment: str) -> Terminal:
    command = [sys.executable, "-m", "tui", "--runs-dir", str(tmp_path / "runs")]
    env = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", **environment}
    return Terminal([*command, "--data", "synthetic", *options], env, columns=100, lines=32)


def test_in_ascii_mode_no_other_byte_is_sent(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "20261123-120000-quick-aaaa"
    run.mkdir(parents=True)
    (run / "events.jsonl").write_bytes((ROOT / "tests" / "golden" / "v1.jsonl").read_bytes())
    terminal = app(tmp_path, LANG="C", LC_ALL="", LC_CTYPE="")
    try:
        terminal.wait("the keys of the list", lambda: "enter Open" in terminal.text(), 120)
        for key in ("2", "f", "f", "3", "4", "k", "5", "n"):
            terminal.press(key)
            terminal.settle()
        terminal.wait("the form", lambda: "ctrl+s starts" in terminal.text(), 120)
        assert "+--" in terminal.text()
        rest = ESCAPES.sub(b"", bytes(terminal.raw))
        assert all(byte < 0x80 for byte in rest)
    finally:
        terminal.kill()


def test_the_terminal_is_left_as_it_was_however_the_app_was_stopped(tmp_path: Path) -> None:
    """Stopped and gone on without a warning, told to end; with its standard error elsewhere."""
    errors = tmp_path / "errors"
    command = f"exec {sys.executable} -m tui --runs-dir {tmp_path / 'runs'} --data synthetic"
    env = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    terminal = Terminal(["sh", "-c", f"{command} 2>{errors}"], env, columns=100, lines=32)
    modes = termios.tcgetattr(terminal.fd)
    try:
        terminal.wait("first paint", lambda: "No runs yet" in terminal.text(), 120)
        terminal.settle()
        assert termios.tcgetattr(terminal.fd)[3] != modes[3]
        os.kill(terminal.pid, signal.SIGSTOP)
        time.sleep(0.1)
        terminal.raw.clear()
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.wait("the app again", lambda: b"\x1b[?1049h" in terminal.raw, 120)
        terminal.settle()
        terminal.press("?")
        terminal.wait("the help", lambda: "Keys" in terminal.text(), 120)
        os.kill(terminal.pid, signal.SIGTERM)
        end = time.monotonic() + 120
        while (status := terminal.status()) is None and time.monotonic() < end:
            terminal.pump()
        assert status == 128 + signal.SIGTERM
        terminal.settle()
        for left in (b"\x1b[?1049l", b"\x1b[?1000l", b"\x1b[?2004l", b"\x1b[?25h", b"\x1b[<u"):
            assert left in terminal.raw
        assert termios.tcgetattr(terminal.fd)[:4] == modes[:4]
    finally:
        terminal.kill()
    assert errors.read_bytes() == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_app_that_a_signal_ends_tells_of_it(tmp_path: Path, number: signal.Signals) -> None:
    terminal = app(tmp_path)
    try:
        terminal.wait("first paint", lambda: "synthetic" in terminal.text(), 120)
        terminal.settle()
        os.kill(terminal.pid, number)
        terminal.wait("its end", lambda: terminal.status() is not None, 120)
        assert terminal.status() == 128 + number
    finally:
        terminal.kill()


def test_an_app_whose_terminal_takes_nothing_ends_when_it_is_told_to(tmp_path: Path) -> None:
    code = "import tui.app; tui.app.GOODBYE_SECONDS = 0.5; from tui.__main__ import main; main()"
    options = ["--runs-dir", str(tmp_path / "runs"), "--data", "synthetic"]
    env = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    terminal = Terminal([sys.executable, "-c", code, *options], env, columns=200, lines=60)
    try:
        terminal.wait("first paint", lambda: "No runs yet" in terminal.text(), 120)
        for _ in range(40):  # nobody reads what they paint
            terminal.press("?\x1b")
            time.sleep(0.03)
        os.kill(terminal.pid, signal.SIGTERM)
        end = time.monotonic() + 120
        while terminal.status() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert terminal.status() == 128 + signal.SIGTERM
    finally:
        terminal.kill()


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_a_closed_descriptor_is_no_terminal(closed: str) -> None:
    command = f"exec {sys.executable} -m tui {closed}"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("cifar-tui: the app needs a terminal")


@pytest.mark.parametrize("ignored", [False, True])
def test_an_app_whose_terminal_is_gone_ends(tmp_path: Path, ignored: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        terminal = app(tmp_path)  # as under nohup, or not
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        terminal.wait("first paint", lambda: "synthetic" in terminal.text(), 120)
        terminal.settle()
        os.close(terminal.fd)
        end = time.monotonic() + 120
        while terminal.status() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert terminal.status() is not None
    finally:
        terminal.kill()

"""How the program exits, as the README has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trainer.events import EndState, RunEnded
from trainer.exit_codes import MEANINGS, for_torchrun, of_run

README = Path(__file__).parent.parent / "README.md"


def test_the_readme_has_all_of_them() -> None:
    told = re.search(r"^Exit codes: (.*?)\.$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert told is not None
    found = (entry.split(maxsplit=1) for entry in told[1].replace("\n", " ").split(", "))
    assert {int(code): words for code, words in found} == MEANINGS


@pytest.mark.parametrize(
    ("state", "error", "code", "told_torchrun"),
    [
        ("completed", None, 0, 0),
        ("failed", "nan", 1, 1),
        ("stopped", None, 130, 0),
        ("stopped", "its data were moved", 2, 0),
    ],
)
def test_the_end_of_a_run(
    state: EndState, error: str | None, code: int, told_torchrun: int
) -> None:
    ended = RunEnded(state=state, error=error)
    assert (of_run(ended), for_torchrun(ended)) == (code, told_torchrun)
    assert code in MEANINGS

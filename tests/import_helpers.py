"""What a process has imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import trainer

ROOT = Path(trainer.__file__).parents[1]


def modules_after(script: str, *args: str) -> set[str]:
    """Names in ``sys.modules`` of a fresh process after a script."""
    show = "import sys; print('\\n'.join(['', '@@', *sys.modules]), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}\n{show}", *args],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.partition("@@\n")[2].split())

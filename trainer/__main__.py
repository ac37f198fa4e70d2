"""``python -m trainer``: the command line without the app."""

from __future__ import annotations

import sys

from trainer.cli.main import run

if __name__ == "__main__":
    sys.exit(run(name="python -m trainer"))

"""``python -m trainer``: the command line without the app."""

from __future__ import annotations

from trainer.cli.main import run
from trainer.spoiled import end

if __name__ == "__main__":
    end(run(name="python -m trainer"))

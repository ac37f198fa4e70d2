"""``python -m trainer.worker``: the process that trains for the app."""

from __future__ import annotations

import sys

from trainer.spoiled import end
from trainer.worker.worker import main

if __name__ == "__main__":
    end(main(sys.argv[1:]))

"""``python -m trainer.inspection``: the process that looks into nets for the app."""

from __future__ import annotations

import sys

from trainer.inspection.inspector import main

if __name__ == "__main__":
    sys.exit(main())

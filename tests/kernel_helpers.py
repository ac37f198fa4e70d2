"""What tests of the kernels for a CPU need."""

from __future__ import annotations

import pytest

from trainer.kernels import tiles
from trainer.kernels.build import BuildError


def _tiles() -> bool:
    try:
        return tiles.ready()
    except BuildError:
        return False


needs_tiles = pytest.mark.skipif(not _tiles(), reason="no AMX here, or no C++ compiler")

"""The real photographs, where they lie beside the repository: JPEG-compressed, binary layout."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from trainer.data import sources
from trainer.data.dataset import Dataset

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    given = os.environ.get("CIFAR_TUI_SHARED")
    shared = Path(given) if given else Path(__file__).parents[2] / "shared"
    unpack = shared / "data" / "unpack.py"
    if not unpack.is_file():
        pytest.skip(f"no real images: {unpack} is not there (set CIFAR_TUI_SHARED)")
    # unpacking takes ten seconds: kept for the next time
    target = Path(tempfile.gettempdir()) / f"cifar-tui-test-data-{getpass.getuser()}"
    subprocess.run([sys.executable, str(unpack), str(target)], check=True)
    return sources.load(str(target))


def test_known_facts_of_cifar10(dataset: Dataset) -> None:
    assert dataset.kind == "folder"
    assert "not the official bytes" in dataset.source
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (50_000, 10_000)
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
    assert dataset.classes[dataset.test.labels[0]] == "cat"
    # the known moments of the official training split, which JPEG hardly moves
    np.testing.assert_allclose(dataset.mean, (0.4914, 0.4822, 0.4465), atol=0.002)
    np.testing.assert_allclose(dataset.std, (0.2470, 0.2435, 0.2616), atol=0.006)
    assert not any("also training images" in notice for notice in dataset.notices)

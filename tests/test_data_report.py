from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.data_helpers import binary_layout, image_folders, python_folder
from trainer.data import sources
from trainer.data.report import DataReport, report_on


def test_numbers_of_a_folder(tmp_path: Path) -> None:
    folder = binary_layout(tmp_path)
    (folder / "notes.txt").write_text("not of the set")
    report = report_on(str(tmp_path))
    dataset = sources.load(str(tmp_path))
    assert (report.train_images, report.test_images) == (40, 10)
    assert report.memory == 50 * 3072
    assert report.fingerprint == dataset.fingerprint
    assert (report.mean, report.std) == (dataset.mean, dataset.std)
    assert [(row.train, row.test) for row in report.classes] == [(4, 1)] * 10
    assert [row.name for row in report.files] == [
        "data_batch_1.bin",
        "data_batch_2.bin",
        "test_batch.bin",
    ]
    content = (folder / "test_batch.bin").read_bytes()
    assert report.files[-1].md5 == hashlib.md5(content).hexdigest()
    assert report.files[-1].bytes == len(content)
    assert report.shared_images == 0
    assert report.notices == dataset.notices


def test_it_is_json_and_back(tmp_path: Path) -> None:
    report = report_on(str(image_folders(tmp_path)))
    assert report.files == ()
    assert msgspec.json.decode(msgspec.json.encode(report), type=DataReport) == report


def test_shared_images_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = binary_layout(tmp_path)
    (folder / "test_batch.bin").write_bytes((folder / "data_batch_1.bin").read_bytes())
    assert report_on(str(folder)).shared_images == 20


def test_the_official_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python_folder(tmp_path, monkeypatch)
    report = report_on("cifar10", data_dir=tmp_path)
    assert report.kind == "cifar10"
    assert len(report.files) == 7


def test_looking_at_data_loads_no_torch(tmp_path: Path) -> None:
    binary_layout(tmp_path)
    program = (
        "import sys\n"
        "from trainer.analysis import terminal_image\n"
        "from trainer.data import download, report\n"
        "report.report_on(sys.argv[1])\n"
        "assert not {'torch', 'torchvision', 'textual'} & set(sys.modules)\n"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root, check=True)

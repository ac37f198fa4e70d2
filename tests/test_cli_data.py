from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training_helpers import TINY_NET
from trainer.cli import main
from trainer.cli import output as outputs

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    monkeypatch.setattr(outputs.out, "lost", None)
    monkeypatch.setenv("CIFAR_TUI_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main.run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_data_that_is_not_there(cli: Cli) -> None:
    code, text, err = cli("data")
    assert (code, text) == (2, "")
    assert "data --download" in err
    code, text, _ = cli("data", "--json")
    assert code == 2
    assert set(json.loads(text)) == {"error"}


def test_synthetic(cli: Cli) -> None:
    code, text, _ = cli("data", "--data", "synthetic")
    assert code == 0
    assert text.startswith("synthetic: ")
    assert "10,000 train and 2,000 test images" in text
    assert text.splitlines()[-1].split() == ["total", "10,000", "2,000"]
    report = json.loads(cli("data", "--data", "synthetic", "--json")[1])
    assert report["kind"] == "synthetic"
    assert sum(c["train"] for c in report["classes"]) == report["train_images"] == 10_000
    assert sum(c["test"] for c in report["classes"]) == report["test_images"] == 2_000
    assert len(report["fingerprint"]) == 64
    assert report["fingerprint"] in text
    assert all(0.2 < m < 0.8 for m in report["mean"])


@pytest.mark.parametrize("model", ["resnet8", "dws-late", "fast"])
def test_layers(cli: Cli, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    code, text, _ = cli("layers", model, "--json")
    assert code == 0
    summary = json.loads(text)
    assert sum(layer["parameters"] for layer in summary["layers"]) == summary["parameters"]
    monkeypatch.setenv("COLUMNS", "80")
    code, text, _ = cli("layers", model)
    assert code == 0
    lines = text.splitlines()
    head, rows = lines[0].split(), lines[1 : lines.index("")]
    assert head[0] == "layer"
    assert {"parameters", "RF"} <= set(head)
    assert max(map(len, [lines[0], *rows])) <= 80
    assert len(rows) == len(summary["layers"]) + 1
    assert f"{summary['parameters']:,}" in rows[-1]


def test_layers_tell_what_is_unknown(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    net = tmp_path / "net.py"
    net.write_text(
        "from torch import nn\n"
        "def Up(num_classes):\n"
        "    up = nn.ConvTranspose2d(3, 3, 2, stride=2)\n"
        "    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes)]\n"
        "    return nn.Sequential(up, nn.Conv2d(3, 3, 3, groups=3), *head)\n"
        "def Flat(num_classes):\n"
        "    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes)]\n"
        "    return nn.Sequential(nn.Conv2d(3, 3, (1, 11)), *head)\n"
    )
    _, text, _ = cli("layers", f"{net}:Up")
    assert "receptive field unknown before global pooling" in text
    assert "depthwise separable unknown, dilated 0" in text
    assert "global average pooling unknown, FC after pooling unknown" in text
    _, text, _ = cli("layers", f"{net}:Flat")
    assert "receptive field 1×11 before global pooling" in text  # noqa: RUF001
    assert "global average pooling yes, FC after pooling yes" in text


def test_layers_of_what_is_no_model(cli: Cli, tmp_path: Path) -> None:
    bad = tmp_path / "net.py"
    bad.write_text("class Net(:\n")
    for model in ("resnet9", "missing.py:Net", f"{bad}:Net", "[red]x[/]\x1b"):
        code, text, err = cli("layers", model)
        assert (code, text) == (2, "")
        assert err.startswith("cifar-tui: ")
        assert err.count("\n") == 1
        assert "\x1b" not in err


def test_json_of_a_net_that_prints_is_json(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    own = tmp_path / "own.py"
    own.write_text(f"{TINY_NET}\n\ndef talks(classes):\n    return Tiny(classes, prints=3)\n")
    code, text, err = cli("layers", f"{own}:talks", "--json")
    assert code == 0
    assert json.loads(text)["parameters"]
    assert set(err.splitlines()) == {"xxx"}
    assert "xxx" in cli("layers", f"{own}:talks")[1]


def test_what_others_write_to_standard_output_goes_to_standard_error() -> None:
    script = (
        "import os; from trainer.cli.output import out; print('before'); out.alone()\n"
        "print('a net'); os.write(1, b'C code\\n'); out.json('ours')\n"
        "out.take_back(); print('after')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.split(b"\n") == [b"before", b'"ours"', b"after", b""]
    assert sorted(done.stderr.split(b"\n")) == [b"", b"C code", b"a net"]


def test_a_net_that_prints_to_nobody_goes_on() -> None:
    script = (
        "from trainer.cli.output import out; out.lend()\n"
        "for _ in range(9): print('x' * 9999, flush=True)\n"
        "out.lines('ours'); out.take_back()"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", script], stdout=write, stderr=write, check=False)
    os.close(write)
    assert done.returncode == 0


# the preview


@pytest.mark.parametrize("width", [20, 80, 160])
def test_preview_shows_the_image_and_what_becomes_of_it(width: int) -> None:
    pytest.importorskip("torch")
    from trainer.cli.preview import grid
    from trainer.config import AugmentSettings
    from trainer.data import sources

    dataset = sources.load("synthetic")
    lines = grid(dataset, AugmentSettings(flip="random", shift=4, dropout=1.0), width)
    rows = [line for line in lines if "▀" in line.plain]
    labels = [line.plain for line in lines if "▀" not in line.plain]
    assert labels == [dataset.classes[int(i)] for i in dataset.train.labels[:4]]
    side = 32 if width == 160 else 16
    assert len(rows) == 4 * side // 2
    assert width < 40 or max(len(row.plain) for row in rows) <= width
    same = grid(dataset, AugmentSettings(flip="none"), width, "ascii")
    changed = grid(dataset, AugmentSettings(flip="none", shift=8), width, "ascii")

    def views(line: str) -> set[str]:
        return {line[at : at + side].ljust(side) for at in range(0, len(line), side + 2)}

    pictures = [line.plain for line in same if line.plain not in labels]
    assert all(len(views(line)) == 1 for line in pictures), "nothing to do: all are the image"
    assert any(len(views(line.plain)) > 1 for line in changed if line.plain not in labels)


def test_preview_shows_images_as_small_as_the_net_sees_them(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from trainer.cli.preview import grid, sides_of
    from trainer.config import AugmentSettings, TrainSettings
    from trainer.data import sources
    from trainer.presets import catalog

    # 7 epochs of 8 steps, 3 of 4; in 40 % of these 68 images have 24 and 28 pixels
    fast = sides_of(catalog.load("fast").train, 10_000, 500)
    assert fast[:8] == [24, 24, 28, 28, 32, 32, 32, 32]
    assert sides_of(TrainSettings(), 10_000, 160) == [32] * 3
    dataset = sources.load("synthetic")
    lines = grid(dataset, AugmentSettings(flip="none"), 160, "ascii", sides=[8, 8, 32])
    row = lines[8].plain
    image, first, _, third = (row[at : at + 32].ljust(32) for at in range(0, 136, 34))
    assert third == image != first
    assert first == "".join(pixel * 4 for pixel in first[::4])
    monkeypatch.setenv("COLUMNS", "160")
    text = cli("data", "--data", "synthetic", "--preview", "--preset", "fast")[1]
    assert "shrunk to 24, 24, 28 pixels a side as these epochs begin" in text
    text = cli("data", "--data", "synthetic", "--preview", "--preset", "quick")[1]
    assert "shrunk" not in text


@pytest.mark.parametrize(
    ("environment", "codes"),
    [({"NO_COLOR": "1", "TERM": "xterm-256color"}, "38;5;2"), ({"TERM": "xterm"}, "\x1b[")],
)
def test_preview_is_gray_where_there_are_no_colours(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], codes: str
) -> None:
    pytest.importorskip("torch")
    for name in ("COLORTERM", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"FORCE_COLOR": "1", **environment}.items():
        monkeypatch.setenv(name, value)
    code, text, _ = cli("data", "--data", "synthetic", "--preview", "--preset", "quick")
    assert code == 0
    assert "▀" in text
    assert codes in text
    coloured = {int(n) for n in re.findall(r"[34]8;5;(\d+)", text)}
    assert all(n >= 232 for n in coloured)


def test_preview_without_colours_is_ascii(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    code, text, _ = cli("data", "--data", "synthetic", "--preview", "--preset", "quick")
    assert code == 0
    assert text.isascii()
    assert "++++" in text
    code, text, err = cli("data", "--data", "synthetic", "--preview", "--json")
    assert (code, text, err.count("\n")) == (2, "", 1)
    code, _, err = cli("data", "--data", "synthetic", "--preview", "--preset", "quik")
    assert code == 2
    assert "did you mean" in err


# the download


def fake_download(
    error: str = "",
) -> Callable[[str, Path, Callable[[int, int], None]], Path]:
    def download(name: str, folder: Path, progress: Callable[[int, int], None]) -> Path:
        from trainer.errors import DataError

        progress(0, 100)
        for done in range(1, 100):
            progress(done, 100)
        if error:
            raise DataError(error)
        progress(100, 100)
        return folder

    return download


def test_download_tells_scripts_how_far_it_is(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.data import download

    monkeypatch.setattr(download, "download", fake_download())
    code, text, _ = cli("data", "--data", "synthetic", "--download", "--json")
    assert code == 0
    first, *middle, last, report = [json.loads(line) for line in text.splitlines()]
    assert first == {"downloaded": 0, "total": 100}
    assert last == {"downloaded": 100, "total": 100}
    assert len(middle) < 20, "not a line a chunk"
    assert report["kind"] == "synthetic"


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_download_without_a_network_is_one_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    from trainer.data import download

    line = "cannot download CIFAR-10 (no route): train on --data synthetic"
    monkeypatch.setattr(download, "download", fake_download(line))
    code, text, err = cli("data", "--download", *arguments)
    assert code == 2
    assert err.endswith(f"cifar-tui: {line}\n")
    if arguments:
        assert json.loads(text.splitlines()[-1]) == {"error": line}
    else:
        assert text == ""


def test_a_folder_cannot_be_downloaded(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("data", "--download", "--data", tmp_path)
    assert code == 2
    assert "cannot be downloaded" in err


def test_nothing_is_told_of_a_download_that_is_none(cli: Cli) -> None:
    code, text, err = cli("data", "--data", "synthetic", "--download")
    assert (code, text) == (2, "")
    assert err == "cifar-tui: synthetic cannot be downloaded, only cifar10 and cifar100\n"


def test_a_preset_without_a_preview_is_refused(cli: Cli) -> None:
    code, text, err = cli("data", "--data", "synthetic", "--preset", "nope")
    assert (code, text) == (2, "")
    assert err == "cifar-tui: --preset says what --preview shows: give both, or neither\n"


def test_the_advice_names_the_data_directory(cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "my data"
    code, _, err = cli("data", "--data", "cifar100", "--data-dir", place)
    assert code == 2
    assert f"cifar-tui data --download --data cifar100 --data-dir '{place}'" in err
    assert "--data-dir" not in cli("data")[2]
    (place / "cifar-10-batches-py").mkdir(parents=True)
    _, _, err = cli("train", "quick", "--data", "cifar10", "--data-dir", place)
    assert f"cifar-tui data --download --data-dir '{place}'" in err

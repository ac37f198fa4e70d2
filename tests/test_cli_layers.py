"""``layers`` of nets of one's own: what it says where there is no pooling, or little is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.cli import main
from trainer.cli import output as outputs

pytest.importorskip("torch")

Cli = Callable[..., str]

NETS = """
import torch
from torch import nn

class Numpy(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x):
        return self.fc(torch.from_numpy(x.detach().numpy().mean((2, 3))))

class Distances(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.centres = nn.Parameter(torch.rand(num_classes, 3))

    def forward(self, x):
        return torch.cdist(x.mean((2, 3)), self.centres)

def Flat(num_classes=10):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(7200, num_classes))

def Unfolded(num_classes=10):
    return nn.Sequential(nn.Unfold(4, stride=4), nn.Flatten(), nn.Linear(3072, num_classes))
"""


@pytest.fixture
def of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    monkeypatch.setattr(outputs.out, "lost", None)
    (tmp_path / "nets.py").write_text(NETS)

    def call(name: str, *options: str) -> str:
        assert main.run(["layers", f"{tmp_path}/nets.py:{name}", *options]) == 0
        return capsys.readouterr().out

    return call


def test_the_reason_of_what_is_unknown_is_told(of: Cli) -> None:
    lost = "the output does not depend on the image, as far as torch tells"
    text = of("Numpy")
    assert f"multiply-adds (MACs) per image unknown: {lost}" in text
    assert f"receptive field unknown before global pooling: {lost}" in text
    assert "global average pooling unknown, FC after pooling unknown" in text
    assert json.loads(of("Numpy", "--json"))["macs"] is None
    assert "per image unknown: those of the net (Distances) are not known" in of("Distances")
    assert "receptive field unknown before global pooling: no rule for im2col" in of("Unfolded")


def test_without_pooling_the_receptive_field_is_not_said_to_be_before_it(of: Cli) -> None:
    text = of("Flat")
    assert "receptive field 3 before the layer that mixes all positions, not clipped" in text
    assert "global average pooling no, FC after pooling no" in text
    assert "before global pooling" not in text

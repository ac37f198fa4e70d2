"""Nets by name; every mistake is one clear line."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from model import registry
from model.checks import check_output
from model.errors import ModelError


def test_import_needs_no_torch() -> None:
    code = (
        "import sys; from model import registry; registry.names(); registry.describe('fast');"
        "sys.exit(any(m.partition('.')[0] in ('torch', 'torchvision') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", registry.names())
def test_every_name_builds_with_its_classes(name: str) -> None:
    assert registry.describe(name)
    net = registry.build(name, classes=7)
    check_output(net, 7)
    with pytest.raises(ModelError, match=r"\[2, 7\].*\[2, 10\]"):
        check_output(net, 10)


def test_unknown_name_lists_near_ones() -> None:
    with pytest.raises(ModelError, match="did you mean dws-late"):
        registry.build("dws-lat")
    with pytest.raises(ModelError, match=r"choose standard, .*fast"):
        registry.describe("zzzzzz")


def test_unknown_norm_names_the_choices() -> None:
    with pytest.raises(ModelError, match="'btach': choose batch, layer, group"):
        registry.build("dws-late", norm="btach")
    with pytest.raises(ModelError, match="batch norm"):
        registry.build("fast", norm="layer")


def test_options_reach_the_net_and_unknown_ones_are_named() -> None:
    net = registry.build("dws-late", options={"dropout": 0.25})
    assert {m.p for m in net.modules() if isinstance(m, nn.Dropout)} == {0.25}
    with pytest.raises(ModelError, match=r"no option 'droput' \(its options: dropout\)"):
        registry.build("dws-late", options={"droput": 0.25})
    with pytest.raises(ModelError, match="cannot build dws-late: ValueError"):
        registry.build("dws-late", options={"dropout": 3.0})


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> object:
        return {"out": x} if x.shape[0] == 2 else x


def test_output_that_is_no_tensor_and_a_net_that_fails() -> None:
    with pytest.raises(ModelError, match=r"one tensor \[N, 10\], not a dict"):
        check_output(Broken(), 10)
    with pytest.raises(ModelError, match=r"fails on a batch \[2, 3, 32, 32\]: RuntimeError"):
        check_output(nn.Linear(7, 10), 10)


def test_check_leaves_the_net_and_the_generator_as_they_were() -> None:
    net = registry.build("resnet8").train()
    net.stem.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check_output(net, 10)
    assert torch.equal(torch.rand(4), expected)
    assert net.training
    assert not net.stem.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())

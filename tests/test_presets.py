from __future__ import annotations

from pathlib import Path

import pytest

from trainer import config
from trainer.errors import ConfigError
from trainer.presets import catalog

WANTED = {
    "bn-l1-l2",
    "dws-late",
    "dws-normal",
    "fast",
    "gn-l1",
    "ln-l2",
    "quick",
    "resnet18",
    "standard",
    "tiny-best",
}


def test_the_presets_that_come_with_the_program() -> None:
    assert set(catalog.names()) >= WANTED
    assert list(catalog.names()) == sorted(catalog.names())


@pytest.mark.parametrize("name", sorted(WANTED))
def test_every_preset_loads_and_says_what_it_is(name: str) -> None:
    made = catalog.load(name)
    assert made.preset == name
    assert made.description
    assert "\n" not in made.description
    assert config.from_toml(config.to_toml(made)) == made
    assert made.train.epochs >= 1
    assert made.data == "cifar10"


def test_presets_ask_for_different_things() -> None:
    made = [config.to_toml(catalog.load(name)).partition("[model]")[2] for name in catalog.names()]
    assert len(set(made)) == len(made)


def test_the_courseworks_normalization_models() -> None:
    gn, ln, bn = (catalog.load(name) for name in ("gn-l1", "ln-l2", "bn-l1-l2"))
    assert (gn.model.norm, ln.model.norm, bn.model.norm) == ("group", "layer", "batch")
    assert gn.optimizer.l1 > 0
    assert gn.optimizer.weight_decay == 0
    assert ln.optimizer.weight_decay > 0
    assert ln.optimizer.l1 == 0
    assert bn.optimizer.l1 > 0
    assert bn.optimizer.weight_decay > 0


def test_overrides() -> None:
    made = catalog.load("quick", ["train.epochs=2", "data=synthetic"])
    assert made.train.epochs == 2
    assert made.data == "synthetic"
    assert catalog.load("quick").train.epochs != 2
    with pytest.raises(ConfigError, match=r"quick: train\.epochs: expected .* >= 1"):
        catalog.load("quick", ["train.epochs=0"])


@pytest.mark.parametrize("name", ["", "quik", "../quick", "quick/", "[red]x[/]", "\x1b[31m", "\0"])
def test_unknown_preset_is_one_line_with_what_there_is(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        catalog.load(name)
    message = str(error.value)
    assert "presets are" in message
    assert "dws-late" in message
    assert "\x1b" not in message
    assert "\n" not in message


def test_a_slip_gets_a_hint() -> None:
    with pytest.raises(ConfigError, match="did you mean 'quick'"):
        catalog.load("quik")


def test_the_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(config.to_toml(catalog.load("dws-late")).replace("dws-late", "mine", 1))
    made = catalog.load(str(path), ["train.seed=7"])
    assert made.preset == "mine"
    assert made.train.seed == 7
    assert made.model == catalog.load("dws-late").model
    path.write_text("[train]\nepochs = 2\n")
    assert catalog.load(str(path)).preset == "mine"
    path.write_text("[train]\nepoch = 2\n")
    with pytest.raises(ConfigError, match="unknown key `epoch`"):
        catalog.load(str(path))
    with pytest.raises(ConfigError, match="cannot read"):
        catalog.load(str(tmp_path / "missing.toml"))

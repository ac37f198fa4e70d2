from __future__ import annotations

import math
import os
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import config
from trainer.config import RunConfig
from trainer.errors import ConfigError
from trainer.lifecycle.submit import submit

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def strategy(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, within its bounds."""
    meta: list[msgspec.Meta] = []
    if typing.get_origin(kind) is typing.Annotated:
        kind, *meta = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    if origin is dict:
        scalar = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), TEXT)
        finite = st.floats(allow_nan=False, allow_infinity=False)
        return st.dictionaries(TEXT, scalar | finite, max_size=3)
    if type(None) in typing.get_args(kind):
        return st.none() | st.one_of(
            [strategy(k) for k in typing.get_args(kind) if k is not type(None)]
        )
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return structs(kind)
    bounds = meta[0] if meta else msgspec.Meta()
    if kind is int:
        top = bounds.lt - 1 if bounds.lt is not None else bounds.le
        return st.integers(bounds.ge if bounds.ge is not None else -(2**53), top or 2**53)
    if kind is float:
        low = bounds.gt if bounds.gt is not None else bounds.ge
        return st.floats(
            low,
            bounds.lt if bounds.lt is not None else bounds.le,
            exclude_min=bounds.gt is not None,
            exclude_max=bounds.lt is not None,
            allow_nan=False,
            allow_infinity=False,
        )
    return (
        st.booleans() if kind is bool else TEXT.filter(lambda t: len(t) >= (bounds.min_length or 0))
    )


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{name: strategy(hint) for name, hint in hints.items()})


def valid(made: RunConfig) -> RunConfig:
    train = msgspec.structs.replace(made.train, device="cuda:3", processes=1)
    if made.schedule.name == "step":
        train = msgspec.structs.replace(train, skip_easy=0.0)
    optimizer = made.optimizer
    if optimizer.name != "muon":
        optimizer = msgspec.structs.replace(optimizer, aux_lr=0.0)
    return msgspec.structs.replace(made, train=train, optimizer=optimizer)


@settings(deadline=None, max_examples=40)
@given(structs(RunConfig).map(valid))
def test_toml_round_trip(made: RunConfig) -> None:
    text = config.to_toml(made)
    assert config.from_toml(text) == made
    assert config.to_toml(config.from_toml(text)) == text


def test_defaults_are_valid() -> None:
    assert config.from_mapping({}) == RunConfig()
    assert config.from_toml(config.to_toml(RunConfig())) == RunConfig()


def test_the_settings_of_a_log_are_read_once_and_may_be_damaged() -> None:
    text = config.to_toml(RunConfig(name="again"))
    assert config.of_log(text) == RunConfig(name="again")
    assert config.of_log(text) is config.of_log(text)
    for damaged in ("[train", "[train]\nepochs = -1", "unknown = 1", "x = " + "[" * 5000):
        assert config.of_log(damaged) is None


def test_configurations_are_immutable() -> None:
    with pytest.raises(AttributeError):
        RunConfig().data = "x"  # type: ignore[misc]


def test_a_whole_number_is_a_float_too() -> None:
    assert config.from_toml("[optimizer]\nlr = 1\n").optimizer.lr == 1.0


BAD = [
    ("epochs = 3", "unknown"),
    ("[train]\nepochss = 3", "epochss"),
    ("[train]\nepochs = 0", "train.epochs"),
    ("[train]\nepochs = -1", "train.epochs"),
    ("[train]\nepochs = " + "9" * 30, "train.epochs"),
    ('"a\\nb\\u001b" = 1', "unknown key"),
    ("[train]\nepochs = 1.5", "train.epochs"),
    ("[train]\nepochs = '3'", "train.epochs"),
    ("[train]\nepochs = true", "train.epochs"),
    ("[train]\nbatch_size = 0", "train.batch_size"),
    ("[train]\nlabel_smoothing = 1.0", "train.label_smoothing"),
    ("[train]\nema = 1.0", "train.ema"),
    ("[train]\nseed = -1", "train.seed"),
    ("[train]\nseed = 2147483648", "train.seed"),
    ("[train]\nprecision = 'int8'", "train.precision"),
    ("[train]\ndevice = 'gpu'", "device must be auto, cpu, cuda, cuda:N or mps"),
    ("[train]\ndevice = 'cuda:'", "device"),
    ("[train]\ndevice = 'cpu\\n'", "device"),
    ("[optimizer]\nlr = nan", "lr"),
    ("[optimizer]\nlr = inf", "lr"),
    ("[optimizer]\nlr = 0", "lr"),
    ("[optimizer]\nlr = -0.1", "lr"),
    ("[optimizer]\nname = 'sgdd'", "optimizer.name: unknown value 'sgdd': choose sgd, adam,"),
    ("[optimizer]\nname = 3", "optimizer.name: expected `str`, got `int`: choose sgd, adam,"),
    ("[optimizer]\nmomentum = 1", "optimizer.momentum"),
    ("[optimizer]\nweight_decay = -1e-4", "optimizer.weight_decay"),
    ("[optimizer]\naux_lr = 0.1", "muon only"),
    ("[optimizer]\nname = 'adamw'\naux_lr = 0.1", "muon only"),
    ("[schedule]\nwarmup = 1.5", "schedule.warmup"),
    ("[schedule]\ngamma = 0", "schedule.gamma"),
    ("[augment]\nshift = 17", "augment.shift"),
    ("[augment]\nflip = true", "augment.flip"),
    ("[model]\nnorm = 'instance'", "choose batch, layer or group"),
    ("[model.options]\nx = nan", "finite"),
    ("[model.options]\nx = [1]", "model.options"),
    ("[limits]\ntarget_accuracy = inf", "target_accuracy"),
    ("[evaluate]\ntta = 'shift'", "choose none, flip or flip+shift"),
    ("train = 3", "train"),
    ("train_limit = -1", "train_limit"),
    ("name = '" + "x" * 300 + "'", "300 characters"),
    ("data = ''", "data"),
    ("[model]\nname = ''", "model.name"),
    ("x = ", "not valid TOML"),
    ("[train", "not valid TOML"),
    ("a = 1\na = 2", "not valid TOML"),
    ("x = " + "[" * 5000, "not valid TOML"),
    ("x = " + "9" * 5000, "not valid TOML"),
    ("a." * 3000 + "b = 1", "more than 20 deep"),
    (f"[{'.'.join('a' * 3000)}]", "more than 20 deep"),
    ("name = '\x00'", "not valid TOML"),
]


@pytest.mark.parametrize(("text", "names"), BAD, ids=range(len(BAD)))
def test_each_bad_value_is_one_line_that_names_it(text: str, names: str) -> None:
    with pytest.raises(ConfigError) as error:
        config.from_toml(text, origin="mine.toml")
    message = str(error.value)
    assert message.startswith("mine.toml: ")
    assert names in message
    assert "\n" not in message
    assert "$" not in message
    assert len(message) < 250


def test_text_that_cannot_be_written_is_refused() -> None:
    """An argument that is no UTF-8 arrives with lone surrogates."""
    for bad in ({"name": "\udcff"}, {"data": "x\udcff"}, {"model": {"options": {"a": "\udcff"}}}):
        with pytest.raises(ConfigError, match="UTF-8"):
            config.from_mapping(bad)


@given(st.text(max_size=60))
def test_any_toml_text_is_a_configuration_or_one_line(text: str) -> None:
    try:
        made = config.from_toml(text)
    except ConfigError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert isinstance(made, RunConfig)


# --set


def test_override() -> None:
    base = {"train": {"epochs": 3}, "model": {"name": "fast"}}
    values = config.override(
        base,
        [
            "train.epochs = 5",
            "optimizer.lr=0.05",
            "model.norm=group",
            "model.options.width=32",
            'name="a = b"',
            "limits.no_fc_after_pooling=true",
            "train.epochs=7",
        ],
    )
    made = config.from_mapping(values)
    assert made.train.epochs == 7
    assert made.optimizer.lr == 0.05
    assert made.model == config.ModelSettings(name="fast", norm="group", options={"width": 32})
    assert made.name == "a = b"
    assert made.limits.no_fc_after_pooling is True
    assert base == {"train": {"epochs": 3}, "model": {"name": "fast"}}, "the preset stays as it is"


@pytest.mark.parametrize("bad", ["", "=", "=3", "epochs", "train.=3", ".epochs=3", "a..b=1"])
def test_override_needs_key_and_value(bad: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        config.override({}, [bad])


def test_override_below_a_value_that_is_no_table() -> None:
    with pytest.raises(ConfigError, match="name is no table"):
        config.override({"name": "x"}, ["name.first=1"])


@pytest.mark.parametrize("value", ["nan", "-inf", "0", "'x'", "[1]", "", "[" * 5000], ids=range(7))
def test_override_with_a_bad_value(value: str) -> None:
    with pytest.raises(ConfigError) as error:
        config.from_mapping(config.override({}, [f"optimizer.lr={value}"]))
    assert "lr" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["/a\x7fb", "/😀", "it's \"\\", "two\nlines", 3, 0.1, True])
def test_a_setting_is_read_as_what_it_was_made_of(value: object) -> None:
    assert config.override({}, [config.setting("a.b", value)]) == {"a": {"b": value}}


@given(st.dictionaries(st.sampled_from(["lr", "momentum"]), st.floats(1e-6, 0.99)))
def test_override_takes_any_number_as_python_writes_it(values: dict[str, float]) -> None:
    made = config.from_mapping(
        config.override({}, [f"optimizer.{key}={value!r}" for key, value in values.items()])
    )
    for key, value in values.items():
        assert math.isclose(getattr(made.optimizer, key), value, rel_tol=0)


# files


def test_read_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nepochs = 2\n")
    assert config.read_file(path) == {"train": {"epochs": 2}}
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.read_file(path)
    path.write_text("x = ")
    with pytest.raises(ConfigError, match=r"mine\.toml: not valid TOML"):
        config.read_file(path)
    with pytest.raises(ConfigError, match="No such file"):
        config.read_file(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="it is no file"):
        config.read_file(tmp_path)
    os.mkfifo(tmp_path / "pipe.toml")  # nobody writes to it
    with pytest.raises(ConfigError, match="it is no file"):
        config.read_file(tmp_path / "pipe.toml")


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"target_accuracy": 87.0}, "limits.target_accuracy is a share, 0 to 1, not 87"),
        ({"max_parameters": -5}, "limits.max_parameters must not be below 0, but is -5"),
        ({"max_parameters": 10**23}, "limits.max_parameters must be at most 1000000000000"),
        ({"min_receptive_field": -1}, "limits.min_receptive_field must not be below 0"),
    ],
)
def test_limits_that_make_no_sense_are_refused_for_new_runs_alone(
    tmp_path: Path, limits: dict[str, float], problem: str
) -> None:
    earlier = config.from_mapping({"limits": limits})  # a run of an earlier version is read
    with pytest.raises(ConfigError, match=problem):
        submit(earlier, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    assert config.from_toml(config.to_toml(earlier)) == earlier

"""Loss, confidence and entropy of images that float16 probabilities cannot tell apart."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.training_helpers import log_of, tiny_dataset, tiny_run
from trainer import words
from trainer.analysis import export, mistake_words, mistakes
from trainer.analysis.mistakes import Mistakes, Sort
from trainer.analysis.mistakes_filter import parse_filter, select
from trainer.config import AugmentSettings, Tta
from trainer.errors import RunError
from trainer.loop.augment import Augment
from trainer.loop.evaluate import DeviceTestSplit, Evaluation, evaluate
from trainer.runs import predictions
from trainer.runs.predictions import Predictions

CLASSES = ("cat", "deer", "dog")
GAPS = (0.5, 8.0, 17.0, 20.0, 40.0, 60.0, 95.0, 2000.0)
"""Between the logits of the predicted class and of the actual one."""
COUNT = len(GAPS)


class Looked(nn.Module):
    """The logits of the row that an image's first pixel names."""

    def __init__(self, logits: NDArray[np.float64]) -> None:
        super().__init__()
        self.rows = torch.from_numpy(logits).float()

    def forward(self, images: Tensor) -> Tensor:
        return self.rows[(images[:, 0, 0, 0] * 255).round().long()]


def wrong_ones() -> NDArray[np.float64]:
    """Logits [N, 3]; deer is predicted, cat is the actual class."""
    return np.array([[300.0 - gap, 300.0, 299.0 - gap] for gap in GAPS])


def evaluated(logits: NDArray[np.float64], tta: Tta = "none") -> Evaluation:
    """Of images labelled cat; each one's mirror image has the logits of the next row."""
    images = torch.zeros(COUNT, 3, 32, 32, dtype=torch.uint8)
    images[:, :, :, :16] = torch.arange(COUNT).view(-1, 1, 1, 1)
    images[:, :, :, 16:] = ((torch.arange(COUNT) + 1) % COUNT).view(-1, 1, 1, 1)
    augment = Augment(
        AugmentSettings(),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    return evaluate(
        Looked(logits),
        DeviceTestSplit(images, torch.zeros(COUNT, dtype=torch.int64), 3),
        augment,
        batch_size=3,
        autocast=cast(Any, nullcontext),
        tta=tta,
    )


def table(found: Evaluation, *, exact: bool = True) -> Mistakes:
    labels = np.zeros(COUNT, np.int64)
    made = Predictions(found.probabilities, labels, "test", "", 1, found.predicted, found.figures)
    return mistakes.table(made if exact else replace(made, figures=None))


def expected(logits: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Loss, ln of 1 - p of deer, ln of the entropy, in logarithms."""
    z = logits - logits.max(1, keepdims=True)
    log_others = np.logaddexp(z[:, 0], z[:, 2])
    log_all = np.log1p(np.exp(log_others))
    own = np.where(log_others < -30, log_others, np.log(np.maximum(log_all, 1e-300)))
    terms = [z[:, k] + np.log(-z[:, k]) - log_all for k in (0, 2)]
    return log_all - z[:, 0], log_others - log_all, np.logaddexp.reduce([own, *terms])


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_the_figures_are_those_of_the_logits(tta: Tta) -> None:
    logits = wrong_ones()
    found = evaluated(logits, tta)
    if tta == "flip":
        logits = (logits + np.roll(logits, -1, 0)) / 2
    loss, log_rest, log_entropy = expected(logits)
    assert found.figures.loss == pytest.approx(loss, rel=1e-5)
    assert float(found.figures.loss.mean()) == pytest.approx(found.loss, rel=1e-6)
    assert found.figures.log_rest == pytest.approx(log_rest, rel=1e-4)
    assert found.figures.log_entropy == pytest.approx(log_entropy, rel=1e-4)
    few = np.array([[-2.0, 0, -3], [-0.1, 0, -5]])
    shares = np.exp(few) / np.exp(few).sum(1, keepdims=True)
    plain = -(shares * np.log(shares)).sum(1)
    assert expected(few)[2] == pytest.approx(np.log(plain), rel=1e-9), "as by definition"
    assert {column.dtype for column in vars(found.figures).values()} == {np.dtype(np.float32)}


def test_margins_of_right_images_are_those_of_the_logits() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (COUNT, 3))
    logits[:, 0] = logits.max(1) + random.uniform(0, 3, COUNT)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = table(evaluated(logits))
    assert found.right.all()
    assert found.margin == pytest.approx(shares[:, 0] - shares[:, 1:].max(1), abs=1e-6)


def test_a_class_that_has_no_chance_at_all() -> None:
    logits = wrong_ones()
    logits[0, 0] = logits[1, 2] = -np.inf
    found = evaluated(logits)
    assert found.figures.loss[0] == np.inf
    assert not np.isnan(found.figures.log_rest).any()
    assert not np.isnan(found.figures.log_entropy).any()
    assert table(found).p_actual[0] == 0
    logits[:, [0, 2]] = -np.inf
    images = table(evaluated(logits))
    assert set(images.confidence) == {1.0}
    assert set(images.entropy) == set(images.p_actual) == {0.0}


def test_a_sure_net_is_told_from_a_surer_one() -> None:
    images = table(evaluated(wrong_ones()))
    assert images.exact
    assert images.loss == pytest.approx([0.9, *GAPS[1:]], abs=0.6)
    for line in ("conf>=100%", "entropy<=0", "actual<=0"):
        assert not parse_filter(line, CLASSES).mask(images).any(), line
    assert parse_filter("loss>16.7", CLASSES).mask(images).tolist() == [False] * 2 + [True] * 6
    most = list(range(COUNT))[::-1]
    for sort in ("loss", "confidence", "margin"):
        assert select(images, sort=cast(Sort, sort)).tolist() == most, sort
    assert select(images, sort="entropy").tolist() == most[::-1]
    assert (images.margin <= 0).all()
    assert images.probabilities(4)[1] == images.confidence[4] < 1


def test_what_is_right_is_as_exact() -> None:
    logits = wrong_ones()[:, [1, 0, 2]]
    images = table(evaluated(logits))
    assert images.right.all()
    assert images.loss[3] == pytest.approx(np.exp(-20) * (1 + np.exp(-1)), rel=1e-4)
    assert images.p_actual.tolist() == images.confidence.tolist()
    assert (images.margin > 0).all()
    assert not parse_filter("loss<=0", CLASSES).mask(images)[:7].any()


def test_nothing_is_rounded_to_all_of_it() -> None:
    images = table(evaluated(wrong_ones()))
    (row,) = export.rows(images, np.array([4]), CLASSES)
    assert row["exact"]
    assert row["p_predicted"] < 1
    assert row["p_actual"] > 0
    assert mistake_words.percent(row["p_predicted"], exact=True) == ">99.99 %"
    assert mistake_words.percent(row["p_actual"], exact=True) == "<0.01 %"
    assert mistake_words.probability(row["p_predicted"], 3, exact=True) == ">.999"
    assert mistake_words.loss(40.125, exact=True) == "40.125"
    assert [mistake_words.loss(x, exact=True) for x in (1234.5, 1e9)] == ["1234.5", "1.0e+09"]
    assert words.probability(1.0) == "1.00"
    assert row["margin"] > -1
    assert not parse_filter("margin<=-1", CLASSES).mask(images).any()
    assert mistake_words.margin(row["margin"], right=False) == "<-0.999"
    assert mistake_words.entropy(row["entropy"], exact=True) == "<0.001"


def test_no_figure_is_rounded_to_none_or_outgrows_its_column() -> None:
    losses = [0.0, 1e-9, 0.0004, 0.0006, 999.9994, 999.9997, 99999.94, 99999.97, 3e38, np.inf]
    assert [mistake_words.loss(nats, exact=True) for nats in losses] == [
        *("<0.001", "<0.001", "<0.001", "0.001", "999.999"),
        *("1000.0", "99999.9", "1.0e+05", "3.0e+38", "inf"),
    ]
    assert mistake_words.loss(0.0, exact=False) == "<0.001", "float16 makes 0.9998 all of it"
    assert mistake_words.entropy(1e-9, exact=True) == "<0.001"
    assert mistake_words.entropy(1e-9, exact=False) == "<0.01"
    margins = [-1.0, -0.9997, -0.125, -1e-9, 0.0]
    told = ["<-0.999", "<-0.999", "-0.125", ">-0.001", ">-0.001"]
    assert [mistake_words.margin(m, right=False) for m in margins] == told
    turned = [words.replace("-", "+").translate(str.maketrans("<>", "><")) for words in told]
    assert [mistake_words.margin(-m, right=True) for m in margins] == turned


def test_float16_alone_says_bounds() -> None:
    images = table(evaluated(wrong_ones()), exact=False)
    assert not images.exact
    (row,) = export.rows(images, np.array([4]), CLASSES)
    assert not row["exact"]
    assert mistake_words.loss(row["loss"], exact=False) == "≥16.23"
    assert mistake_words.percent(row["p_predicted"], exact=False) == "≥99.97 %"
    assert mistake_words.percent(row["p_predicted"], 1, exact=False) == "≥99.9 %"
    assert mistake_words.probability(row["p_predicted"], exact=False) == "≥.99"
    assert mistake_words.percent(row["p_actual"], exact=False) == "<0.01 %"
    assert mistake_words.entropy(row["entropy"], exact=False) == "<0.01"
    assert mistake_words.loss(2.5, exact=False) == "2.500"


@pytest.mark.parametrize("gap", [16.2305, 16.3, 17.0, 40.0])
def test_the_largest_loss_of_float16_is_a_bound(gap: float) -> None:
    p = torch.softmax(torch.tensor([[0.0, -gap]], dtype=torch.float64), 1).half().numpy()
    images = mistakes.table(Predictions(p, np.array([1]), "test", "", 1))
    loss = float(images.loss[0])
    assert loss <= gap
    told = mistake_words.loss(loss, exact=False)
    assert told == "≥16.23"
    assert parse_filter(f"loss>={told[1:]}", CLASSES).mask(images).all()


def test_a_round_trip_and_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    made = table(evaluated(wrong_ones())).source
    assert made.figures is not None
    predictions.save(made, path)
    found = predictions.load(path).figures
    assert found is not None
    assert list(made.figures.columns()) == list(predictions.FIGURES)
    for name, column in made.figures.columns().items():
        assert np.array_equal(getattr(found, name), column)
    for changes in (
        {"loss": made.figures.loss[1:]},
        {"loss": made.figures.loss.astype(np.float64)},
        {"loss": -made.figures.loss},
        {"log_rest": np.ones(COUNT, np.float32)},
        {"log_second": np.ones(COUNT, np.float32)},
        {"log_entropy": np.full(COUNT, np.nan, np.float32)},
        {"log_entropy": np.array([None] * COUNT)},
    ):
        predictions.save(replace(made, figures=replace(made.figures, **changes)), path)
        with pytest.raises(RunError, match=r"p\.npz"):
            predictions.load(path)
    predictions.save(made, path)
    with np.load(path) as file:
        rest = {name: file[name] for name in file.files if name != "log_entropy"}
    np.savez(path, **rest)
    with pytest.raises(RunError, match="log_entropy"):
        predictions.load(path)
    older = replace(made, figures=replace(made.figures, log_second=None))
    predictions.save(older, path)
    assert predictions.load(path).figures is not None


def test_a_run_keeps_them_of_each_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.sources.load", lambda *_, **__: tiny_dataset())
    run = tiny_run(tmp_path, "train.epochs=1", "evaluate.tta='flip'", "train.ema=0.5")
    ended = {e.variant: e for e in log_of(run) if e.__class__.__name__ == "EvalEnded"}
    assert len(ended) > 1
    for variant, event in ended.items():
        images = mistakes.table(predictions.load(run.predictions(1, variant)))
        assert images.exact
        assert float(images.loss.mean()) == pytest.approx(event.loss, rel=1e-5)

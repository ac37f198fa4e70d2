"""Late epochs without the easy images: which they are, in which order, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.training_helpers import tiny_dataset, tiny_run
from trainer import events
from trainer.config import ConfigError, TrainSettings, from_mapping
from trainer.lifecycle.session import train_run
from trainer.loop.hard_examples import HardExamples
from trainer.runs import checkpoint
from trainer.runs.control import Control
from trainer.runs.follower import Follower

CPU = torch.device("cpu")


def examples(**settings: float) -> HardExamples:
    values = {"epochs": 4, "batch_size": 2, "skip_easy": 0.5, "skip_easy_from": 0.5}
    return HardExamples(10, TrainSettings(**(values | settings)), CPU)  # type: ignore[arg-type]


def test_the_hardest_images_of_the_last_losses_are_trained_on() -> None:
    hard = examples()
    assert [hard.steps(epoch) for epoch in (1, 2, 3, 4)] == [5, 5, 2, 2]
    assert hard.total() == 14
    logits = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(10) % 3
    order = hard.order(1, resumed=False)
    assert sorted(order.tolist()) == list(range(10))
    for index in order.split(2):
        hard.note(index, F.log_softmax(logits[index], 1), labels[index])
    expected = F.cross_entropy(logits, labels, reduction="none")
    assert hard.losses is not None
    torch.testing.assert_close(hard.losses, expected)
    late = hard.order(3, resumed=False)
    assert sorted(late.tolist()) == sorted(expected.topk(4).indices.tolist())


def test_an_image_never_seen_comes_first_and_one_left_out_comes_back() -> None:
    hard = examples(skip_easy=0.8, skip_easy_from=0.0)
    assert hard.first == 1
    logits = torch.zeros(10, 2)
    logits[:, 0] = torch.arange(10.0)
    seen = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7])
    hard.note(seen, F.log_softmax(logits[seen], 1), torch.zeros(8, dtype=torch.int64))
    assert sorted(hard.order(1, resumed=False).tolist()) == [8, 9]
    hard.note(torch.tensor([8, 9]), F.log_softmax(logits[[8, 9]], 1), torch.zeros(2).long())
    assert sorted(hard.order(2, resumed=False).tolist()) == [0, 1]


def test_images_without_a_loss_are_drawn_where_not_all_are_trained_on() -> None:
    """The first ones of a set that is sorted by class are of half the classes."""
    found = []
    for seed in (0, 0, 1):
        settings = TrainSettings(
            epochs=3, batch_size=10, skip_easy=0.5, skip_easy_from=0.0, seed=seed
        )
        hard = HardExamples(100, settings, CPU)
        first = hard.order(1, resumed=False)
        assert len({image // 10 for image in first.tolist()}) > 7
        hard.note(first, torch.zeros(50, 2), torch.zeros(50, dtype=torch.int64))
        second = hard.order(2, resumed=False)
        assert sorted([*first.tolist(), *second.tolist()]) == list(range(100))
        found.append(first.tolist())
    assert found[0] == found[1] != found[2]


def test_where_all_without_a_loss_are_trained_on_the_order_is_that_of_earlier_versions() -> None:
    hard = examples(skip_easy_from=0.0)
    assert hard.losses is not None
    hard.losses.copy_(torch.tensor([0, 2, torch.inf, 0, 2, torch.inf, 1, 1, 0, torch.inf]))
    earlier = hard.losses.argsort(descending=True, stable=True)
    assert torch.equal(hard.order(2, resumed=False), earlier[hard.shuffle(2)])


def test_an_order_in_use_is_kept_and_restored() -> None:
    hard = examples(skip_easy_from=0.0)
    assert hard.losses is not None
    hard.losses.copy_(torch.rand(10, generator=torch.Generator().manual_seed(1)))
    order = hard.order(1, resumed=False).clone()
    hard.losses.copy_(hard.losses.flip(0))
    other = examples(skip_easy_from=0.0)
    other.load_state_dict(hard.state_dict())
    assert torch.equal(other.order(1, resumed=True), order)
    assert not torch.equal(other.order(1, resumed=False), order)


def test_as_many_images_are_left_out_as_asked_for() -> None:
    settings = TrainSettings(epochs=2, batch_size=1000, skip_easy=0.8)  # 1 - 0.8 is below 0.2
    hard = HardExamples(50_000, settings, CPU)
    assert [hard.steps(epoch) for epoch in (1, 2)] == [50, 10]


@pytest.mark.parametrize("skip_easy", [0.0, 0.3])
@pytest.mark.parametrize("start", [0.0, 0.4, 1.0])
def test_the_steps_of_all_epochs_are_those_of_each(skip_easy: float, start: float) -> None:
    some = examples(skip_easy=skip_easy, skip_easy_from=start, epochs=7)
    assert some.total() == sum(some.steps(epoch) for epoch in range(1, 8))
    assert examples(skip_easy=skip_easy, epochs=10**15).total() > 10**15 // 2  # at once


def test_an_order_of_a_version_that_left_out_more_goes_on_with_the_hardest_others() -> None:
    hard = examples(skip_easy=0.2, skip_easy_from=0.0)
    losses, order = torch.arange(10.0), torch.tensor([9, 0, 8, 7, 5, 6])
    hard.load_state_dict({"losses": losses, "order": order})
    assert hard.order(1, resumed=True).tolist() == [9, 0, 8, 7, 5, 6, 4, 3]


def test_less_than_a_batch_is_left_out_too() -> None:
    def left(images: int, share: float) -> list[bool]:
        settings = TrainSettings(epochs=4, batch_size=64, skip_easy=share, skip_easy_from=0.5)
        hard = HardExamples(images, settings, CPU)
        assert {hard.steps(epoch) for epoch in (1, 4)} == {images // 64}
        return [hard.leaves_out(epoch) for epoch in (1, 2, 3, 4)]

    assert left(637, 0.05) == [False, False, True, True]
    assert left(637, 0.0) == [False] * 4
    assert left(640, 0.0005) == [False] * 4  # which rounds to no image


def test_nothing_is_kept_where_nothing_is_skipped() -> None:
    hard = examples(skip_easy=0.0)
    assert hard.losses is None
    assert hard.state_dict() == {}
    assert hard.total() == 20
    hard.note(torch.arange(2), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


def test_a_run_tells_how_many_images_its_figures_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)
    run = tiny_run(tmp_path, "train.epochs=4", "train.skip_easy=0.5")
    train_run(run, Control(run))
    log = [e.event for e in Follower(run)._tail.read()]
    ended = [e for e in log if isinstance(e, events.EpochEnded)]
    size = next(e for e in log if isinstance(e, events.RunStarted)).batch_size
    assert ended[0].images == ended[1].images > ended[2].images == ended[3].images
    assert ended[2].images <= ended[0].images / 2
    told = [e.message for e in log if isinstance(e, events.Notice) and e.code == "skip-easy"]
    assert len(told) == 1
    assert f"{ended[2].images} hardest images" in told[0]
    state = Follower(run).catch_up()
    assert [row.train_images for row in state.epochs] == [e.images for e in ended]
    assert [e.hardest for e in ended] == [False, False, True, True]
    assert [state.left_easy_out(row) for row in state.epochs] == [False, False, True, True]
    assert state.total_steps == state.epochs[-1].step == sum(e.images for e in ended) // size
    assert "losses" in checkpoint.load(run.checkpoint("last"))["examples"]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"train": {"skip_easy": 0.5, "processes": 2}}, "processes = 1"),
        ({"train": {"skip_easy": 0.5}, "schedule": {"name": "step"}}, "schedule.name step"),
        ({"train": {"skip_easy": 1.0}}, "train.skip_easy"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        from_mapping(values)

"""A small, plausible run log with every kind of event, for the tests of log, fold and views."""

from __future__ import annotations

import random
from collections.abc import Iterable

from trainer import events
from trainer.events import AnyEvent, Envelope
from trainer.runs.runstate import RunState

RUN = "20261123-143005-quick-3f9c"
CLASSES = ("ring", "disc", "stripes")


def envelope(seq: int, event: AnyEvent, *, attempt: int = 1, elapsed: float = 0.0) -> Envelope:
    return Envelope(
        v=events.VERSION,
        run=RUN,
        attempt=attempt,
        seq=seq,
        time=1_795_444_205.0 + seq,
        elapsed=elapsed,
        event=event,
    )


def queued(epochs: int = 3) -> events.RunQueued:
    return events.RunQueued(
        name="first look",
        preset="quick",
        model="resnet8",
        data="synthetic",
        epochs=epochs,
        config='preset = "quick"\n',
    )


def started(resumed_step: int | None = None) -> events.RunStarted:
    return events.RunStarted(
        device="cpu",
        precision="fp32",
        steps_per_epoch=4,
        batch_size=8,
        train_images=32,
        test_images=6,
        classes=CLASSES,
        data_kind="synthetic",
        data_source="synthetic",
        data_fingerprint="0" * 64,
        host="here",
        pid=1,
        torch="2.9.0",
        threads=2,
        resumed_step=resumed_step,
    )


def described() -> events.ModelDescribed:
    return events.ModelDescribed(
        layers=(
            events.LayerRow(
                path="stem.conv",
                type="Conv2d",
                input_shape=(3, 32, 32),
                output_shape=(8, 32, 32),
                parameters=216,
                share=0.9,
                macs=221_184,
                kernel=(3, 3),
                stride=(1, 1),
                padding=(1, 1),
                dilation=(1, 1),
                groups=1,
                jump=(1, 1),
                receptive_field=(3, 3),
            ),
            events.LayerRow(
                path="head",
                type="Linear",
                input_shape=(8,),
                output_shape=(3,),
                parameters=27,
                share=0.1,
                macs=24,
                reason="after global pooling",
            ),
        ),
        parameters=243,
        trainable_parameters=243,
        macs=221_208,
        receptive_field=(3, 3),
        global_average_pooling=True,
        fc_after_pooling=True,
    )


def progress(epoch: int, done: int, *, loss: float | None = 1.0) -> events.Progress:
    return events.Progress(
        phase="train",
        epoch=epoch,
        step=(epoch - 1) * 4 + done,
        done=done,
        total=4,
        loss=loss,
        accuracy=0.5,
        lr=0.1,
        images_per_second=100.0,
        memory=1024,
    )


def epoch_ended(epoch: int) -> events.EpochEnded:
    return events.EpochEnded(
        epoch=epoch,
        step=epoch * 4,
        loss=1.5 / epoch,
        accuracy=0.3 + 0.1 * epoch,
        lr=0.1,
        seconds=2.0,
        images_per_second=16.0,
    )


def eval_ended(epoch: int, accuracy: float, variant: events.Variant = "plain") -> events.EvalEnded:
    return events.EvalEnded(
        epoch=epoch,
        step=epoch * 4,
        split="test",
        variant=variant,
        loss=1.1,
        accuracy=accuracy,
        correct=round(accuracy * 6),
        images=6,
        per_class=(1.0, 0.5, None),
        confusion=((2, 0, 0), (1, 1, 0), (0, 0, 0)),
        seconds=0.5,
    )


def epoch_events(epoch: int, accuracy: float) -> list[AnyEvent]:
    """One epoch with its progress, evaluation, predictions and checkpoint."""
    return [
        events.EpochStarted(epoch=epoch, step=(epoch - 1) * 4),
        progress(epoch, 2),
        progress(epoch, 4, loss=None),
        epoch_ended(epoch),
        eval_ended(epoch, accuracy),
        events.PredictionsSaved(
            epoch=epoch,
            step=epoch * 4,
            split="test",
            variant="plain",
            path=f"predictions/epoch-{epoch:04d}-plain.npz",
            images=6,
        ),
        events.CheckpointSaved(
            role="last", epoch=epoch, step=epoch * 4, path="checkpoints/last.pt"
        ),
    ]


def first_attempt() -> list[AnyEvent]:
    """Queued, two epochs, a pause, and a step of the third before it is stopped."""
    return [
        queued(),
        started(),
        described(),
        *epoch_events(1, 0.5),
        events.Paused(step=4),
        events.Resumed(step=4, seconds=3.0),
        *epoch_events(2, 4 / 6),
        events.EpochStarted(epoch=3, step=8),
        progress(3, 2),
        events.Notice(level="warning", code="not-a-number", message="[red]loss[/] is \x1b[31mnan"),
        events.RunEnded(state="stopped", best_accuracy=4 / 6, best_epoch=2, seconds=9.0),
    ]


def second_attempt() -> list[AnyEvent]:
    """Resumed at the end of the second epoch, completed with an evaluation by TTA."""
    return [
        started(resumed_step=8),
        described(),
        *epoch_events(3, 5 / 6),
        events.CheckpointSaved(role="best", epoch=3, step=12, path="checkpoints/best.pt"),
        eval_ended(3, 1.0, "tta"),
        events.Ranks(step=12, images_per_second=(50.0, 50.5), memory=(1024, 2048)),
        events.LayerStats(
            epoch=3,
            step=12,
            layers=("conv", "fc"),
            weight_norm=(1.5, 2.0),
            gradient_norm=(0.25, None),
            update_ratio=(-3.0, None),
            activations=("act",),
            dead=(0.125,),
        ),
        events.RunEnded(
            state="completed",
            best_accuracy=5 / 6,
            best_epoch=3,
            final_accuracy=5 / 6,
            seconds=4.0,
        ),
    ]


def whole() -> list[Envelope]:
    """The log of a run that was stopped and resumed: sequence without gaps."""
    first = [
        envelope(i, event, attempt=min(i, 1), elapsed=0.5 * i)
        for i, event in enumerate(first_attempt())
    ]
    second = [
        envelope(len(first) + i, event, attempt=2, elapsed=0.25 * i)
        for i, event in enumerate(second_attempt())
    ]
    return first + second


def lines(envelopes: list[Envelope] | None = None) -> bytes:
    return b"".join(events.encode(e) for e in (whole() if envelopes is None else envelopes))


def long_log(chance: random.Random) -> list[Envelope]:
    """Attempts, pauses, evaluations, gaps, repetitions: whatever order a damaged log may have."""
    made: list[Envelope] = []
    seq, attempt = 0, 0
    for event in [*first_attempt(), *second_attempt()]:
        for _ in range(chance.choice((0, 1, 1, 1, 2))):
            if isinstance(event, events.RunStarted):
                attempt += 1
            made.append(envelope(seq, event, attempt=attempt, elapsed=0.25 * seq))
            seq += chance.choice((0, 1, 1, 1, 3))
        whole = chance.random() < 0.5  # as nearly all are: points without a gap
        for i in range(chance.randrange(60)):
            phase = "train" if whole else chance.choice(("train", "train", "train", "test"))
            at = events.Progress(
                phase=phase,  # type: ignore[arg-type]
                epoch=1 if whole else 1 + i // 20,
                step=seq,
                done=i % 20,
                total=chance.choice((0, 20)),
                loss=chance.random() if whole else chance.choice((1.0, 2.0, None)),
                accuracy=chance.choice((None, chance.random())),
                lr=chance.choice((None, 0.1)),
                memory=chance.choice((None, None, seq)),
            )
            made.append(envelope(seq, at, attempt=attempt, elapsed=0.25 * seq))
            seq += 1 if whole else chance.choice((1, 1, 1, 1, 1, 1, 1, 1, 0, 2))
    return made


def numbered(*parts: events.AnyEvent, attempt: int = 1) -> list[Envelope]:
    return [envelope(i, e, attempt=attempt, elapsed=float(i)) for i, e in enumerate(parts)]


def fold(envelopes: Iterable[Envelope]) -> RunState:
    state = RunState()
    for one in envelopes:
        state.apply(one)
    return state

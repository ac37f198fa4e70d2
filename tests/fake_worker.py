"""Speaks the trainer's protocol and writes runs' logs, without torch: for the tests of the app.

``python tests/fake_worker.py [steps=N] [die=CODE] [refuse] [slow] [untrusted] [inspect=ERROR]``;
with ``deaf``, too, it closes its input before it dies. With ``go=FILE`` no run ends, and none that
is deaf dies, before that file is there.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from trainer import events
from trainer.runs.control import Control
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog

OPTIONS = dict(part.partition("=")[::2] for part in sys.argv[1:])
STEPS = int(OPTIONS.get("steps", "1000"))
GO = Path(OPTIONS.get("go", os.devnull))


def tell(**state: object) -> None:
    with suppress(OSError):
        os.write(1, json.dumps(state).encode() + b"\n")


def inspect(asked: dict[str, Any]) -> None:
    """Answer as the inspector does, with drawn maps; ``untrusted`` and ``inspect=ERROR`` refuse."""
    if not asked.get("run"):
        return
    ask, index = asked["ask"], asked.get("index", 0)
    if "inspect" in OPTIONS:
        tell(state="inspected", inspected={"ask": ask, "error": OPTIONS["inspect"]})
        return
    if "untrusted" in OPTIONS and not asked.get("trusted"):
        error = "the net is code of the file evil.py:Net"
        tell(state="inspected", inspected={"ask": ask, "error": error, "needs_trust": True})
        return
    layers = ["c1", "c2", "c3"]
    layer = asked.get("layer") if asked.get("layer") in layers else layers[-1]
    side = {"c1": 3, "c2": 9, "c3": 61}[layer]
    low, high = max(0, 16 - side // 2), min(31, 16 + side // 2)
    map_of = [255 if row < 16 else 0 for row in range(32) for _ in range(32)]
    answer = {
        "ask": ask,
        "index": index,
        "checkpoint": asked.get("checkpoint") or "best",
        "epoch": 3,
        "probabilities": [0.7, 0.2] + [0.0125] * 8,
        "layers": layers,
        "layer": layer,
        "of_class": 0,
        "cam": base64.b64encode(bytes(map_of)).decode(),
        "field_size": [side, side],
        "field_box": [low, high, low, high],
        "effective": base64.b64encode(bytes(reversed(map_of))).decode(),
        "effective_box": [low + 1, high - 1, low + 1, high - 1],
    }
    if "slow" in OPTIONS:
        tell(state="inspected", inspected={**answer, "computing": [12000, 50000]})
        return
    neighbours = [
        {
            "index": 100 + i,
            "label": i % 3,
            "similarity": 0.99 - i / 100,
            "pixels": base64.b64encode(bytes([30 * i]) * 3072).decode(),
        }
        for i in range(asked.get("neighbours", 8))
    ]
    tell(state="inspected", inspected={**answer, "neighbours": neighbours})


def train(run: RunDir, control: Control, *, resume: bool) -> None:
    log = RunLog(run)
    if control.stopping():
        log.emit(events.RunEnded(state="stopped"))
        log.close()
        return
    log.begin_attempt()
    log.emit(
        events.RunStarted(
            device="cpu",
            precision="fp32",
            steps_per_epoch=STEPS,
            batch_size=4,
            train_images=40,
            test_images=10,
            classes=("a", "b"),
            data_kind="synthetic",
            data_source="synthetic",
            data_fingerprint="0",
            resumed_step=0 if resume else None,
        )
    )
    state: events.EndState = "completed"
    paused = False
    step = 0
    while step < STEPS or not GO.exists():
        if control.stopping():
            state = "stopped"
            break
        if control.paused() != paused:
            paused = not paused
            log.emit(events.Paused(step=step) if paused else events.Resumed(step=step, seconds=0))
        if control.take_checkpoint_request():
            log.emit(events.CheckpointSaved(role="last", epoch=1, step=step, path="x"))
        if not paused:
            step += 1
            log.emit(
                events.Progress(phase="train", epoch=1, step=step, done=step, total=STEPS, loss=1.0)
            )
        control.wait(0.02)
    log.emit(events.RunEnded(state=state))
    log.close()


def main() -> int:
    jobs: queue.SimpleQueue[tuple[RunDir, Control, ExitStack, bool] | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            job = json.loads(line)
            if "inspect" in job:
                inspect(job["inspect"])
                continue
            run = RunDir(Path(job["run"]))
            if "refuse" in OPTIONS:
                tell(state="refused", run=job["run"], error=f"run {run.id} is not wanted")
                continue
            lock = ExitStack()
            lock.enter_context(run.locked())
            jobs.put((run, Control(run), lock, job["resume"]))
        jobs.put(None)

    os.write(1, b"a line that is no JSON\n")
    tell(state="loading")
    if "die" in OPTIONS:  # before anything is answered
        print("something\nthe last words", file=sys.stderr)
        if "deaf" in OPTIONS:
            os.close(0)
            tell(state="refused", run="", error="it hears nothing")
            while not GO.exists():
                time.sleep(0.01)
        return int(OPTIONS["die"])
    threading.Thread(target=read, daemon=True).start()
    tell(state="ready", torch="2.0.0", device="cpu", devices=["cpu"], threads=2, new_field=1)
    while (job := jobs.get()) is not None:
        run, control, lock, resume = job
        tell(state="training", run=run.id)
        with lock:
            train(run, control, resume=resume)
        tell(state="idle")
    return 0


if __name__ == "__main__":
    sys.exit(main())

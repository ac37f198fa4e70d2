"""Where a run is, as its checkpoints keep it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Position:
    """Where the run is. Together with the seed it decides everything random that follows."""

    epoch: int = 1
    """The epoch that is being trained, from 1."""
    batch: int = 0
    """Batches done in it."""
    step: int = 0
    """Optimizer steps done in the whole run."""
    best_accuracy: float = -1.0
    best_epoch: int = 0
    evals_without_best: int = 0
    evaluated: int = 0
    """The last epoch whose plain evaluation was counted: one that was stopped is done again."""
    final_accuracy: float = -1.0
    """Of the last evaluation; below 0 where the net's output was not a number."""
    epoch_seconds: float = 0.0
    """Training time spent in this epoch by earlier attempts."""

    def count(self, epoch: int, accuracy: float) -> bool:
        """Count a plain evaluation; whether it is the best so far."""
        if accuracy > self.best_accuracy:
            self.best_accuracy, self.best_epoch, self.evals_without_best = accuracy, epoch, 0
            return True
        self.evals_without_best += 1
        return False

"""Everything a training run must remember to go on as if it had never stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from models.darknet import Darknet
from training.ema import Ema
from utils.errors import Diverged, WeightsError


@dataclass
class Best:
    """The best evaluation so far, and how many came after it.

    Attributes:
        score: what evaluations are compared by: AP50 of a detector, or AP (`decisive`); top-1 of a classifier.
        tie_break: what decides between equals: AP, or AP50; top-5.
    """

    iteration: int = 0
    score: float = -1.0
    tie_break: float = -1.0
    evaluations_since: int = 0

    def update(self, iteration: int, score: float, tie_break: float) -> bool:
        """Note an evaluation; True where it is the best."""
        if (score, tie_break) <= (self.score, self.tie_break):
            self.evaluations_since += 1
            return False
        self.iteration, self.score, self.tie_break, self.evaluations_since = iteration, score, tie_break, 0
        return True


def decisive(ap50: float, ap: float, best_by: str | None) -> tuple[float, float]:
    """Score and tie-break of a detector's evaluation for ``--best-by``: None is ``ap50``, the other is ``ap``."""
    return (ap, ap50) if best_by == "ap" else (ap50, ap)


class Resumable(Protocol):
    """What remembers something from step to step, as plain tensors and numbers."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class TrainingState:
    """What changes while a network is trained.

    The order of the images and all augmentation are functions of (seed, iteration), so the position in the data is
    ``iteration`` and nothing of the loading processes has to be kept.
    """

    network: Darknet
    ema: Ema
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    iteration: int = 0  # optimiser steps done
    best: Best = field(default_factory=Best)
    criterion: Resumable | None = None  # a loss that remembers
    restarts: int = 0  # how often the run diverged and began once more

    def check_finite(self) -> None:
        """Look for NaN and infinity in weights and batch norm statistics.

        Raises:
            Diverged: with the first tensor that holds one.
        """
        for name, tensor in self.network.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise Diverged(
                    f"iteration {self.iteration}: {name} holds NaN or infinity; lower learning_rate; "
                    "last.pt, if there is one, is from before"
                )

    def as_dict(self) -> dict[str, Any]:
        """Plain tensors, numbers and text."""
        return {
            "model": self.network.state_dict(),
            "ema": self.ema.module_state(),
            "ema_state": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "criterion": self.criterion.state_dict() if self.criterion else {},
            "iteration": self.iteration,
            "restarts": self.restarts,
            "best": vars(self.best).copy(),
            "rng": torch.get_rng_state(),
        }

    def restore(self, saved: dict[str, Any], source: str) -> None:
        """Take over what `as_dict` gave, in place.

        Raises:
            WeightsError: ``saved`` is of another network, or of a run that keeps less.
        """
        try:
            self.network.load_state_dict(saved["model"])
            self.ema.load_state_dict(saved["ema_state"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
            if self.criterion:
                self.criterion.load_state_dict(saved["criterion"])
            self.iteration = saved["iteration"]
            self.restarts = saved.get("restarts", 0)  # younger than the first runs
            self.best = Best(**saved["best"])
            torch.set_rng_state(saved["rng"])
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(f"{source}: cannot go on from it ({reason}); start a new run with --weights") from None

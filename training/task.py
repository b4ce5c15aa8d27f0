"""What differs between learning boxes and learning what a whole image shows; the loop in train.py knows neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from data.formats.dataset import Dataset
from data.loading.batch_loader import Loading
from data.splits import Splits
from models.darknet import Darknet
from training.flags import TrainFlags
from training.state import Resumable
from utils.cfg import Config
from utils.device import resolve_precision
from utils.distributed import World
from utils.structures import Size


@dataclass(frozen=True)
class Setting:
    """Who trains, where, and what was asked for.

    Attributes:
        args: the flags of train.py.
        world: the processes.
        device: of this process.
        precision: what autocast computes in while training.
    """

    args: TrainFlags
    world: World
    device: torch.device
    precision: torch.dtype

    @property
    def eval_precision(self) -> torch.dtype:
        """What autocast computes in while measuring."""
        return resolve_precision(self.args.precision, self.device)

    @property
    def loading(self) -> Loading:
        """How training images are loaded."""
        pinned = self.device.type == "cuda"
        return Loading(self.args.workers, self.args.cache, pinned, self.world.rank, self.world.size)


@dataclass(frozen=True)
class Score:
    """What an evaluation came to.

    Attributes:
        decisive, tie_break: what evaluations are compared by, see `training.state.Best`.
        metrics: numbers by name, for the log.
        details: all that was measured, for best.json.
        board: the group of the metrics in TensorBoard.
        curve: precision at evenly spaced recalls from 0 to 1, where there is one.
        picture: uint8 (H, W, 3) RGB, what was found in a few images, where there is one.
    """

    decisive: float
    tie_break: float
    metrics: Mapping[str, float]
    details: Mapping[str, Any]
    board: str
    curve: np.ndarray | None = None
    picture: np.ndarray | None = None


class TrainingBatch(Protocol):
    """A mini-batch of any task."""

    @property
    def images(self) -> Tensor:
        """uint8 (B, 3, H, W) RGB."""

    @property
    def names(self) -> Sequence[str]:
        """The files each image was made of, for messages."""


class Objective(Protocol):
    """How one network is taught: its passes, and what they cost."""

    @property
    def criterion(self) -> Resumable:
        """The loss, and what it remembers from step to step."""

    def outputs(self, replica: nn.Module, batch: Any, iteration: int, part: int) -> list[Tensor]:
        """The training pass of a mini-batch, called under autocast.

        Args:
            replica: the network as it is called in training.
            iteration: optimiser steps done.
            part: number of the mini-batch in its step.
        """

    def losses(self, outputs: list[Tensor], batch: Any) -> dict[str, Tensor]:
        """Scalars summed over the images, the whole ``loss`` first, which has the gradient."""


class Task(Protocol):
    """A kind of training: `training.detection` and `training.classification`.

    Attributes:
        terms: names of what `Objective.losses` returns.
        small_batch: images of a step where there are few.
        things: what is labelled, for people.
    """

    terms: tuple[str, ...]
    small_batch: int
    things: str

    def __init__(self, setting: Setting) -> None: ...

    @staticmethod
    def settled(args: TrainFlags) -> TrainFlags:
        """The flags with what this task decides for itself; those it does not know are a UsageError."""

    def load(self) -> Splits:
        """The images of both sides."""

    def adapted(self, config: Config, splits: Splits) -> Config:
        """The cfg made for the classes of the data."""

    def weighed(self, config: Config, splits: Splits) -> Config:
        """The cfg with what ``--class-weights`` says, as far as a cfg can say it."""

    def largest_input(self, config: Config) -> Size:
        """(H, W) of the largest images of the training."""

    def prepare(self, network: Darknet) -> None:
        """Change a network before it is trained, in place."""

    def objective(self, network: Darknet, train_set: Dataset) -> Objective:
        """How ``network`` is taught."""

    def batches(self, config: Config, train_set: Dataset, start: int) -> Iterable[TrainingBatch]:
        """The mini-batches from iteration ``start`` to the cfg's last."""

    def inference_batches(self, network: Darknet, images: Dataset) -> Iterable[Tensor]:
        """Every image once as inference sees it, float (B, 3, H, W) in [0, 1] on the device."""

    def measure(self, network: Darknet, val_set: Dataset) -> Score:
        """Evaluate ``network``; by all processes together."""

    def picture(self, batch: Any, names: Sequence[str]) -> np.ndarray:
        """A mini-batch with its truth: uint8 (H, W, 3) RGB."""

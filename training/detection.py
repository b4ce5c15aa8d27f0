"""The training of detectors: what of it is about boxes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
from torch import Tensor, nn

from data.augment.detection import augmentation_of
from data.formats.dataset import Dataset
from data.loading.batch_loader import Loading
from data.loading.detection import eval_loader
from data.loading.training import input_sizes, training_batches
from data.splits import Splits, find_data, load_splits
from evaluation.coco import CocoMetrics
from evaluation.detection import Settings, evaluate_network
from models.darknet import Darknet
from models.losses.criterion import make_criterion
from models.losses.rejection import LabelRejection
from training.cfg import adapt_heads, weigh_classes
from training.flags import TrainFlags
from training.pictures import batch_picture, detections_picture
from training.regularisers.adversarial import SelfAdversary
from training.regularisers.dropblock import add_dropblock
from training.schedule.plan import SMALL_BATCH
from training.state import decisive
from training.step import to_input
from training.task import Score, Setting
from utils.cfg import Config
from utils.cli import with_values
from utils.structures import Batch, Size, Targets

EVAL_BATCH = 8  # images


class Detection:
    """Boxes; see `training.task.Task`."""

    terms: tuple[str, ...] = ("loss", "box", "objectness", "classes")
    small_batch = SMALL_BATCH
    things = "boxes"

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    @staticmethod
    def settled(args: TrainFlags) -> TrainFlags:
        """The flags with the built-in sample where no data are given."""
        return with_values(args, data=find_data(args.data))

    def load(self) -> Splits:
        """The images with their boxes."""
        args = self.setting.args
        assert args.data is not None  # `settled` found some
        return load_splits(args.data, names=args.names, check=args.scan, workers=args.workers)

    def adapted(self, config: Config, splits: Splits) -> Config:
        """The cfg with heads for the classes."""
        return adapt_heads(config, len(splits.train.names), splits.train.source)

    def weighed(self, config: Config, splits: Splits) -> Config:
        """The cfg with class weights in its heads."""
        return weigh_classes(config, self.setting.args.class_weights, splits.train.names, splits.train.records)

    def largest_input(self, config: Config) -> Size:
        """The largest of multi-scale training."""
        return input_sizes(config, self.setting.args.seed).largest

    def prepare(self, network: Darknet) -> None:
        """DropBlock before the heads, where asked for."""
        args = self.setting.args
        if args.dropblock:
            add_dropblock(network, args.dropblock, args.dropblock_side)

    def objective(self, network: Darknet, train_set: Dataset) -> BoxObjective:
        """Darknet's loss, or the one ``--loss`` names."""
        return BoxObjective(network, self.setting)

    def batches(self, config: Config, train_set: Dataset, start: int) -> Iterable[Batch]:
        """Mosaics and whole images."""
        setting = self.setting
        augmentation = augmentation_of(config, setting.args)
        return training_batches(train_set, config, augmentation, setting.loading, start=start, seed=setting.args.seed)

    def inference_batches(self, network: Darknet, images: Dataset) -> Iterable[Tensor]:
        """Letterboxed or stretched, as the cfg says."""
        letterbox, loading = network.config.net.letter_box, Loading(self.setting.args.workers)
        loader = eval_loader(images, batch=EVAL_BATCH, size=network.size, letterbox=letterbox, loading=loading)
        return (batch.to(self.setting.device) for batch, *_ in loader)

    def measure(self, network: Darknet, val_set: Dataset) -> Score:
        """COCO's metrics."""
        args, world = self.setting.args, self.setting.world
        settings = Settings(
            batch=EVAL_BATCH,
            device=self.setting.device,
            precision=self.setting.eval_precision,
            workers=args.workers,
        )
        evaluation = evaluate_network(network, val_set, settings, world=world)
        metrics = evaluation.metrics
        assert isinstance(metrics, CocoMetrics)  # what measures unless told otherwise
        details = metrics.as_dict()
        present = metrics.precision50[metrics.precision50.min(axis=1) >= 0]
        picture = None
        if world.is_main:
            picture = detections_picture(val_set.records, evaluation.detections, val_set.names)
        return Score(
            *decisive(metrics.ap50, metrics.ap, args.best_by),
            metrics={key: value for key, value in details.items() if key != "per_class"},
            details=details,
            board="coco",
            curve=present.mean(axis=0) if len(present) else None,
            picture=picture,
        )

    def picture(self, batch: Batch, names: Sequence[str]) -> np.ndarray:
        """Images with their boxes."""
        return batch_picture(batch, names)


class BoxObjective:
    """Passes with self-adversary, where asked for, and the loss of all heads."""

    def __init__(self, network: Darknet, setting: Setting) -> None:
        self.device = setting.device
        self.adversary = SelfAdversary(network, seed=setting.args.seed)
        self.criterion = LabelRejection(make_criterion(network, setting.args.loss), network)

    def outputs(self, replica: nn.Module, batch: Batch, iteration: int, part: int) -> list[Tensor]:
        """The raw heads."""
        images = self.adversary(to_input(batch.images, self.device), iteration, part)
        return replica(images, batch.targets)

    def losses(self, outputs: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """The loss and its parts."""
        losses = self.criterion(outputs, cast("Targets", batch.targets))  # tracked ones only where a head wants them
        parts = {name: getattr(losses, name) for name in Detection.terms[1:]}
        return {"loss": losses.total, **parts}

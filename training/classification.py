"""The training of classifiers: networks that end in [softmax] and say what a whole image shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor, nn

from data.augment.classification import augmentation_of
from data.formats.dataset import Dataset
from data.loading.batch_loader import Loading
from data.loading.classification import central_batches, labelled_batches
from data.splits import Splits, load_splits
from evaluation.classification import EVAL_BATCH, measure
from models.darknet import Darknet
from models.losses.classification import ClassificationLoss
from training.cfg import adapt_classes
from training.class_weights import NONE, class_weights, weights_line
from training.flags import BOX_FLAGS, TrainFlags
from training.pictures import class_picture
from training.recipes import RECIPES
from training.step import to_input
from training.task import Score, Setting
from utils.cfg import Config, load_cfg
from utils.cfg.classifier import closing_softmax
from utils.cli import ABOUT_BOXES, refuse, with_values
from utils.errors import UsageError
from utils.structures import LabelledBatch, Size


class Classification:
    """Classes of whole images; see `training.task.Task`."""

    terms: tuple[str, ...] = ("loss",)
    small_batch = 32  # 8, as for detectors, are few labels to learn from
    things = "images"

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    @staticmethod
    def settled(args: TrainFlags) -> TrainFlags:
        """The flags, and the batch that the cfg's learning rate is meant for.

        Raises:
            UsageError: flags about boxes, or no data.
        """
        by_recipe = RECIPES[args.recipe].flags
        refuse(args, [name for name in BOX_FLAGS if getattr(args, name) != by_recipe.get(name)], ABOUT_BOXES)
        if args.loss != "darknet":
            raise UsageError(f"--loss {args.loss}: a classifier learns by cross-entropy; drop the flag")
        if args.data is None:
            raise UsageError(
                "--data is needed: a folder with train/CLASS/ and val/CLASS/, or a .data file with labels="
            )
        if args.resume or args.nominal_batch or "learning_rate" in args.set:
            return args
        return with_values(args, nominal_batch=load_cfg(args.cfg).net.batch)

    def load(self) -> Splits:
        """The images with their classes."""
        args = self.setting.args
        assert args.data is not None  # `settled` asked for some
        return load_splits(args.data, names=args.names, check=args.scan, workers=args.workers, labelled=True)

    def adapted(self, config: Config, splits: Splits) -> Config:
        """The cfg with a last layer for the classes."""
        return adapt_classes(config, len(splits.train.names), splits.train.source)

    def weighed(self, config: Config, splits: Splits) -> Config:
        """The cfg as it is: it has no place for class weights, which the objective gets."""
        return config

    def largest_input(self, config: Config) -> Size:
        """The cfg's: a classifier has one size."""
        return config.net.height, config.net.width

    def prepare(self, network: Darknet) -> None:
        """Nothing."""

    def objective(self, network: Darknet, train_set: Dataset) -> ClassObjective:
        """Cross-entropy."""
        return ClassObjective(network, self.setting, train_set)

    def batches(self, config: Config, train_set: Dataset, start: int) -> Iterable[LabelledBatch]:
        """Crops and mixtures of images."""
        setting = self.setting
        augmentation = augmentation_of(config, setting.args)
        return labelled_batches(train_set, config, augmentation, setting.loading, start=start, seed=setting.args.seed)

    def inference_batches(self, network: Darknet, images: Dataset) -> Iterable[Tensor]:
        """The middle of each image."""
        loader = central_batches(
            images, batch=EVAL_BATCH, size=network.size, loading=Loading(self.setting.args.workers)
        )
        return (batch.to(self.setting.device) for batch, _ in loader)

    def measure(self, network: Darknet, val_set: Dataset) -> Score:
        """Top-1, then top-5."""
        top = measure(
            network,
            val_set,
            device=self.setting.device,
            precision=self.setting.eval_precision,
            workers=self.setting.args.workers,
            world=self.setting.world,
        ).top
        metrics = {"top1": top.top1, "top5": top.top5}
        return Score(top.top1, top.top5, metrics=metrics, details=top.as_dict(), board="top")

    def picture(self, batch: LabelledBatch, names: Sequence[str]) -> np.ndarray:
        """Images with the names of their classes."""
        return class_picture(batch, names)


class ClassObjective:
    """Cross-entropy, in which ``--class-weights`` say how much each class counts."""

    def __init__(self, network: Darknet, setting: Setting, train_set: Dataset) -> None:
        self.device = setting.device
        weights = class_weights_of(setting.args.class_weights, train_set)
        self.criterion = ClassificationLoss(closing_softmax(network.config).temperature, weights).to(self.device)

    def outputs(self, replica: nn.Module, batch: LabelledBatch, _iteration: int, _part: int) -> list[Tensor]:
        """The logits."""
        return replica(to_input(batch.images, self.device))

    def losses(self, outputs: list[Tensor], batch: LabelledBatch) -> dict[str, Tensor]:
        """The loss alone."""
        (logits,) = outputs
        return {"loss": self.criterion(logits, batch.truth.to(self.device))}


def class_weights_of(text: str | None, dataset: Dataset) -> list[float] | None:
    """What ``--class-weights`` says, printed."""
    if text in (None, NONE):
        return None
    counts = np.bincount([int(record.labels[0]) for record in dataset.records], minlength=len(dataset.names))
    weights = class_weights(text, dataset.names, counts.tolist())
    print(weights_line(dataset.names, weights))
    return weights

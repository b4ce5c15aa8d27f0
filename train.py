"""Train a Darknet network: parse flags, build the parts, and the loop in view.

python train.py --cfg yolov4-mish.cfg                         the built-in sample data set
python train.py --cfg yolov4-tiny-mish.cfg --data my.yaml     your own images
python train.py --resume runs/train/yolov4-tiny-mish          go on where it stopped
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.augment import Augmentation
from data.cache import open_cache
from data.dataset import Dataset, load_dataset
from data.loader import MultiScale, train_loader
from data.photometric import load_photometric
from data.sample import ensure_sample
from data.scan import scan
from eval import Evaluation, evaluate_network, write_json
from models.darknet import Darknet
from models.graph import plan as plan_network
from models.losses.darknet import DarknetLoss, Losses
from models.transfer import expect_background, freeze, load_pretrained
from models.weights import save_darknet_weights
from utils import cli
from utils.atomic import remove_temporaries
from utils.cfg import Config, format_cfg, load_cfg, parse_cfg, with_activation, with_classes, with_net, with_size
from utils.cfg_heads import GaussianYolo, Region
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.device import autocast, precision_name, resolve_precision, select_device
from utils.draw import batch_grid
from utils.ema import Ema
from utils.errors import CfgError, Diverged, InputError, UsageError
from utils.image import read_image, write_image
from utils.names import read_names
from utils.optim import learning_rate, make_optimizer, set_learning_rate
from utils.results_plot import plot_results
from utils.run_folder import lock_folder, new_run_folder
from utils.runlog import RunLog, cut_metrics, read_metrics
from utils.signals import StopRequest
from utils.structures import Batch
from utils.train_flags import parse_train_flags, save_args
from utils.training_plan import Schedule, plan_training
from utils.training_state import TrainingState

SAVE_SECONDS = 300  # between two last.pt, unless --save-interval says otherwise
EVALUATIONS = 12  # of a run, unless --eval-interval says otherwise
SHOWN_SCORE = 0.25  # of the detections in TensorBoard's pictures
BYTES_PER_ACTIVATION = 12  # of training in float32: convolution output, batch norm output, gradient
EMA_SHARE = 0.02  # of a run; the average of the weights looks back so far


def main(argv: Sequence[str]) -> None:
    """Run a training from its flags to its last table."""
    args = parse_train_flags(argv)
    device = select_device(args.device)
    dtype = resolve_precision(args.precision, device, training=True)
    make_repeatable(args.seed, device)
    saved = load_checkpoint(args.resume / "last.pt") if args.resume else None
    config = parse_cfg(saved["cfg"], source=f"{args.resume}/last.pt") if saved else read_cfg(args)
    train_set, val_set = load_data(args)
    config = plan_length(args, adapt_heads(config, train_set), len(train_set))
    net, about = config.net, description(config, train_set)
    folder = Path(args.out) if args.out else new_run_folder(Path("runs/train"), Path(args.cfg).stem)
    folder.mkdir(parents=True, exist_ok=True)

    with lock_folder(folder), StopRequest() as stop, ExitStack() as closing:
        remove_temporaries(folder)
        network = Darknet(config)
        if saved:
            check_same_data(saved.get("data"), about["data"], folder)
        else:
            begin_run(args, network, folder)
        (folder / "network.cfg").write_text(about["cfg"], encoding="utf-8")
        network.to(device, memory_format=torch.channels_last).train()
        freeze(network, args.freeze)
        criterion = DarknetLoss(network.heads)
        state = TrainingState(
            network=network,
            ema=Ema(network, decay=1 - 1 / (EMA_SHARE * net.max_batches + 1), ramp=EMA_SHARE * net.max_batches),
            optimizer=make_optimizer(network, net),
            scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        )
        if saved:
            state.restore(saved, f"{folder}/last.pt")
        cut_metrics(folder / "metrics.jsonl", state.iteration)
        loader = make_loader(args, config, train_set, state.iteration)
        log = RunLog(folder, start=state.iteration, total=net.max_batches, images_per_iteration=net.batch)
        closing.callback(log.close)
        due = Due(args, net.max_batches)
        print(f"training on {device} in {precision_name(dtype)}: {len(train_set):,} images, into {folder}", flush=True)

        for batches in in_steps(loader, net.subdivisions):
            rate = learning_rate(net, state.iteration + 1, seed=args.seed)
            set_learning_rate(state.optimizer, rate)
            network.seen = state.iteration * net.batch
            terms = LossTerms()
            for batch in batches:
                with autocast(device, dtype):
                    raws = network(to_input(batch.images, device))
                losses = criterion(raws, batch.targets)
                check_loss(losses, batch, state.iteration)
                state.scaler.scale(losses.total / net.batch).backward()
                terms.add(losses, net.batch)
            step(state, args.clip_gradient, batches)
            log.step(state.iteration, terms.values, rate)

            if state.iteration == 1:
                show_batch(batches[0], train_set.names, folder, log)
            if due.evaluation(state.iteration):
                evaluate(args, state, about, val_set, folder, log)
            stopping = stop.signal is not None or out_of_patience(args, state, log)
            if due.save(state.iteration) or stopping:
                save_last(state, about, folder)
            if stopping:
                break
        log.close()
        finish(state, folder)
    if stop.signal is not None:
        print(f"stopped by a signal; go on with: python train.py --resume {folder}")
        sys.exit(stop.exit_code)


def begin_run(args: argparse.Namespace, network: Darknet, folder: Path) -> None:
    """Pretrained weights into the network, the flags into the run folder."""
    if (folder / "last.pt").exists():
        raise UsageError(f"{folder}: holds a run already; go on with --resume {folder}, or give another --out")
    print(network.summary())
    expect_background(network)
    if args.weights:
        print(load_pretrained(network, Path(args.weights), load_cfg(args.cfg)))
    save_args(args, folder / "args.json")


def make_repeatable(seed: int, device: torch.device) -> None:
    """The same run gives the same numbers: to the bit on a CPU, in the order of the data on a GPU."""
    torch.manual_seed(seed)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory it did not write
    else:
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def load_data(args: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """The training and validation images, checked; without ``--data`` the built-in sample."""
    if args.data is None:
        args.data = str(ensure_sample())
        print(f"no --data given: training on the built-in sample data set in {args.data}")
    names = read_names(args.names) if args.names else None
    train_set = load_dataset(Path(args.data), "train", names=names)
    val_set = load_dataset(Path(args.data), "val", names=train_set.names)
    if args.scan:
        return checked(train_set, args.workers), checked(val_set, args.workers)
    return train_set, val_set


def checked(dataset: Dataset, workers: int) -> Dataset:
    """The data set without the images and boxes that cannot be used; every reason is printed."""
    report = scan(dataset, workers=workers, progress=True)
    for line in report.lines():
        print(line)
    return report.dataset


def read_cfg(args: argparse.Namespace) -> Config:
    """The cfg with the flags applied."""
    config = load_cfg(args.cfg)
    for warning in config.warnings:
        print(f"warning: {warning}")
    given = {key: value for key in ("batch", "subdivisions") if (value := getattr(args, key)) is not None}
    if args.batch and not args.subdivisions:
        given["subdivisions"] = math.gcd(args.batch, config.net.subdivisions)
    if args.letterbox is not None:
        given["letter_box"] = args.letterbox
    config = with_net(config, **{**args.set, **given})
    if args.size:
        config = with_size(config, args.size)
    if args.activation:
        config = with_activation(config, args.activation)
    if args.weights:
        Path(args.weights).stat()  # a missing file is better known before all images are looked at
    return config


def adapt_heads(config: Config, dataset: Dataset) -> Config:
    """The cfg with its heads made for the classes of the data."""
    adapted = with_classes(config, len(dataset.names))
    unfit = next((layer for layer in adapted.layers if isinstance(layer, Region | GaussianYolo)), None)
    if unfit is not None:
        raise CfgError(f"{config.where(unfit)}: cannot be trained here (wanted [yolo] heads)")
    if adapted != config:
        print(f"{config.source}: heads adapted to the {len(dataset.names)} classes of {dataset.source}")
    return adapted


def plan_length(args: argparse.Namespace, config: Config, images: int) -> Config:
    """The cfg with batch and schedule fit for the number of images; every change is printed."""
    net = config.net
    if args.resume:
        return lengthened(args, config, images)
    given = set(args.set) | {key for key in ("batch", "subdivisions") if getattr(args, key)}
    schedule = Schedule(**{field.name: getattr(net, field.name) for field in dataclasses.fields(Schedule)})
    plan = plan_training(
        schedule,
        images,
        given=given,
        epochs=args.epochs,
        iterations=args.iterations,
        bytes_per_image=BYTES_PER_ACTIVATION * plan_network(config).activations,
    )
    print(f"{images:,} training images:", *plan.notes, sep="\n  ")
    planned = with_net(config, **plan.keys)
    if planned.net.batch % planned.net.subdivisions:
        raise UsageError(
            f"{config.source}: batch={planned.net.batch} is no multiple of subdivisions={planned.net.subdivisions}; "
            "give --batch and --subdivisions that fit"
        )
    return planned


def lengthened(args: argparse.Namespace, config: Config, images: int) -> Config:
    """The cfg of a resumed run, with the length ``--epochs`` or ``--iterations`` now asks for."""
    net = config.net
    total = args.iterations or (args.epochs and math.ceil(args.epochs * images / net.batch)) or net.max_batches
    cycle = total if net.sgdr_cycle == net.max_batches else net.sgdr_cycle  # one cosine stays one cosine
    return with_net(config, max_batches=total, sgdr_cycle=cycle)


def make_loader(args: argparse.Namespace, config: Config, dataset: Dataset, iteration: int) -> Iterable[Batch]:
    """Mini-batches from ``iteration`` to the end, each a pure function of the seed and its number."""
    net, head = config.net, config.layers[-1]
    total = net.max_batches * net.subdivisions
    augmentation = Augmentation.from_config(
        net,
        head,
        mosaic=args.mosaic,
        photometric=load_photometric(args.photometric),
        close_at=net.subdivisions * round(net.max_batches * (1 - args.close_mosaic)),
    )
    sizes = MultiScale(
        size=(net.height, net.width),
        factor=1.4 if head.random == 1 else head.random or 1.0,
        step=net.resize_step,
        seed=args.seed,
        subdivisions=net.subdivisions,
        max_batches=net.max_batches,
    )
    cache, note = open_cache(args.cache, dataset)
    if note:
        print(note)
    return train_loader(
        dataset,
        augmentation,
        batch=net.batch // net.subdivisions,
        size_at=sizes,
        start=iteration * net.subdivisions,
        stop=total,
        seed=args.seed,
        workers=args.workers,
        cache=cache,
    )


def in_steps(loader: Iterator[Batch], subdivisions: int) -> Iterator[list[Batch]]:
    """The mini-batches of each optimiser step."""
    mini_batches = iter(loader)
    while batches := list(itertools.islice(mini_batches, subdivisions)):
        yield batches


def to_input(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) to float in [0, 1] on ``device``, channels last."""
    images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
    return images.float().div_(255)


def check_loss(losses: Losses, batch: Batch, iteration: int) -> None:
    """Stop before a NaN reaches the weights."""
    if not torch.isfinite(losses.total):
        parts = ", ".join(f"{name} {getattr(losses, name).item():.3g}" for name in ("box", "objectness", "classes"))
        raise diverged(iteration, f"the loss is {losses.total.item()} ({parts})", batch.names)


def diverged(iteration: int, what: str, names: Sequence[str]) -> Diverged:
    """The end of a training whose numbers are not finite, with the images of the step that was not taken."""
    shown = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
    return Diverged(
        f"iteration {iteration + 1}: {what} on {shown}; lower learning_rate or check these images; "
        "last.pt, if there is one, is from before"
    )


def step(state: TrainingState, clip_norm: float | None, batches: Sequence[Batch]) -> None:
    """One optimiser step from the gradients gathered of ``batches``."""
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.network.parameters(), math.inf if clip_norm is None else clip_norm)
    if not state.scaler.is_enabled() and not torch.isfinite(norm):  # a scaler skips such a step and scales less
        names = [name for batch in batches for name in batch.names]
        raise diverged(state.iteration, f"the gradient's norm is {norm.item()}", names)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.ema.update(state.network)
    state.iteration += 1


class LossTerms:
    """The loss of an optimiser step by its parts, each for one image."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {"loss": 0.0, "box": 0.0, "objectness": 0.0, "classes": 0.0}

    def add(self, losses: Losses, batch: int) -> None:
        """Add a mini-batch of a step of ``batch`` images."""
        for name in self.values:
            part = losses.total if name == "loss" else getattr(losses, name)
            self.values[name] += part.item() / batch


class Due:
    """When to evaluate and when to save."""

    def __init__(self, args: argparse.Namespace, total: int) -> None:
        self.total = total
        self.evaluate_every = args.eval_interval if args.eval_interval is not None else max(1, total // EVALUATIONS)
        self.save_every = args.save_interval
        self.saved = time.monotonic()

    def evaluation(self, iteration: int) -> bool:
        """Whether to evaluate after ``iteration``."""
        return iteration == self.total or bool(self.evaluate_every and iteration % self.evaluate_every == 0)

    def save(self, iteration: int) -> bool:
        """Whether to write last.pt after ``iteration``; saving takes no part in what is computed."""
        if self.save_every:
            due = iteration % self.save_every == 0
        else:
            due = time.monotonic() - self.saved > SAVE_SECONDS or self.evaluation(iteration)
        if due or iteration == self.total:
            self.saved = time.monotonic()
            return True
        return False


def show_batch(batch: Batch, names: Sequence[str], folder: Path, log: RunLog) -> None:
    """mosaic.jpg: the first batch as the network sees it."""
    rows = [batch.targets.image_index == index for index in range(min(len(batch.images), 16))]
    grid = batch_grid(
        [image.permute(1, 2, 0).numpy() for image in batch.images[: len(rows)]],
        [batch.targets.boxes[row].numpy() for row in rows],
        [batch.targets.labels[row].numpy() for row in rows],
        names,
    )
    write_image(folder / "mosaic.jpg", grid)
    log.picture("first batch", grid, 1)


def averaged_network(state: TrainingState) -> Darknet:
    """A copy of the network with the averaged weights, ready to evaluate and to save.

    Raises:
        Diverged: a weight is not finite, so that nothing of this state may be saved.
    """
    state.check_finite()
    with torch.random.fork_rng(devices=[]):  # the initial weights take no part in what the training draws
        network = Darknet(state.network.config)
    network.load_state_dict(state.ema.module_state())
    network.seen = state.iteration * network.config.net.batch
    return network.eval()


def evaluate(
    args: argparse.Namespace,
    state: TrainingState,
    about: dict[str, Any],
    val_set: Dataset,
    folder: Path,
    log: RunLog,
) -> None:
    """Measure the averaged weights; write best.pt and best.weights where they are the best so far."""
    network = averaged_network(state)
    device = next(state.network.parameters()).device
    evaluation = evaluate_network(
        network.to(device, memory_format=torch.channels_last),
        val_set,
        size=network.size,
        device=device,
        precision=resolve_precision(args.precision, device),
        workers=args.workers,
        letterbox=network.config.net.letter_box,
        progress=False,
    )
    metrics = evaluation.metrics
    log.evaluation(state.iteration, {key: value for key, value in metrics.as_dict().items() if key != "per_class"})
    present = metrics.precision50[metrics.precision50.min(axis=1) >= 0]
    if len(present):
        log.curve("precision and recall at IoU 0.5", present.mean(axis=0), state.iteration)
    log.picture("detections", show_detections(val_set, evaluation), state.iteration)
    if state.best.update(state.iteration, metrics.ap50, metrics.ap):
        save_checkpoint(folder / "best.pt", {**about, "model": network.cpu().state_dict()})
        save_darknet_weights(network, folder / "best.weights")
        write_json(folder / "best.json", evaluation.metrics.as_dict())


def show_detections(dataset: Dataset, evaluation: Evaluation, count: int = 4) -> np.ndarray:
    """The first images of the data set with what was found, side by side."""
    records = dataset.records[:count]
    found = [evaluation.detections[record.image_id] for record in records]
    sure = [detections.scores > SHOWN_SCORE for detections in found]
    return batch_grid(
        [read_image(record.path) for record in records],
        [detections.boxes[keep].numpy() for detections, keep in zip(found, sure, strict=True)],
        [detections.labels[keep].numpy() for detections, keep in zip(found, sure, strict=True)],
        dataset.names,
    )


def description(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint says of itself; ``data`` is how a resumed run knows its images again."""
    digest = hashlib.sha256()
    for record in dataset.records:
        digest.update(f"{record.path.name} {record.size} {record.labels.tolist()}".encode(errors="surrogateescape"))
        digest.update(record.boxes.tobytes())
    return {
        "cfg": format_cfg(config),
        "names": list(dataset.names),
        "data": f"{len(dataset):,} images ({digest.hexdigest()[:12]})",
        "torch": str(torch.__version__),
    }


def check_same_data(then: str | None, now: str, folder: Path) -> None:
    """Refuse to go on with a run on other images, which would be another run."""
    if then != now:
        raise InputError(
            f"{folder}/last.pt: trained on {then}, --data now gives {now}; "
            "bring the images and labels back, or start a new run with --weights"
        )


def save_last(state: TrainingState, about: dict[str, Any], folder: Path) -> None:
    """Write last.pt, from which ``--resume`` goes on, and last.weights."""
    network = averaged_network(state)
    save_checkpoint(folder / "last.pt", {**about, **state.as_dict()})
    save_darknet_weights(network, folder / "last.weights")


def out_of_patience(args: argparse.Namespace, state: TrainingState, log: RunLog) -> bool:
    """Whether ``--patience`` evaluations went by without a better one."""
    if args.patience is None or state.best.evaluations_since < args.patience:
        return False
    log.note(f"no better AP50 in {args.patience} evaluations: stopping early")
    return True


def finish(state: TrainingState, folder: Path) -> None:
    """results.png, and a table of the evaluations."""
    rows = read_metrics(folder / "metrics.jsonl")
    plot_results(rows, folder / "results.png", str(folder))
    print(f"{'iteration':>9} {'minutes':>8} {'AP50':>6} {'AP':>6} {'AP75':>6}")
    for row in (row for row in rows if "ap50" in row):
        scores = " ".join(f"{row[name]:6.3f}" for name in ("ap50", "ap", "ap75"))
        mark = "  best" if row["iteration"] == state.best.iteration else ""
        print(f"{row['iteration']:9} {row['seconds'] / 60:8.1f} {scores}{mark}")
    print(f"{folder}/:", *sorted(path.name for path in folder.glob("[!.]*")))


if __name__ == "__main__":
    cli.run(main)

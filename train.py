"""Train a Darknet network: parse flags, build the parts, and the loop in view.

python train.py --cfg yolov4-mish.cfg                         the built-in sample data set
python train.py --cfg yolov4-tiny-mish.cfg --data my.yaml     your own images
python train.py --resume runs/train/yolov4-tiny-mish          go on where it stopped
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.affine import Affine
from data.dataset import Dataset
from data.fingerprint import check_same_data, fingerprint
from data.training_data import find_data, load_splits, training_batches
from eval import evaluate_network, write_json
from models.adversarial import SelfAdversary
from models.averaged import averaged_network
from models.darknet import Darknet
from models.dropblock import add_dropblock
from models.losses.criterion import make_criterion
from models.losses.darknet import Losses
from models.losses.rejection import LabelRejection
from models.training_cfg import adapt_heads, fit_schedule, lengthened, read_cfg
from models.transfer import expect_background, freeze, load_pretrained
from models.weights import save_darknet_weights
from utils import cli
from utils.atomic import remove_temporaries
from utils.cfg import Config, format_cfg, load_cfg, parse_cfg
from utils.cfg_classifier import is_classifier
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.device import autocast, make_repeatable, precision_name, resolve_precision, select_device
from utils.divergence import check_gradient, check_loss
from utils.due import Due
from utils.ema import make_ema
from utils.errors import UsageError
from utils.image import write_image
from utils.layer_updates import LayerUpdates, drop_not_finite, freeze_weights_beside_batch_norm
from utils.optim import learning_rate, make_optimizer, set_learning_rate
from utils.results_plot import plot_results
from utils.run_folder import lock_folder, new_run_folder
from utils.runlog import RunLog, cut_metrics, evaluation_table, read_metrics
from utils.signals import StopRequest
from utils.structures import Batch
from utils.train_flags import parse_train_flags, save_args
from utils.training_pictures import batch_picture, detections_picture
from utils.training_state import TrainingState

LOSS_TERMS = ("loss", "box", "objectness", "classes")


def main(argv: Sequence[str]) -> None:
    """Run a training from its flags to its last table."""
    args = parse_train_flags(argv)
    device = select_device(args.device)
    dtype = resolve_precision(args.precision, device, training=True)
    make_repeatable(args.seed, device)
    saved = load_checkpoint(args.resume / "last.pt") if args.resume else None
    if args.weights:
        Path(args.weights).stat()  # a missing file is better known before all images are looked at
    config = parse_cfg(saved["cfg"], source=f"{args.resume}/last.pt") if saved else read_cfg(args)
    if is_classifier(config):
        import classify  # late: its loop is made of the parts of this script

        classify.train(args, config, saved)
        return
    args.data = find_data(args.data)
    train_set, val_set = load_splits(args.data, names=args.names, check=args.scan, workers=args.workers)
    config = adapt_heads(config, len(train_set.names), train_set.source)
    if saved:
        config = lengthened(config, len(train_set), epochs=args.epochs, iterations=args.iterations)
    else:
        config = fit_schedule(args, config, len(train_set))
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
        freeze_weights_beside_batch_norm(network)
        if args.dropblock:
            add_dropblock(network, args.dropblock, args.dropblock_side)
        adversary = SelfAdversary(network, seed=args.seed)
        updates = LayerUpdates(network)
        criterion = LabelRejection(make_criterion(network, args.loss), network)
        state = TrainingState(
            network=network,
            ema=make_ema(args.ema, network, net),
            optimizer=make_optimizer(network, net, args.optimizer),
            scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
            criterion=criterion,
        )
        if saved:
            state.restore(saved, f"{folder}/last.pt")
        cut_metrics(folder / "metrics.jsonl", state.iteration)
        loader = training_batches(
            train_set,
            config,
            start=state.iteration,
            seed=args.seed,
            workers=args.workers,
            mosaic=args.mosaic,
            mixup=args.mixup,
            copy_paste=args.copy_paste,
            close_mosaic=args.close_mosaic,
            affine=Affine(args.scale, args.translate, args.shear),
            photometric=args.photometric,
            cache=args.cache,
        )
        log = RunLog(folder, start=state.iteration, total=net.max_batches, images_per_iteration=net.batch)
        closing.callback(log.close)
        due = Due(net.max_batches, evaluate_every=args.eval_interval, save_every=args.save_interval)
        print(f"training on {device} in {precision_name(dtype)}: {len(train_set):,} images, into {folder}", flush=True)

        for batches in in_steps(loader, net.subdivisions):
            rate = learning_rate(net, state.iteration + 1, seed=args.seed)
            set_learning_rate(state.optimizer, rate)
            network.seen = state.iteration * net.batch
            step_images = sum(len(batch.images) for batch in batches)
            sums = dict.fromkeys(LOSS_TERMS, 0.0)
            for part, batch in enumerate(batches):
                with autocast(device, dtype):
                    images = adversary(to_input(batch.images, device), state.iteration, part)
                    raws = network(images, batch.targets)
                losses = criterion(raws, batch.targets)
                terms = loss_terms(losses)
                check_loss(terms, state.iteration, batch.names)
                state.scaler.scale(losses.total / step_images).backward()
                sums = {name: sums[name] + terms[name].item() / step_images for name in sums}
            step(state, updates, args.clip_gradient, batches)
            log.step(state.iteration, sums, rate)

            if state.iteration == 1:
                picture = batch_picture(batches[0], train_set.names)
                write_image(folder / "mosaic.jpg", picture)
                log.picture("first batch", picture, 1)
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


def in_steps(loader: Iterable[Batch], subdivisions: int) -> Iterator[list[Batch]]:
    """The mini-batches of each optimiser step."""
    mini_batches = iter(loader)
    while batches := list(itertools.islice(mini_batches, subdivisions)):
        yield batches


def to_input(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) to float in [0, 1] on ``device``, channels last."""
    images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
    return images.float().div_(255)


def loss_terms(losses: Losses) -> dict[str, Tensor]:
    """The loss of a mini-batch by its parts, scalars, for the log."""
    return {name: losses.total if name == "loss" else getattr(losses, name) for name in LOSS_TERMS}


def step(state: TrainingState, updates: LayerUpdates, clip_norm: float | None, batches: Sequence[Batch]) -> None:
    """One optimiser step from the gradients gathered of ``batches``."""
    parameters = list(state.network.parameters())
    state.scaler.unscale_(state.optimizer)
    if state.network.config.net.try_fix_nan:
        drop_not_finite(parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, math.inf if clip_norm is None else clip_norm)
    if not state.scaler.is_enabled():  # a scaler skips such a step and scales less
        check_gradient(norm, state.iteration, [name for batch in batches for name in batch.names])
    updates.before(state.iteration + 1)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    updates.after()
    state.optimizer.zero_grad(set_to_none=True)
    state.ema.update(state.network)
    state.iteration += 1


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
    picture = detections_picture(val_set.records, evaluation.detections, val_set.names)
    log.picture("detections", picture, state.iteration)
    if state.best.update(state.iteration, metrics.ap50, metrics.ap):
        save_best(state, network, about, metrics.as_dict(), folder)


def save_best(
    state: TrainingState, network: Darknet, about: dict[str, Any], metrics: dict[str, Any], folder: Path
) -> None:
    """Write best.pt, best.weights and what was measured of them, best.json."""
    weights = {"model": network.cpu().state_dict(), "iteration": state.iteration}
    save_checkpoint(folder / "best.pt", {**about, **weights})
    save_darknet_weights(network, folder / "best.weights")
    write_json(folder / "best.json", metrics)


def description(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint says of itself; ``data`` is how a resumed run knows its images again."""
    return {
        "cfg": format_cfg(config),
        "names": list(dataset.names),
        "data": fingerprint(dataset),
        "torch": str(torch.__version__),
    }


def save_last(state: TrainingState, about: dict[str, Any], folder: Path) -> None:
    """Write last.pt, from which ``--resume`` goes on, and last.weights."""
    network = averaged_network(state)
    save_checkpoint(folder / "last.pt", {**about, **state.as_dict()})
    save_darknet_weights(network, folder / "last.weights")


def out_of_patience(args: argparse.Namespace, state: TrainingState, log: RunLog) -> bool:
    """Whether ``--patience`` evaluations went by without a better one."""
    if args.patience is None or state.best.evaluations_since < args.patience:
        return False
    log.note(f"none of the last {args.patience} evaluations was better: stopping early")
    return True


def finish(state: TrainingState, folder: Path) -> None:
    """results.png, and a table of the evaluations."""
    rows = read_metrics(folder / "metrics.jsonl")
    plot_results(rows, folder / "results.png", str(folder))
    print(*evaluation_table(rows, state.best.iteration), sep="\n")
    print(f"{folder}/:", *sorted(path.name for path in folder.glob("[!.]*")))


if __name__ == "__main__":
    cli.run(main)

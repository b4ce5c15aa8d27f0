"""Train, measure and use classifiers: networks that end in [softmax]. The other scripts hand over to this one.

python train.py  --cfg csdarknet53.cfg --data DIR                  DIR/train/CLASS/*.jpg, DIR/val/CLASS/*.jpg
python eval.py   --weights runs/train/csdarknet53/best.pt --data DIR
python detect.py --weights runs/train/csdarknet53/best.pt --source photo.jpg
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data.augment.classification import LabelledAugmentation
from data.augment.photometric import load_photometric
from data.fingerprint import check_same_data
from data.formats.class_folders import load_labelled
from data.formats.dataset import Dataset
from data.loading.classification import central_batches, central_input, labelled_batches, load_labelled_splits
from evaluation.speed import Speed, Stopwatch, speed_of
from evaluation.topk import TopK, TopKCounter
from inference.sources import open_sources
from models import load_network
from models.compiling import compile_layers
from models.darknet import Darknet
from models.losses.classification import ClassificationLoss
from train import begin_run, begin_weights, description, finish, out_of_patience
from training.auto_batch import fit_memory
from training.cfg import adapt_classes, fit_schedule, lengthened
from training.checkpoints import averaged_network, save_best, save_last
from training.class_weights import NONE, class_weights, weights_line
from training.ema import make_ema
from training.layer_updates import LayerUpdates, freeze_weights_beside_batch_norm
from training.log import RunLog, cut_metrics
from training.optim import learning_rate, make_optimizer, set_learning_rate
from training.pretrained import freeze
from training.recipes import RECIPES
from training.schedule.intervals import Due
from training.schedule.regime import Regime, regime_of
from training.state import TrainingState
from training.step import check_loss, in_steps, step, to_input
from utils.atomic import remove_temporaries, write_json
from utils.cfg import Config, load_cfg
from utils.cfg.classifier import closing_softmax
from utils.device import autocast, make_repeatable, precision_name, resolve_precision, select_device
from utils.distributed import ALONE
from utils.errors import InputError, UsageError
from utils.image import printable
from utils.names import check_names, default_names, read_names
from utils.run_folder import lock_folder, new_run_folder
from utils.signals import StopRequest

SMALL_BATCH = 32  # images for a step where there are few; 8, as for detectors, are few labels to learn from
EVAL_BATCH = 32
GUESSES = 5  # classes named for a picture
_BOXES_ONLY = ("letterbox", "mixup", "copy_paste", "close_jitter", "scale", "translate", "shear", "sat", "dropblock")
_BOXES_ONLY += ("best_by", "save_results", "save_voc", "plots", "csv", "save_txt", "save_crops", "view", "classes")


def train(args: argparse.Namespace, config: Config, saved: dict[str, Any] | None) -> int:
    """Run the training of a classifier to its last table; return the exit code.

    Args:
        args: the flags of train.py.
        config: the cfg with the flags applied, or that of the run to go on with.
        saved: the checkpoint of that run.
    """
    refuse_flags(args)
    if args.loss != "darknet":
        raise UsageError(f"--loss {args.loss}: a classifier learns by cross-entropy; drop the flag")
    if args.data is None:
        raise UsageError("--data is needed: a folder with train/CLASS/ and val/CLASS/, or a .data file with labels=")
    device = select_device(args.device)
    dtype = resolve_precision(args.precision, device, training=True)
    make_repeatable(args.seed, device)
    train_set, val_set = load_labelled_splits(args.data, names=args.names, check=args.scan, workers=args.workers)
    config = adapt_classes(config, len(train_set.names), train_set.source)
    if saved:
        regime = regime_of(saved, args)
        config = lengthened(config, len(train_set), epochs=args.epochs, iterations=args.iterations)
    else:
        if "learning_rate" not in args.set:  # the cfg's is meant for the cfg's batch
            args.nominal_batch = args.nominal_batch or load_cfg(args.cfg).net.batch
        config, regime = fit_schedule(args, config, len(train_set), small_batch=SMALL_BATCH)
        if args.fit_memory:
            config = fit_memory(config, (config.net.height, config.net.width), device, dtype, ALONE)
    net, about = config.net, description(config, train_set, regime)
    folder = Path(args.out) if args.out else new_run_folder(Path("runs/train"), Path(args.cfg).stem)
    folder.mkdir(parents=True, exist_ok=True)

    with lock_folder(folder), StopRequest() as stop, ExitStack() as closing:
        remove_temporaries(folder)
        network = Darknet(config)
        if saved:
            check_same_data(saved.get("data"), about["data"], folder)
        else:
            begin_run(args, folder)
            begin_weights(args, network)
        (folder / "network.cfg").write_text(about["cfg"], encoding="utf-8")
        network.to(device, memory_format=torch.channels_last).train()
        freeze(network, args.freeze)
        freeze_weights_beside_batch_norm(network)
        if args.compile:
            compile_layers(network)
        updates = LayerUpdates(network)
        weights = class_weights_of(args, train_set)
        criterion = ClassificationLoss(closing_softmax(config).temperature, weights).to(device)
        state = TrainingState(
            network=network,
            ema=make_ema(args.ema, network, net),
            optimizer=make_optimizer(network, net, regime.optimizer),
            scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
            criterion=criterion,
        )
        if saved:
            state.restore(saved, f"{folder}/last.pt")
        cut_metrics(folder / "metrics.jsonl", state.iteration)
        loader = labelled_batches(
            train_set,
            augmentation_of(args, config),
            batch=net.batch // net.subdivisions,
            size=network.size,
            start=state.iteration * net.subdivisions,
            stop=net.max_batches * net.subdivisions,
            seed=args.seed,
            workers=args.workers,
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
            total = 0.0
            for batch in batches:
                with autocast(device, dtype):
                    (logits,) = network(to_input(batch.images, device))
                loss = criterion(logits, batch.truth.to(device))
                state.scaler.scale(loss / net.batch).backward()
                total += loss.item() / net.batch
            check_loss({"loss": total}, state.iteration, batches)
            step(state, updates, regime.clip_gradient, batches)
            log.step(state.iteration, {"loss": total}, rate)

            network_now = None
            if due.evaluation(state.iteration):
                network_now = averaged(args, state, regime, train_set)
                evaluate(args, state, network_now, about, val_set, folder, log)
            stopping = stop.signal is not None or (network_now is not None and out_of_patience(args, state, log))
            if due.save(state.iteration) or stopping:
                save_last(state, network_now or averaged(args, state, regime, train_set), about, folder)
            if stopping:
                break
        log.close()
        finish(folder, state.best.iteration)
    if stop.signal is None:
        return 0
    print(f"stopped by a signal; go on with: python train.py --resume {folder}")
    return stop.exit_code


def class_weights_of(args: argparse.Namespace, dataset: Dataset) -> list[float] | None:
    """What ``--class-weights`` says, printed; a classifier's cfg has no place for them."""
    if args.class_weights in (None, NONE):
        return None
    counts = np.bincount([int(record.labels[0]) for record in dataset.records], minlength=len(dataset.names))
    weights = class_weights(args.class_weights, dataset.names, counts.tolist())
    print(weights_line(dataset.names, weights))
    return weights


def augmentation_of(args: argparse.Namespace, config: Config) -> LabelledAugmentation:
    """What the cfg asks for and the flags change; ``--mosaic`` is the share of mixed images, of whatever kind."""
    net = config.net
    return LabelledAugmentation.from_config(
        net,
        mix=args.mosaic,
        flip_vertical=args.flip_vertical,
        photometric=load_photometric(args.photometric),
        close_at=net.closing(args.close_mosaic),
    )


def averaged(args: argparse.Namespace, state: TrainingState, regime: Regime, train_set: Dataset) -> Darknet:
    """The network that is measured and saved: averaged weights, and statistics that belong to them."""
    device = next(state.network.parameters()).device
    few = train_set.spread(regime.precise_bn)
    loader = central_batches(few, batch=EVAL_BATCH, size=state.network.size, workers=args.workers)
    images = (images.to(device) for images, _ in loader) if len(few) else ()
    return averaged_network(state, images, precision=resolve_precision(args.precision, device))


def evaluate(
    args: argparse.Namespace,
    state: TrainingState,
    network: Darknet,
    about: dict[str, Any],
    val_set: Dataset,
    folder: Path,
    log: RunLog,
) -> None:
    """Measure the averaged ``network``; write best.pt and best.weights where they are the best so far."""
    device = next(state.network.parameters()).device
    top = measure(
        network,
        val_set,
        device=device,
        precision=resolve_precision(args.precision, device),
        workers=args.workers,
    ).top
    log.evaluation(state.iteration, {"top1": top.top1, "top5": top.top5}, board="top")
    if state.best.update(state.iteration, top.top1, top.top5):
        save_best(state, network, about, top.as_dict(), folder)


@dataclass(frozen=True)
class Measurement:
    """How often a network is right, and how fast."""

    top: TopK
    speed: Speed


def measure(
    network: Darknet,
    dataset: Dataset,
    *,
    batch: int = EVAL_BATCH,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    workers: int = 2,
    progress: bool = True,
) -> Measurement:
    """Run ``network`` over the middle of every image of ``dataset`` once and count what it gets right.

    Args:
        precision: what autocast computes in; float32 leaves the network as it is.
        progress: show a bar with the time left, where the output is a terminal.
    """
    counter, spent = TopKCounter(dataset.names), dict.fromkeys(("loading", "network", "postprocess"), 0.0)
    clock = Stopwatch(torch.device(device))
    loader = central_batches(dataset, batch=batch, size=network.size, workers=workers)
    bar = tqdm(total=len(dataset), unit="image", desc="evaluating", leave=False, disable=None if progress else True)
    with torch.inference_mode(), bar:
        for images, labels in loader:
            images = images.to(device, non_blocking=True)
            spent["loading"] += clock.lap()
            with autocast(images.device, precision):
                (logits,) = network(images)
            spent["network"] += clock.lap()
            counter.add(logits, labels)
            spent["postprocess"] += clock.lap()
            bar.update(len(labels))
    return Measurement(counter.result(), speed_of([spent], len(dataset)))


def measure_from_flags(args: argparse.Namespace, config: Config, own_names: Sequence[str] | None) -> None:
    """What eval.py does with a classifier: top-1, top-5, every class, speed.

    Args:
        args: the flags of eval.py.
        config: the network.
        own_names: the class names that came with the weights.
    """
    refuse_flags(args)
    device = select_device(args.device)
    network = load_network(config, args.weights, device, args.precision, compile=args.compile)
    names = read_names(args.names, classes=network.num_classes) if args.names else own_names
    dataset = load_labelled(args.data, args.split, names=names)
    check_names(dataset.names, network.num_classes, source=f"--data {args.data}")
    found = measure(network, dataset, batch=args.batch, device=device, workers=args.workers)
    print(*table(found), sep="\n")
    if args.json is not None:
        write_json(args.json, {**found.top.as_dict(), "images_per_second": found.speed.images_per_second})


def table(found: Measurement) -> list[str]:
    """The lines for people: every class, top-1 and top-5, speed."""
    top, speed = found.top, found.speed
    width = max(len("class"), *map(len, top.per_class))
    lines = [f"{'class':{width}}  images  top-1"]
    for name, one in top.per_class.items():
        lines.append(f"{name:{width}}  {one.images:6}  " + (f"{one.accuracy:5.3f}" if one.images else "    -"))
    lines += ["", f"top-1 {top.top1:.3f}  top-5 {top.top5:.3f}  of {top.images:,} images", ""]
    times = f"per image: loading {speed.loading:.1f} ms, network {speed.network:.1f} ms"
    return [*lines, f"{times}; {speed.images_per_second:.1f} images/s"]


@torch.inference_mode()
def guess_from_flags(args: argparse.Namespace, config: Config, own_names: Sequence[str] | None) -> None:
    """What detect.py does with a classifier: print the likeliest classes of every picture.

    Args:
        args: the flags of detect.py.
        config: the network.
        own_names: the class names that came with the weights.

    Raises:
        InputError: after the others, a picture that could not be read.
    """
    refuse_flags(args)
    device = select_device(args.device)
    network = load_network(config, args.weights, device, args.precision, compile=args.compile)
    names = read_names(args.names, classes=network.num_classes) if args.names else own_names
    names = names or default_names(network.num_classes)
    frames: list[dict[str, Any]] = []
    with StopRequest() as stop:
        sources = open_sources(args.source, stopping=lambda: stop.signal is not None)
        for frame in (frame for source in sources for frame in source):
            pixels = torch.from_numpy(central_input(frame.image, network.size))[None].to(device)
            scores = (network(pixels)[0][0] / closing_softmax(config).temperature).softmax(0)
            best = scores.topk(min(GUESSES, len(names)))
            guesses = [
                {"label": label, "name": names[label], "score": round(score, 6)}
                for score, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            print(f"{printable(frame.source)}:", ", ".join(f"{one['name']} {one['score']:.3f}" for one in guesses))
            frames.append({"source": frame.source, "frame": frame.index, "classes": guesses})
            if stop.signal is not None:
                break
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, {"cfg": printable(args.cfg or args.weights), "names": list(names), "frames": frames})
    if stop.signal is not None:
        sys.exit(stop.exit_code)
    faults = [fault for source in sources for fault in source.faults]
    if faults:
        raise InputError(faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""))


def refuse_flags(args: argparse.Namespace) -> None:
    """Refuse flags that are about boxes.

    Raises:
        UsageError: with those that were given.
    """
    values = {name: getattr(args, name, None) for name in _BOXES_ONLY}
    by_recipe = RECIPES[args.recipe].flags if "recipe" in args else {}
    given = [name for name, value in values.items() if value and value != by_recipe.get(name)]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{flags}: about boxes, of which a classifier knows nothing; drop what is given")

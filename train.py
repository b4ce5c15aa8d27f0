"""Train a Darknet network: parse flags, build the parts, and the loop in view.

python train.py --cfg yolov4-mish.cfg                         the built-in sample data set
python train.py --cfg yolov4-tiny-mish.cfg --data my.yaml     your own images
python train.py --resume runs/train/yolov4-tiny-mish          go on where it stopped
torchrun --nproc-per-node 8 train.py --cfg yolov4-mish.cfg ... on eight GPUs
"""

from __future__ import annotations

if __name__ == "__main__":  # what cannot be trained is refused before the imports below: torch takes seconds
    from models.preview import preview_training
    from utils import cli

    cli.attempt(preview_training)

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.augment.affine import Affine
from data.fingerprint import check_same_data, fingerprint
from data.formats.dataset import Dataset
from data.loading.detection import eval_loader
from data.training_data import find_data, input_sizes, load_splits, training_batches
from eval import evaluate_network
from models.compiling import compile_layers
from models.darknet import Darknet
from models.layers.batch_norm import synchronise_batch_norm
from models.losses.criterion import make_criterion
from models.losses.darknet import Losses
from models.losses.rejection import LabelRejection
from models.ops import has_fused
from training.adversarial import SelfAdversary
from training.auto_batch import fit_memory
from training.cfg import adapt_heads, fit_schedule, lengthened, read_cfg, weigh_classes, with_half_rate
from training.checkpoints import averaged_network, save_best, save_last
from training.checks import run as check
from training.dropblock import add_dropblock
from training.ema import make_ema
from training.flags import parse_train_flags, save_args
from training.layer_updates import LayerUpdates, freeze_weights_beside_batch_norm
from training.log import RunLog, SilentLog, cut_metrics, evaluation_table, read_metrics
from training.optim import learning_rate, make_optimizer, set_learning_rate
from training.pictures import batch_picture, detections_picture, plot_results
from training.pretrained import expect_background, freeze, load_pretrained
from training.schedule.intervals import Due
from training.schedule.regime import Regime, regime_of
from training.state import TrainingState, decisive
from training.step import check_loss, in_steps, step, to_input
from utils import cli
from utils.atomic import remove_temporaries
from utils.cfg import Config, format_cfg, load_cfg, parse_cfg
from utils.cfg.classifier import is_classifier
from utils.checkpoint import load_checkpoint
from utils.device import autocast, make_repeatable, precision_name, resolve_precision
from utils.distributed import World, join_world
from utils.errors import Diverged, UsageError
from utils.image import write_image
from utils.run_folder import lock_folder, new_run_folder
from utils.signals import StopRequest

LOSS_TERMS = ("loss", "box", "objectness", "classes")
EVAL_BATCH = 8  # images
SIGNAL_GRACE = 5.0  # seconds; torchrun hands on a signal that its processes may have got already


def main(argv: Sequence[str]) -> None:
    """Run a training from its flags to its last table."""
    args = parse_train_flags(argv)
    if args.tune:
        from training.search import run as tune  # late: the trials of a search are trainings of this script

        return tune.search(args, argv)
    with join_world(args.rank_timeout) as world:
        exit_code = train(args, world)
    if exit_code:
        sys.exit(exit_code)


def train(args: argparse.Namespace, world: World) -> int:
    """Run the training ``args`` ask for, together with the other processes of ``world``; return the exit code."""
    device = world.device(args.device)
    if args.check is not None:
        world.refuse("a check")
        return check.run(args, device)
    dtype = resolve_precision(args.precision, device, training=True)
    make_repeatable(args.seed, device)
    saved = load_checkpoint(args.resume / "last.pt") if args.resume else None
    config = parse_cfg(saved["cfg"], source=f"{args.resume}/last.pt") if saved else read_cfg(args)
    if is_classifier(config):
        import classify  # late: its loop is made of the parts of this script

        world.refuse("a classifier is trained")
        return classify.train(args, config, saved)
    with world.machine_leader_first("data"):  # it looks at every image and remembers what it saw
        args.data = find_data(args.data)
        train_set, val_set = load_splits(args.data, names=args.names, check=args.scan, workers=args.workers)
    config = adapt_heads(config, len(train_set.names), train_set.source)
    if saved:
        regime = regime_of(saved, args)
        config = lengthened(config, len(train_set), epochs=args.epochs, iterations=args.iterations)
    else:
        config = weigh_classes(config, args.class_weights, train_set.names, train_set.records)
        config, regime = fit_schedule(args, config, len(train_set))
        if world.is_main and args.scan:
            check.remark(args, config, regime, train_set, val_set)
        if args.fit_memory:
            config = fit_memory(config, input_sizes(config, args.seed).largest, device, dtype, world)
    world.check_same(description(config, train_set, regime), "the data or the cfg")
    folder = world.on_main(
        lambda: Path(args.out) if args.out else new_run_folder(Path("runs/train"), Path(args.cfg).stem)
    )
    job = Job(args, world, device, dtype, regime, train_set, val_set, folder)

    with ExitStack() as closing:
        if world.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            closing.enter_context(lock_folder(folder))
            remove_temporaries(folder)
            if not saved:
                begin_run(args, folder)
        stop = closing.enter_context(StopRequest(grace=SIGNAL_GRACE if world.size > 1 else 0.0))
        try:
            stopped = learn(job, config, saved, stop)
        except Diverged as fault:
            config, saved = second_start(job, config, fault)
            stopped = learn(job, config, saved, stop, restarts=1)
    if not stopped:
        return 0
    print(f"stopped by a signal; go on with: python train.py --resume {folder}")
    return stop.exit_code


@dataclass(frozen=True)
class Job:
    """What is settled before the first step."""

    args: argparse.Namespace
    world: World
    device: torch.device
    dtype: torch.dtype
    regime: Regime
    train_set: Dataset
    val_set: Dataset
    folder: Path


def learn(job: Job, config: Config, saved: dict[str, Any] | None, stop: StopRequest, *, restarts: int = 0) -> bool:
    """Train to the end, or to a signal; return whether one came.

    Args:
        config: as it is trained.
        saved: the checkpoint to go on from; None: begin.
        restarts: how often this run diverged before.

    Raises:
        Diverged: a loss, a gradient or a weight is not finite.
    """
    args, world, device, folder = job.args, job.world, job.device, job.folder
    net, about = config.net, description(config, job.train_set, job.regime)
    with ExitStack() as closing:
        network = Darknet(config)
        if saved:
            check_same_data(saved.get("data"), about["data"], folder)
        else:
            begin_weights(args, network)
        network.to(device, memory_format=torch.channels_last).train()
        freeze(network, args.freeze)
        freeze_weights_beside_batch_norm(network)
        if args.dropblock:
            add_dropblock(network, args.dropblock, args.dropblock_side)
        if args.sync_bn and world.size > 1:
            synchronise_batch_norm(network, fuses=all(world.gather(has_fused(device.type))))
        if args.compile:
            compile_layers(network)
        replica = world.replicate(network, some_idle=network.graph.some_idle)
        adversary = SelfAdversary(network, seed=args.seed)
        updates = LayerUpdates(network)
        criterion = LabelRejection(make_criterion(network, args.loss), network)
        state = TrainingState(
            network=network,
            ema=make_ema(args.ema, network, net),
            optimizer=make_optimizer(network, net, job.regime.optimizer),
            scaler=torch.amp.GradScaler(device.type, enabled=job.dtype == torch.float16),
            criterion=criterion,
            restarts=restarts,
        )
        if saved:
            state.restore(saved, f"{folder}/last.pt")
            state.restarts += restarts
        loader = training_batches(
            job.train_set,
            config,
            start=state.iteration,
            seed=args.seed,
            workers=args.workers,
            pin_memory=device.type == "cuda",
            mosaic=args.mosaic,
            mixup=args.mixup,
            copy_paste=args.copy_paste,
            flip_vertical=args.flip_vertical,
            close_mosaic=args.close_mosaic,
            close_jitter=args.close_jitter,
            affine=Affine(args.scale, args.translate, args.shear),
            photometric=args.photometric,
            cache=args.cache,
            rank=world.rank,
            ranks=world.size,
        )
        log = SilentLog()
        if world.is_main:
            (folder / "network.cfg").write_text(about["cfg"], encoding="utf-8")
            cut_metrics(folder / "metrics.jsonl", state.iteration)
            log = RunLog(folder, start=state.iteration, total=net.max_batches, images_per_iteration=net.batch)
        closing.callback(log.close)
        due = Due(net.max_batches, evaluate_every=args.eval_interval, save_every=args.save_interval)
        where = world.describe(device)
        print(
            f"training on {where} in {precision_name(job.dtype)}: {len(job.train_set):,} images, into {folder}",
            flush=True,
        )

        stopped = False
        for batches in in_steps(loader, net.subdivisions):
            rate = learning_rate(net, state.iteration + 1, seed=args.seed)
            set_learning_rate(state.optimizer, rate)
            network.seen = state.iteration * net.batch
            world.reseed(args.seed, state.iteration)
            (step_images,) = world.mean([sum(len(batch.images) for batch in batches)])
            sums = dict.fromkeys(LOSS_TERMS, 0.0)
            for part, batch in enumerate(world.accumulate(replica, batches)):
                with autocast(device, job.dtype):
                    images = adversary(to_input(batch.images, device), state.iteration, part)
                    raws = replica(images, batch.targets)
                losses = criterion(raws, batch.targets)
                state.scaler.scale(losses.total / step_images).backward()
                terms = loss_terms(losses)
                sums = {name: sums[name] + terms[name].item() / step_images for name in sums}
            sums = dict(zip(sums, world.mean(sums.values()), strict=True))
            check_loss(sums, state.iteration, batches)  # the mean of all processes, which then stop alike
            world.average_statistics(network)
            step(state, updates, job.regime.clip_gradient, batches)
            log.step(state.iteration, sums, rate)

            if state.iteration == 1 and world.is_main:
                picture = batch_picture(batches[0], job.train_set.names)
                write_image(folder / "mosaic.jpg", picture)
                log.picture("first batch", picture, 1)
            network_now = evaluate(job, state, about, log) if due.evaluation(state.iteration) else None
            stopped = stop.agree(world.largest)  # all after the same iteration
            stopping = stopped or (due.evaluation(state.iteration) and out_of_patience(args, state, log))
            if (due.save(state.iteration) or stopping) and world.is_main:
                save_last(state, network_now or averaged(job, state), about, folder)
            if stopping:
                break
        log.close()
        if world.is_main:
            finish(folder, state.best.iteration)
    return stopped


def second_start(job: Job, config: Config, fault: Diverged) -> tuple[Config, dict[str, Any] | None]:
    """The cfg with half the learning rate, and the last checkpoint, where there is one, to go on from after ``fault``.

    Raises:
        Diverged: ``fault``, where the run was to stop, or has diverged before.
    """
    last = job.folder / "last.pt"
    saved = load_checkpoint(last) if last.exists() else None
    if job.args.on_divergence == "stop" or (saved and saved.get("restarts")):
        raise fault
    where = f"iteration {saved['iteration']}" if saved else "the beginning"
    config = with_half_rate(config)
    print(
        f"warning: {fault}\nonce more from {where} with half the learning rate, {config.net.learning_rate:g} "
        "(--on-divergence stop: not)",
        flush=True,
    )
    return config, saved


def begin_run(args: argparse.Namespace, folder: Path) -> None:
    """The flags into the folder of a new run."""
    if (folder / "last.pt").exists():
        raise UsageError(f"{folder}: holds a run already; go on with --resume {folder}, or give another --out")
    save_args(args, folder / "args.json")


def begin_weights(args: argparse.Namespace, network: Darknet) -> None:
    """What a new run starts from, in place: background everywhere, and what fits of ``--weights``."""
    print(network.summary())
    expect_background(network)
    if args.weights:
        print(load_pretrained(network, Path(args.weights), load_cfg(args.cfg)))


def loss_terms(losses: Losses) -> dict[str, Tensor]:
    """The loss of a mini-batch by its parts, scalars, for the log."""
    return {name: losses.total if name == "loss" else getattr(losses, name) for name in LOSS_TERMS}


def averaged(job: Job, state: TrainingState) -> Darknet:
    """The network that is measured and saved: averaged weights, and statistics that belong to them."""
    network = state.network
    few = job.train_set.spread(job.regime.precise_bn)
    loader = eval_loader(
        few, batch=EVAL_BATCH, size=network.size, letterbox=network.config.net.letter_box, workers=job.args.workers
    )
    images = (images.to(job.device) for images, *_ in loader) if len(few) else ()
    return averaged_network(state, images, precision=resolve_precision(job.args.precision, job.device))


def evaluate(job: Job, state: TrainingState, about: dict[str, Any], log: RunLog | SilentLog) -> Darknet:
    """Measure the averaged weights; write best.pt and best.weights where they are the best so far; return them."""
    network, val_set = averaged(job, state), job.val_set
    evaluation = evaluate_network(
        network,
        val_set,
        size=network.size,
        batch=EVAL_BATCH,
        device=job.device,
        precision=resolve_precision(job.args.precision, job.device),
        workers=job.args.workers,
        letterbox=network.config.net.letter_box,
        world=job.world,
    )
    metrics = evaluation.metrics
    better = state.best.update(state.iteration, *decisive(metrics.ap50, metrics.ap, job.args.best_by))
    if not job.world.is_main:
        return network
    log.evaluation(state.iteration, {key: value for key, value in metrics.as_dict().items() if key != "per_class"})
    present = metrics.precision50[metrics.precision50.min(axis=1) >= 0]
    if len(present):
        log.curve("precision and recall at IoU 0.5", present.mean(axis=0), state.iteration)
    picture = detections_picture(val_set.records, evaluation.detections, val_set.names)
    log.picture("detections", picture, state.iteration)
    if better:
        save_best(state, network, about, metrics.as_dict(), job.folder)
    return network


def description(config: Config, dataset: Dataset, regime: Regime) -> dict[str, Any]:
    """What a checkpoint says of itself; ``data`` is how a resumed run knows its images again."""
    return {
        "cfg": format_cfg(config),
        "names": list(dataset.names),
        "data": fingerprint(dataset),
        "regime": asdict(regime),
        "torch": str(torch.__version__),
    }


def out_of_patience(args: argparse.Namespace, state: TrainingState, log: RunLog | SilentLog) -> bool:
    """Whether ``--patience`` evaluations went by without a better one."""
    if args.patience is None or state.best.evaluations_since < args.patience:
        return False
    log.note(f"none of the last {args.patience} evaluations was better: stopping early")
    return True


def finish(folder: Path, best: int) -> None:
    """results.png, and a table of the evaluations, of which that of iteration ``best`` was the best."""
    rows = read_metrics(folder / "metrics.jsonl")
    plot_results(rows, folder / "results.png", str(folder))
    print(*evaluation_table(rows, best), sep="\n")
    print(f"{folder}/:", *sorted(path.name for path in folder.glob("[!.]*")))


if __name__ == "__main__":
    cli.run(main)

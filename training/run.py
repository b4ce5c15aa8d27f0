"""One training from its flags to its last table: what is settled before the loop in train.py, and done around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.fingerprint import check_same_data, fingerprint
from data.splits import Splits
from models.compiling import compile_layers
from models.darknet import Darknet
from models.layers.batch_norm import synchronise_batch_norm
from models.ops import has_fused
from training.auto_batch import with_auto_batch
from training.cfg import fit_schedule, lengthened, read_cfg, with_half_rate
from training.checkpoints import ema_network, save_best, save_last
from training.checks.remarks import remark
from training.classification import Classification
from training.detection import Detection
from training.ema import make_ema
from training.flags import TrainFlags, save_args
from training.layer_updates import LayerUpdates, freeze_weights_beside_batch_norm
from training.log import RunLog, SilentLog, cut_metrics, evaluation_table, read_metrics
from training.optim import make_optimizer
from training.pictures import plot_results
from training.pretrained import expect_background, freeze, load_pretrained
from training.schedule.intervals import Intervals
from training.schedule.regime import Regime, regime_of
from training.state import TrainingState
from training.task import Objective, Setting, Task, TrainingBatch
from utils.atomic import remove_temporaries
from utils.cfg import Config, format_cfg, load_cfg, parse_cfg
from utils.cfg.classifier import is_classifier
from utils.checkpoint import load_checkpoint
from utils.device import make_repeatable, precision_name, resolve_precision
from utils.distributed import World
from utils.errors import Diverged, UsageError
from utils.image import write_image
from utils.run_folder import lock_folder, new_run_folder
from utils.signals import StopRequest

SIGNAL_GRACE = 5.0  # seconds; torchrun hands on a signal that its processes may have got already
_LAST = "last.pt"


@dataclass(frozen=True)
class Job:
    """What is settled before the first step.

    Attributes:
        config: as it is trained.
        saved: the checkpoint to go on from; None: begin.
        restarts: how often the run diverged since it was started.
    """

    setting: Setting
    task: Task
    splits: Splits
    config: Config
    regime: Regime
    folder: Path
    saved: dict[str, Any] | None = None
    restarts: int = 0

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        return _description(self.config, self.splits, self.regime)


def prepared(args: TrainFlags, world: World) -> Job:
    """What the flags, the cfg and the data come to.

    Raises:
        UserError: what cannot be trained.
    """
    device = world.device(args.device)
    precision = resolve_precision(args.precision, device, training=True)
    make_repeatable(args.seed, device)
    saved = load_checkpoint(args.resume / _LAST) if args.resume else None
    config = parse_cfg(saved["cfg"], source=f"{args.resume}/{_LAST}") if saved else read_cfg(args)
    kind: type[Task] = Classification if is_classifier(config) else Detection
    args = kind.settled(args)
    setting = Setting(args, world, device, precision)
    task = kind(setting)
    with world.machine_leader_first("data"):  # it looks at every image and remembers what it saw
        splits = task.load()
    config = task.adapted(config, splits)
    if saved:
        regime = regime_of(saved, args)
        config = lengthened(config, len(splits.train), epochs=args.epochs, iterations=args.iterations)
    else:
        config, regime = _planned(setting, task, config, splits)
    world.check_same(_description(config, splits, regime), "the data or the cfg")
    folder = world.on_main(
        lambda: Path(args.out) if args.out else new_run_folder(Path("runs/train"), Path(args.cfg).stem)
    )
    return Job(setting, task, splits, config, regime, folder, saved)


def _planned(setting: Setting, task: Task, config: Config, splits: Splits) -> tuple[Config, Regime]:
    """The cfg with a schedule for the data, and how to step; remarks on what may spoil it are printed."""
    args, world = setting.args, setting.world
    config = task.weighed(config, splits)
    config, regime = fit_schedule(args, config, len(splits.train), small_batch=task.small_batch)
    if world.is_main and args.scan:
        remark(args, config, regime, splits)
    if args.fit_memory:
        config = with_auto_batch(config, task.largest_input(config), setting.device, setting.precision, world)
    return config, regime


def _description(config: Config, splits: Splits, regime: Regime) -> dict[str, Any]:
    """What a checkpoint says of itself; ``data`` is how a resumed run knows its images again."""
    return {
        "cfg": format_cfg(config),
        "names": list(splits.train.names),
        "data": fingerprint(splits.train),
        "regime": asdict(regime),
        "torch": str(torch.__version__),
    }


@contextmanager
def opened(job: Job) -> Iterator[StopRequest]:
    """The run folder, locked, while a training writes into it; yields the wish to stop.

    Raises:
        UsageError: the folder of a new run holds one already.
    """
    world, folder = job.setting.world, job.folder
    with ExitStack() as closing:
        if world.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            closing.enter_context(lock_folder(folder))
            remove_temporaries(folder)
        if not job.saved:
            _begin_folder(job)
        yield closing.enter_context(StopRequest(grace=SIGNAL_GRACE if world.size > 1 else 0.0))


def _begin_folder(job: Job) -> None:
    if (job.folder / _LAST).exists():
        raise UsageError(f"{job.folder}: holds a run already; go on with --resume {job.folder}, or give another --out")
    if job.setting.world.is_main:
        save_args(job.setting.args, job.folder / "args.json")


class Run:
    """A network in training, with all that its steps need and leave behind; a context that closes its log.

    Attributes:
        replica: the network as it is called in training.
        objective: how it is taught.
        state: what a checkpoint keeps.
        updates: what single layers want of a step.
        batches: the mini-batches that are left.
        log: of the main process.
        intervals: when to evaluate and to save.
    """

    def __init__(self, job: Job) -> None:
        setting, config = job.setting, job.config
        self.job, self.about = job, job.about
        self.network = _built(job, self.about)
        self.replica: nn.Module = setting.world.replicate(self.network, some_idle=self.network.graph.some_idle)
        self.objective: Objective = job.task.objective(self.network, job.splits.train)
        self.updates = LayerUpdates(self.network)
        self.state = self._state()
        self.batches: Iterable[TrainingBatch] = job.task.batches(config, job.splits.train, self.state.iteration)
        self.log = self._opened_log()
        self._measured: Darknet | None = None  # what was evaluated after this iteration
        self.intervals = Intervals(
            config.net.max_batches, evaluate_every=setting.args.eval_interval, save_every=setting.args.save_interval
        )
        print(
            f"training on {setting.world.describe(setting.device)} in {precision_name(setting.precision)}: "
            f"{len(job.splits.train):,} images, into {job.folder}",
            flush=True,
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.log.close()

    def _state(self) -> TrainingState:
        """The state to begin with, or that of the checkpoint."""
        job, net = self.job, self.job.config.net
        scaled = job.setting.precision == torch.float16
        state = TrainingState(
            network=self.network,
            ema=make_ema(job.setting.args.ema, self.network, net),
            optimizer=make_optimizer(self.network, net, job.regime.optimizer),
            scaler=torch.amp.GradScaler(job.setting.device.type, enabled=scaled),
            criterion=self.objective.criterion,
        )
        if job.saved:
            state.restore(job.saved, f"{job.folder}/{_LAST}")
        state.restarts += job.restarts
        return state

    def _opened_log(self) -> RunLog | SilentLog:
        """The log; rows of metrics.jsonl that the run will write again are cut."""
        if not self.job.setting.world.is_main:
            return SilentLog()
        net, folder = self.job.config.net, self.job.folder
        (folder / "network.cfg").write_text(self.about["cfg"], encoding="utf-8")
        cut_metrics(folder / "metrics.jsonl", self.state.iteration)
        return RunLog(folder, start=self.state.iteration, total=net.max_batches, images_per_iteration=net.batch)

    def show(self, batch: TrainingBatch) -> None:
        """The first mini-batch as the network sees it, as a picture."""
        if self.job.setting.world.is_main:
            picture = self.job.task.picture(batch, self.job.splits.train.names)
            write_image(self.job.folder / "mosaic.jpg", picture)
            self.log.picture("first batch", picture, 1)

    def evaluate_where_due(self) -> None:
        """Measure the averaged weights; write best.pt and best.weights where they are the best so far."""
        self._measured = self._evaluate() if self.intervals.evaluation(self.state.iteration) else None

    def save_where_due(self, *, stopped: bool) -> bool:
        """Write last.pt; return whether the training ends here.

        Args:
            stopped: a signal came.
        """
        stopping = stopped or (self._measured is not None and self.out_of_patience())
        if (self.intervals.save(self.state.iteration) or stopping) and self.job.setting.world.is_main:
            save_last(self.state, self._measured or self._averaged(), self.about, self.job.folder)
        return stopping

    def finish(self) -> None:
        """results.png, and a table of the evaluations."""
        self.log.close()
        if not self.job.setting.world.is_main:
            return
        folder = self.job.folder
        rows = read_metrics(folder / "metrics.jsonl")
        plot_results(rows, folder / "results.png", str(folder))
        print(*evaluation_table(rows, self.state.best.iteration), sep="\n")
        print(f"{folder}/:", *sorted(path.name for path in folder.glob("[!.]*")))

    def _averaged(self) -> Darknet:
        """The network that is measured and saved: averaged weights, and statistics that belong to them."""
        job = self.job
        few = job.splits.train.spread(job.regime.precise_bn)
        images = job.task.inference_batches(self.network, few) if len(few) else ()
        return ema_network(self.state, images, precision=job.setting.eval_precision)

    def _evaluate(self) -> Darknet:
        job, state = self.job, self.state
        network = self._averaged()
        score = job.task.measure(network, job.splits.val)
        better = state.best.update(state.iteration, score.decisive, score.tie_break)
        if not job.setting.world.is_main:
            return network
        self.log.evaluation(state.iteration, score.metrics, board=score.board)
        if score.curve is not None:
            self.log.curve("precision and recall at IoU 0.5", score.curve, state.iteration)
        if score.picture is not None:
            self.log.picture("detections", score.picture, state.iteration)
        if better:
            save_best(state, network, self.about, score.details, job.folder)
        return network

    def out_of_patience(self) -> bool:
        """Early stopping: whether ``--patience`` evaluations went by without a better one."""
        patience = self.job.setting.args.patience
        if patience is None or self.state.best.evaluations_since < patience:
            return False
        self.log.note(f"none of the last {patience} evaluations was better: stopping early")
        return True


def _built(job: Job, about: Mapping[str, Any]) -> Darknet:
    """The network on its device, in training mode; a new one with what ``--weights`` brings, printed."""
    args, world, device = job.setting.args, job.setting.world, job.setting.device
    network = Darknet(job.config)
    if job.saved:
        check_same_data(job.saved.get("data"), about["data"], job.folder)
    else:
        print(network.summary())
        expect_background(network)
        if args.weights:
            print(load_pretrained(network, Path(args.weights), load_cfg(args.cfg)))
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no such type
    network.train()
    freeze(network, args.freeze)
    freeze_weights_beside_batch_norm(network)
    job.task.prepare(network)
    if args.sync_bn and world.size > 1:
        synchronise_batch_norm(network, fuses=all(world.gather(has_fused(device.type))))
    if args.compile:
        compile_layers(network)
    return network


def second_start(job: Job, fault: Diverged) -> Job:
    """The job once more from its last checkpoint, or from the beginning, with half the learning rate.

    Raises:
        Diverged: ``fault``, where the run was to stop, or has diverged before.
    """
    last = job.folder / _LAST
    saved = load_checkpoint(last) if last.exists() else None
    if job.setting.args.on_divergence == "stop" or (saved and saved.get("restarts")):
        raise fault
    where = f"iteration {saved['iteration']}" if saved else "the beginning"
    config = with_half_rate(job.config)
    print(
        f"warning: {fault}\nonce more from {where} with half the learning rate, {config.net.learning_rate:g} "
        "(--on-divergence stop: not)",
        flush=True,
    )
    return replace(job, config=config, saved=saved, restarts=1)

"""Train a Darknet network: parse flags, build the parts, and the loop in view.

python train.py --cfg yolov4-mish.cfg                         the built-in sample data set
python train.py --cfg yolov4-tiny-mish.cfg --data my.yaml     your own images
python train.py --resume runs/train/yolov4-tiny-mish          go on where it stopped
torchrun --nproc-per-node 8 train.py --cfg yolov4-mish.cfg ... on eight GPUs
"""

from __future__ import annotations

if __name__ == "__main__":  # what cannot be trained is refused before the imports below: torch takes seconds
    from training.preview import preview_training
    from utils import cli

    cli.attempt(preview_training)

import sys
from collections.abc import Sequence

from training.checks import run as checks
from training.flags import TrainFlags, parse_train_flags
from training.optim import learning_rate, set_learning_rate
from training.run import Job, Run, opened, prepared, second_start
from training.search import run as search
from training.step import check_loss, in_steps, step
from utils import cli
from utils.device import autocast
from utils.distributed import World, join_world
from utils.errors import Diverged
from utils.signals import StopRequest


def main(argv: Sequence[str]) -> None:
    """Run a training, a check or a search from its flags to its last table."""
    args = parse_train_flags(argv)
    if args.tune:
        return search.search(args, argv)
    with join_world(args.rank_timeout) as world:
        exit_code = checks.check(args, world) if args.check is not None else train(args, world)
    if exit_code:
        sys.exit(exit_code)


def train(args: TrainFlags, world: World) -> int:
    """Run the training ``args`` ask for, together with the other processes of ``world``; return the exit code."""
    job = prepared(args, world)
    with opened(job) as stop:
        try:
            stopped = learn(job, stop)
        except Diverged as fault:
            stopped = learn(second_start(job, fault), stop)
    if not stopped:
        return 0
    print(f"stopped by a signal; go on with: python train.py --resume {job.folder}")
    return stop.exit_code


def learn(job: Job, stop: StopRequest) -> bool:
    """Train to the end, or to a signal; return whether one came.

    Raises:
        Diverged: a loss, a gradient or a weight is not finite.
    """
    setting, net, stopped = job.setting, job.config.net, False
    world, device = setting.world, setting.device
    with Run(job) as run:
        network, state, objective = run.network, run.state, run.objective
        for batches in in_steps(run.batches, net.subdivisions):
            rate = learning_rate(net, state.iteration + 1, seed=setting.args.seed)
            set_learning_rate(state.optimizer, rate)
            network.seen = state.iteration * net.batch
            world.reseed(setting.args.seed, state.iteration)
            (images,) = world.mean([sum(len(batch.images) for batch in batches)])
            sums = dict.fromkeys(job.task.terms, 0.0)
            for part, batch in enumerate(world.accumulate(run.replica, batches)):
                with autocast(device, setting.precision):
                    outputs = objective.outputs(run.replica, batch, state.iteration, part)
                losses = objective.losses(outputs, batch)
                state.scaler.scale(losses["loss"] / images).backward()
                sums = {name: sums[name] + losses[name].item() / images for name in sums}
            sums = dict(zip(sums, world.mean(sums.values()), strict=True))
            check_loss(sums, state.iteration, batches)  # the mean of all processes, which then stop alike
            world.average_statistics(network)
            step(state, run.updates, job.regime.clip_gradient, batches)
            run.log.step(state.iteration, sums, rate)

            if state.iteration == 1:
                run.show(batches[0])
            run.evaluate_where_due()
            stopped = stop.agree(world.largest)  # all after the same iteration
            if run.save_where_due(stopped=stopped):
                break
        run.finish()
    return stopped


if __name__ == "__main__":
    cli.run(main)

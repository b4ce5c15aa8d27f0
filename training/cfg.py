"""The cfg as it is trained: the flags applied, heads for the data's classes, a schedule for its number of images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.graph import plan
from training.arguments import TrainFlags
from training.class_weights import NONE, as_counts, class_weights, weights_line
from training.recipes import RECIPES
from training.schedule.plan import SMALL_BATCH, Request, Schedule, plan_training
from training.schedule.regime import Regime, choose_regime
from utils.cfg import Config, load_cfg, with_activation, with_classes, with_counters, with_net, with_size, with_yolo
from utils.cfg.classifier import check_trainable
from utils.cfg.effect import keys_without_effect
from utils.cfg.layers import Convolutional
from utils.errors import CfgError, UsageError
from utils.structures import ImageRecord, class_counts

BYTES_PER_ACTIVATION = 12  # of training in float32: convolution output, batch norm output, gradient


def read_cfg(args: TrainFlags) -> Config:
    """As `cfg_of_flags`; what a run will pass over is printed."""
    config = cfg_of_flags(args)
    for warning in config.warnings:
        print(f"warning: {warning}")
    warn_of_keys(config, args.ema)
    return config


def cfg_of_flags(args: TrainFlags) -> Config:
    """The cfg ``--cfg`` names, with the other flags of train.py applied."""
    config = load_cfg(args.cfg)
    given = {key: value for key in ("batch", "subdivisions") if (value := getattr(args, key)) is not None}
    if args.batch and not args.subdivisions:
        given["subdivisions"] = math.gcd(args.batch, config.net.subdivisions)
    if args.letterbox is not None:
        given["letter_box"] = args.letterbox
    if args.sat is not None:
        given["adversarial_lr"] = args.sat
    config = with_net(with_keys(config, args.set), **given)
    if args.size:
        config = with_size(config, args.size)
    if args.activation:
        config = with_activation(config, args.activation)
    return with_cross_batch_norm(config) if args.cbn else config


def with_keys(config: Config, values: Mapping[str, str]) -> Config:
    """The cfg with other [net] keys, or, spelt ``yolo.KEY``, other keys of every [yolo]: what ``--set`` says."""
    heads = {key.removeprefix("yolo."): value for key, value in values.items() if key.startswith("yolo.")}
    net = {key: value for key, value in values.items() if not key.startswith("yolo.")}
    return with_yolo(with_net(config, **net), **heads)


def warn_of_keys(config: Config, ema: str) -> None:
    """Print a line for each [net] key that the run will pass over."""
    lines = list(keys_without_effect(config))
    if config.net.ema_alpha and ema != "darknet":
        lines.append(
            f"{config.where(config.net)} ema_alpha={config.net.ema_alpha:g} has no effect with --ema {ema}; "
            "--ema darknet averages as Darknet does"
        )
    for line in lines:
        print(f"warning: {line}")


def with_cross_batch_norm(config: Config) -> Config:
    """The network with ``batch_normalize=2`` wherever a convolution has batch norm."""
    layers = (
        layer.with_values(batch_normalize=2) if isinstance(layer, Convolutional) and layer.batch_normalize else layer
        for layer in config.layers
    )
    return dataclasses.replace(config, layers=tuple(layers))


def adapt_heads(config: Config, classes: int, source: str) -> Config:
    """The cfg with its heads made for the ``classes`` of the data set ``source``."""
    adapted = with_classes(config, classes)
    if adapted != config:
        print(f"{config.source}: heads adapted to the {classes} classes of {source}")
    return adapted


def weigh_classes(config: Config, text: str | None, names: Sequence[str], records: Sequence[ImageRecord]) -> Config:
    """The cfg with what ``--class-weights`` says as ``counters_per_class`` of its heads; None: as the cfg has it."""
    if text is None or text == NONE:
        return config if text is None else with_counters(config, None)
    weights = class_weights(text, names, class_counts(records, len(names)))
    print(weights_line(names, weights))
    return with_counters(config, as_counts(weights))


def is_fine_tuning(args: TrainFlags, config: Config) -> bool:
    """Whether ``--weights`` are of a trained detector and nobody gave a learning rate (a recipe is nobody)."""
    recipe = RECIPES[args.recipe].keys.get("learning_rate")
    if not args.weights or args.set.get("learning_rate", recipe) != recipe:
        return False
    from training.pretrained import is_trained_detector  # late: it brings torch, which reading a cfg does not wait for

    return is_trained_detector(Path(args.weights), config, load_cfg(args.cfg))


def fit_schedule(
    args: TrainFlags, config: Config, images: int, *, small_batch: int = SMALL_BATCH
) -> tuple[Config, Regime]:
    """The cfg with batch and schedule for so many training images, and how to step; every change is printed.

    Args:
        small_batch: the batch where there are few images.
    """
    net = config.net
    fine_tuning = is_fine_tuning(args, config)
    regime, chosen = choose_regime(args, config, images, fine_tuning=fine_tuning)
    given = set(args.set) | {key for key in ("batch", "subdivisions") if getattr(args, key)}
    schedule = Schedule(**{field.name: getattr(net, field.name) for field in dataclasses.fields(Schedule)})
    request = Request(
        given=given,
        epochs=args.epochs,
        iterations=args.iterations,
        nominal_batch=args.nominal_batch,
        small_batch=small_batch,
        warm_up=args.warm_up,
    )
    planned = plan_training(
        schedule,
        images,
        request,
        bytes_per_image=BYTES_PER_ACTIVATION * plan(config).activations,
        fine_tuning=fine_tuning,
        by_depth=regime.by_depth,
    )
    print(f"{images:,} training images:", *planned.notes, *chosen, sep="\n  ")
    config = with_net(config, **planned.keys)
    if config.net.batch % config.net.subdivisions:
        raise UsageError(
            f"{config.source}: batch={config.net.batch} is no multiple of subdivisions={config.net.subdivisions}; "
            "give --batch and --subdivisions that fit"
        )
    return config, regime


def with_half_rate(config: Config) -> Config:
    """The cfg with half the learning rate, first and last."""
    net = config.net
    return with_net(config, learning_rate=net.learning_rate / 2, learning_rate_min=net.learning_rate_min / 2)


def lengthened(config: Config, images: int, *, epochs: int | None, iterations: int | None) -> Config:
    """The cfg of a resumed run, with the length ``--epochs`` or ``--iterations`` now asks for."""
    net = config.net
    total = iterations or (epochs and math.ceil(epochs * images / net.batch)) or net.max_batches
    cycle = total if net.sgdr_cycle == net.max_batches else net.sgdr_cycle  # one cosine stays one cosine
    return with_net(config, max_batches=total, sgdr_cycle=cycle)


def adapt_classes(config: Config, classes: int, source: str) -> Config:
    """The cfg with its last layer made for the ``classes`` of the data set ``source``.

    Raises:
        CfgError: it cannot be trained on labels of whole images.
    """
    check_trainable(config)
    adapted = with_classes(config, classes)
    graph = plan(adapted)
    outputs = graph.nodes[graph.output].outputs
    if outputs != (classes, 1, 1):
        shape = "x".join(map(str, outputs))
        raise CfgError(
            f"{config.where(config.layers[-1])} gets {shape} values (wanted {classes}x1x1); put an [avgpool] before it"
        )
    if adapted != config:
        print(f"{config.source}: last layer adapted to the {classes} classes of {source}")
    return adapted

"""Changes to a parsed cfg: each function returns a new Config and leaves its argument alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from utils.cfg.classifier import class_layer, is_classifier
from utils.cfg.heads import Region, Yolo
from utils.cfg.layers import Convolutional, Section, Shortcut
from utils.cfg.options import Options
from utils.cfg.sections import Config
from utils.cfg.values import did_you_mean, shown
from utils.errors import CfgError
from utils.structures import Size


def with_classes(config: Config, classes: int) -> Config:
    """The network for another number of classes.

    Of a detector that is every head, and the filters of the convolution before it; of a classifier the last layer
    that has weights.
    """
    layers = list(config.layers)
    if is_classifier(config):
        index = class_layer(config)
        key = "filters" if isinstance(layers[index], Convolutional) else "output"
        layers[index] = _changed(config, layers[index], **{key: classes})
        return dataclasses.replace(config, layers=tuple(layers))
    heads = [index for index, layer in enumerate(layers) if isinstance(layer, Yolo | Region)]
    if not heads:
        raise CfgError(
            f"{config.source}: no [yolo], [Gaussian_yolo] or [region] section; classes={classes} has no place"
        )
    for index in heads:
        head, before = layers[index], layers[index - 1]
        if index == 0 or not isinstance(before, Convolutional):
            raise CfgError(
                f"{config.where(head)}: wanted a [convolutional] just before it, whose filters fit the classes"
            )
        if isinstance(head, Region) and head.tree and classes != head.classes:
            raise CfgError(
                f"{config.where(head)} tree={shown(head.tree)} has classes={head.classes}, not {classes} "
                "(wanted data with the classes of the tree; take tree out for others)"
            )
        # Counts of the old classes say nothing about the new ones.
        assert isinstance(head, Yolo | Region)
        forget = {"counters_per_class": None} if classes != head.classes else {}
        layers[index] = _changed(config, head, classes=classes, **forget)
        layers[index - 1] = _changed(config, before, filters=head.filters_before(classes))
    return dataclasses.replace(config, layers=tuple(layers))


def with_size(config: Config, size: Size) -> Config:
    """The network for another input ``size`` (H, W)."""
    height, width = size
    return with_net(config, height=height, width=width)


def with_net(config: Config, **values: Any) -> Config:
    """Other values in ``[net]``, typed or as the text of a flag: ``with_net(config, batch="8", mosaic=False)``."""
    return dataclasses.replace(config, net=_changed(config, config.net, **values))


def with_yolo(config: Config, **values: Any) -> Config:
    """Other values in every ``[yolo]``, typed or as the text of a flag."""
    layers = (_changed(config, layer, **values) if type(layer) is Yolo else layer for layer in config.layers)
    return dataclasses.replace(config, layers=tuple(layers))


def with_counters(config: Config, counts: Sequence[int] | None) -> Config:
    """Every detection head with these ``counters_per_class``, which weigh its classes; None: with none."""
    layers = (
        _changed(config, layer, counters_per_class=None if counts is None else tuple(counts))
        if isinstance(layer, Yolo | Region)
        else layer
        for layer in config.layers
    )
    return dataclasses.replace(config, layers=tuple(layers))


def with_activation(config: Config, name: str) -> Config:
    """The network with activation ``name`` in every batch-normalised convolution, and in shortcuts with an activation.

    What is linear there stays so: it stands before an addition (MobileNetV2, arXiv 1801.04381, section 3.2).
    """
    layers = (_changed(config, layer, activation=name) if _is_activated(layer) else layer for layer in config.layers)
    return dataclasses.replace(config, layers=tuple(layers))


def _is_activated(layer: Section) -> bool:
    if isinstance(layer, Convolutional):
        return layer.batch_normalize > 0 and layer.activation != "linear"
    return isinstance(layer, Shortcut) and layer.activation != "linear"


def _changed(config: Config, section: Options, **values: Any) -> Any:
    """``section`` with other values, checked as if they stood in its text. None takes a key back to its default."""
    keys, typed = section.keys(), {}
    for key, value in values.items():
        if key not in keys:
            hint = did_you_mean(key, keys)
            raise CfgError(f"{config.where(section)} has no key '{shown(key)}'" + (f"; {hint}" if hint else ""))
        kind = keys[key].metadata["kind"]
        try:
            text = value if isinstance(value, str) or value is None else kind.format(value)
            typed[keys[key].name] = None if text is None else kind.parse("".join(text.split()))
        except (ValueError, TypeError, OverflowError) as error:
            raise CfgError(f"{config.where(section)} {key}={shown(str(value))} ({error})") from None
    changed = section.with_values(**typed)
    for key, reason in changed.problems():
        raise CfgError(f"{config.where(section)} {key}={shown(str(getattr(changed, keys[key].name)))} ({reason})")
    return changed

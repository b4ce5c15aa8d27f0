"""Classifiers: networks that say what a whole image shows, by a closing ``[softmax]``."""

from __future__ import annotations

from utils.cfg.heads import Region, Yolo
from utils.cfg.layers import Avgpool, Connected, Convolutional, Cost, Dropout, Softmax
from utils.cfg.sections import Config
from utils.errors import CfgError

_BETWEEN = (Avgpool, Dropout, Softmax, Cost)  # what may follow the layer that has an output for each class


def is_classifier(config: Config) -> bool:
    """Whether the network ends in a [softmax], perhaps with a [cost] after it, and has no detection head."""
    closing = next((layer for layer in reversed(config.layers) if not isinstance(layer, Cost)), None)
    return isinstance(closing, Softmax) and not any(isinstance(layer, Yolo | Region) for layer in config.layers)


def closing_softmax(config: Config) -> Softmax:
    """The [softmax] at the end of a classifier."""
    return next(layer for layer in reversed(config.layers) if isinstance(layer, Softmax))


def class_layer(config: Config) -> int:
    """The index of a classifier's last layer with weights, whose outputs are the classes.

    Raises:
        CfgError: another kind of layer stands between it and the [softmax].
    """
    for index in reversed(range(len(config.layers))):
        layer = config.layers[index]
        if isinstance(layer, Convolutional | Connected):
            return index
        if not isinstance(layer, _BETWEEN):
            raise CfgError(
                f"{config.where(layer)}: between the [softmax] and the layer of the classes "
                "(wanted nothing but [avgpool] and [dropout] there)"
            )
    raise CfgError(f"{config.source}: no [convolutional] or [connected] whose outputs are the classes")


def check_trainable(config: Config) -> None:
    """Refuse a classifier that the labels of whole images cannot teach.

    Raises:
        CfgError: the input is no RGB image, or the [softmax] is over anything but the classes.
    """
    softmax = closing_softmax(config)
    faults = {
        f"groups={softmax.groups}": softmax.groups != 1,
        f"tree={softmax.tree}": softmax.tree is not None,
        "spatial=1": softmax.spatial,
        "noloss=1": softmax.noloss,
    }
    fault = next((text for text, wrong in faults.items() if wrong), None)
    if fault is not None:
        raise CfgError(f"{config.where(softmax)} {fault}: cannot be trained here (wanted one softmax over all classes)")
    if config.net.channels != 3:
        raise CfgError(f"{config.where(config.net)} channels={config.net.channels} (wanted 3, for RGB images)")

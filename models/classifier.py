"""A classifier's cfg made for a data set."""

from __future__ import annotations

from models.graph import plan
from utils.cfg import Config, with_classes
from utils.cfg_classifier import check_trainable
from utils.errors import CfgError


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

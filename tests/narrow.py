"""A cfg of full depth with a fraction of its filters: what depth does, at a price that tests can pay."""

from __future__ import annotations

import dataclasses
from itertools import zip_longest

from utils.cfg import Config
from utils.cfg.heads import Yolo
from utils.cfg.layers import Convolutional


def narrow(config: Config, divisor: int, *, least: int = 8) -> Config:
    """``config`` with its filters divided by ``divisor``, but at least ``least``; those before heads stay."""
    layers = [
        layer.with_values(filters=max(least, layer.filters // divisor))
        if isinstance(layer, Convolutional) and not isinstance(after, Yolo)
        else layer
        for layer, after in zip_longest(config.layers, config.layers[1:])
    ]
    return dataclasses.replace(config, layers=tuple(layers))

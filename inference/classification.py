"""From pictures to the classes they are likeliest of."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from data.loading.classification import central_input
from inference.flags import DetectFlags, refuse_box_flags
from inference.sources import open_sources
from models import load_network
from models.darknet import Darknet
from utils.atomic import write_json
from utils.cfg import Config
from utils.cfg.classifier import closing_softmax
from utils.device import select_device
from utils.errors import InputError
from utils.image import printable
from utils.names import default_names, read_names
from utils.signals import StopRequest

GUESSES = 5  # classes named for a picture


@torch.inference_mode()
def guess_from_flags(args: DetectFlags, config: Config, own_names: Sequence[str] | None) -> None:
    """What detect.py does with a classifier: print the likeliest classes of every picture.

    Args:
        args: the flags of detect.py.
        config: the network.
        own_names: the class names that came with the weights.

    Raises:
        UsageError: flags about boxes were given.
        InputError: after the others, a picture that could not be read.
    """
    refuse_box_flags(args)
    device = select_device(args.device)
    network = load_network(config, args.weights, device, args.precision, compile=args.compile)
    names = read_names(args.names, classes=network.num_classes) if args.names else own_names
    names = names or default_names(network.num_classes)
    frames: list[dict[str, Any]] = []
    with StopRequest() as stop:
        sources = open_sources(args.source, stopping=lambda: stop.signal is not None)
        for frame in (frame for source in sources for frame in source):
            guesses = likeliest(network, frame.image, names, device)
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


def likeliest(network: Darknet, image: np.ndarray, names: Sequence[str], device: torch.device) -> list[dict[str, Any]]:
    """The ``GUESSES`` best classes of one picture, the best first: ``label``, ``name`` and ``score`` in [0, 1]."""
    pixels = torch.from_numpy(central_input(image, network.size))[None].to(device)
    scores = (network(pixels)[0][0] / closing_softmax(network.config).temperature).softmax(0)
    best = scores.topk(min(GUESSES, len(names)))
    return [
        {"label": label, "name": names[label], "score": round(score, 6)}
        for score, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]

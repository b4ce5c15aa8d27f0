"""Darknet's files: .weights with the cfg and names it needs beside it, and backbones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.darknet import Darknet
from models.weights import save_darknet_weights
from utils.atomic import write_text
from utils.cfg import format_cfg, load_cfg
from utils.errors import InputError, UsageError
from utils.names import read_names


def export_weights(network: Darknet, path: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Write ``path`` in Darknet's format, and beside it what Darknet must be given with it.

    A network whose cfg lies in no file of its own, because it came out of a checkpoint, gets one: ``best.cfg`` beside
    ``best.weights``. A file that is there already and means the same stays as it is.

    Args:
        network: not fused.
        names: the class names, where the weights brought them, for ``best.names``.

    Returns:
        The files written, the weights first.

    Raises:
        UsageError: ``path`` is no .weights file, or a cfg or names of another network lies beside it. Nothing is
            written then.
        EnvironmentFault: the disk refuses.
    """
    if path.suffix != ".weights":
        raise UsageError(f"{path}: the scripts know Darknet's weights by their suffix; name it {path.stem}.weights")
    cfg, listed = path.with_suffix(".cfg"), path.with_suffix(".names")
    beside = {}
    if not Path(network.config.source).is_file() and not _means(cfg, network.config, load_cfg):
        beside[cfg] = format_cfg(network.config)
    if names is not None and not _means(listed, tuple(names), read_names):
        beside[listed] = "".join(f"{name}\n" for name in names)
    save_darknet_weights(network, path)
    for file, text in beside.items():
        write_text(file, text)
    return [path, *beside]


def export_backbone(network: Darknet, path: Path, layers: int) -> None:
    """Write the first ``layers`` layers, to the byte what ``darknet partial`` writes: its count of images is 0.

    Raises:
        UsageError: the network has fewer layers.
        EnvironmentFault: the disk refuses.
    """
    count = len(network.layers)
    if not 0 < layers <= count:
        raise UsageError(f"--layers {layers}: {network.config.source} has {count} layers (wanted 1 to {count})")
    save_darknet_weights(network, path, seen=0, stop_before=layers)


def _means(path: Path, content: Any, read: Callable[[Path], Any]) -> bool:
    """Whether ``path`` is there, and then says what ``content`` says.

    Raises:
        UsageError: it says something else; it may be all that its owner has of it.
    """
    if not path.exists():
        return False
    try:
        same = read(path) == content
    except InputError:
        same = False
    if not same:
        raise UsageError(f"{path}: is there already and says something else; move it, or write elsewhere")
    return True

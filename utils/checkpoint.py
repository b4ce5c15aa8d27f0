"""Checkpoints: plain tensors, numbers and text, written atomically and read without trusting them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.atomic import atomic_write
from utils.checkpoint_archive import check_archive
from utils.errors import WeightsError

SCHEMA = 1
_REQUIRED = {"schema": int, "model": dict, "cfg": str, "names": list}
_DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` atomically: a reader finds the old file or the new one.

    Args:
        state: plain tensors, numbers, text, lists and dicts. Keys every checkpoint has: ``model`` (state_dict of the
            network), ``cfg`` (its text), ``names`` (class names).

    Raises:
        EnvironmentFault: the disk refuses; what was there before is untouched.
    """
    with atomic_write(path) as file:
        torch.save({"schema": SCHEMA, **state}, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint after checking it: no code is run, no flipped bit goes unseen.

    torch.load alone verifies no checksum, and ``weights_only`` still accepts tensors that lie about their size; so
    the zip's CRCs and each tensor are looked at first.

    Raises:
        WeightsError: the file is missing, is no checkpoint, is damaged, or holds code.
    """
    path = Path(path)
    check_archive(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling can fail in any way a hostile file likes
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path}: refused, it holds more than tensors and text ({reason})") from None
    _check_schema(state, path)
    return state


def _check_schema(state: object, path: Path) -> None:
    if not isinstance(state, dict):
        raise WeightsError(f"{path}: holds a {type(state).__name__} (wanted a checkpoint written by train.py)")
    for key, kind in _REQUIRED.items():
        if not isinstance(state.get(key), kind):
            raise WeightsError(f"{path}: has no {kind.__name__} {key!r} (wanted a checkpoint written by train.py)")
    if state["schema"] > SCHEMA:
        raise WeightsError(f"{path}: schema {state['schema']} is newer than {SCHEMA}; update this project")
    for part in ("model", "ema"):
        for name, value in (state.get(part) or {}).items():
            if isinstance(value, Tensor):
                _check_tensor(value, f"{path}: {part}.{name}")


def _check_tensor(value: Tensor, where: str) -> None:
    if value.layout != torch.strided or value.dtype not in _DTYPES or value.is_quantized:
        raise WeightsError(f"{where}: a {value.layout} tensor of {value.dtype} (wanted plain numbers)")
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        raise WeightsError(f"{where}: claims {value.numel():,} values but holds fewer; refused")
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise WeightsError(f"{where}: holds NaN or infinity; take an older checkpoint")

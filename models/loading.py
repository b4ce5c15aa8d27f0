"""From a cfg and weights to a network that is ready to run."""

from __future__ import annotations

from pathlib import Path

import torch

from models.compiling import compile_layers
from models.darknet import Darknet
from models.weights import load_darknet_weights
from utils.cfg import Config, load_cfg
from utils.checkpoint import load_checkpoint
from utils.device import precision_name, resolve_precision, select_device
from utils.errors import WeightsError


def load_network(
    cfg: str | Path | Config,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    *,
    fuse: bool = True,
    compile: bool = False,
) -> Darknet:
    """Build a network for inference.

    Args:
        cfg: a Config, a path, or a name of the folder cfg/.
        weights: a Darknet ``.weights`` file or a ``.pt`` checkpoint (its averaged weights where it has them); None
            leaves the weights as they start.
        device: ``auto``, ``cpu``, ``cuda`` ...
        precision: of the convolutions: ``fp32``, ``bf16``, ``fp16``, or ``auto`` (see
            :func:`utils.device.resolve_precision`; it says so where it leaves fp32 on a CPU); results are float32 in
            any case.
        fuse: fold batch norms into convolutions; a fused network is faster and cannot be trained or saved.
        compile: let torch.compile make the network's passes faster (see :func:`models.compiling.compile_layers`).

    Returns:
        The network in evaluation mode, channels last.
    """
    config = cfg if isinstance(cfg, Config) else load_cfg(cfg)
    network = Darknet(config)
    device = select_device(str(device))
    dtype = resolve_precision(precision, device, operations=network.graph.operations)
    if weights is not None and Path(weights).suffix == ".pt":
        _load_checkpoint(network, Path(weights))
    elif weights is not None:
        load_darknet_weights(network, weights)
    network.eval()
    if fuse:
        network.fuse()
    if precision == "auto" and device.type == "cpu" and dtype != torch.float32:
        print(f"precision {precision_name(dtype)}: faster on this CPU (--precision fp32 gives Darknet's own numbers)")
    network.cast(dtype)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no such type
    if compile:
        compile_layers(network)
    return network


def _load_checkpoint(network: Darknet, path: Path) -> None:
    """Copy a checkpoint's weights, and how many images it has seen, into the network; names and shapes must agree."""
    checkpoint = load_checkpoint(path)
    state = checkpoint.get("ema") or checkpoint["model"]
    own = network.state_dict()
    wrong = [
        f"{name} {_shape(own.get(name))} here, {_shape(state.get(name))} there"
        for name in own | state
        if _shape(own.get(name)) != _shape(state.get(name))
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise WeightsError(f"{path} does not fit {network.config.source}: {'; '.join(wrong[:3])}{more}")
    network.load_state_dict(state)
    network.seen = checkpoint.get("iteration", 0) * network.config.net.batch


def _shape(tensor: torch.Tensor | None) -> str:
    return "missing" if tensor is None else str(tuple(tensor.shape))

"""What a training step costs on this CPU, in time and memory: ``python -m benchmarks.training_step_cpu [--threads 1]``.

yolov4.cfg with PyTorch's operators and with the fused ones; with Mish, and with leaky ReLU, in every layer.
benchmarks/step_cost.py says how it is measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.step_cost import in_turns, kind_of_time
from benchmarks.tables import RESULTS, Report, table
from models.darknet import Darknet
from models.ops import set_ops
from utils import cli
from utils.cfg import Config, load_cfg, with_size
from utils.device import autocast
from utils.structures import Size

NATIVE = "PyTorch's operators"
WAYS = {
    NATIVE: ("yolov4.cfg", "native"),
    "fused": ("yolov4.cfg", "fused"),
    "all Mish, fused": ("yolov4-mish.cfg", "fused"),
    "all leaky, fused": ("yolov4-leaky.cfg", "fused"),
}


def main() -> None:
    """Measure and write benchmarks/results/training_step_cpu.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step_cpu", description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(all cores)")
    parser.add_argument("--rounds", type=int, default=5, help="steps each way (5)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--kept-size", type=cli.parse_size, default=(608, 608), help="for what backward keeps (608)")
    parser.add_argument("--out", type=Path, default=RESULTS / "training_step_cpu.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = Report(options.out, f"Training step of YOLOv4 at {options.size}, batch {options.batch}, on a CPU")
    kind = kind_of_time(torch.device("cpu"))
    report.add(f"Medians of {options.rounds} steps, measured in turns ({kind}).\n")
    rows = []
    for precision in ("fp32", "bf16"):
        found = measure(precision, options)
        native_seconds, native_peak = found[NATIVE]
        rows += [
            (precision, way, seconds, peak, f"{seconds / native_seconds:.2f}", f"{peak / native_peak:.2f}")
            for way, (seconds, peak) in found.items()
        ]
    header = ("precision", "way", "seconds", "peak MiB", "time, PyTorch's = 1", "memory, PyTorch's = 1")
    report.add(table(header, rows))
    report.add(kept(options.kept_size))


def measure(precision: str, options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Median seconds of a step and peak MiB of each way."""
    shared = ("--threads", options.threads, "--batch", options.batch, "--size", options.size, "--precision", precision)
    ways = {way: [*map(str, shared), "--cfg", cfg, "--ops", mode] for way, (cfg, mode) in WAYS.items()}
    return in_turns(ways, options.rounds)


def kept(size: Size) -> str:
    """What one image keeps for backward, with either operators."""
    rows = []
    for cfg in ("yolov4.cfg", "yolov4-mish.cfg"):
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            native, fused = (kept_bytes(mode, with_size(load_cfg(cfg), size), dtype) for mode in ("native", "fused"))
            rows.append((cfg, name, native / 2**20, fused / 2**20, f"{fused / native:.2f}"))
    header = ("cfg", "precision", "PyTorch's operators, MiB", "fused, MiB", "fused : PyTorch's")
    return f"## Kept for backward, one image of {size[1]} x {size[0]}\n\n" + table(header, rows)


def kept_bytes(mode: str, config: Config, dtype: torch.dtype, device: str = "cpu") -> int:
    """Bytes of the storages that autograd keeps after a forward pass, parameters aside."""
    set_ops(mode)
    network = Darknet(config).to(device, memory_format=torch.channels_last).train()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # held, so that no address comes twice

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    images = torch.rand(1, config.net.channels, *network.size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast(images.device, dtype):
        network(images)
    return sum(storage.nbytes() for address, storage in storages.items() if address not in parameters)


if __name__ == "__main__":
    main()

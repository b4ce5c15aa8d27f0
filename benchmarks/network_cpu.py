"""What an image costs on this CPU, ours and other programs': ``python -m benchmarks.network_cpu [--threads 1]``.

Every way has a process of its own, and they measure in turns, one image at a time, the second of two; with one thread
they measure processor time, so that a busy machine hardly shows. Peers that are not installed
(openvino, onnxruntime; onnx and onnxscript to write what they read) are "not measured". Weights are random, but their
batch norms are settled on a picture, so that activations have the magnitudes of a trained network.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from benchmarks.network_peers import PEERS, picture
from benchmarks.tables import RESULTS, Report, table
from models.darknet import Darknet
from models.ops import set_ops
from models.weights import save_darknet_weights
from utils.cfg import Config, format_cfg, load_cfg, with_size

CFGS = ("yolov4.cfg", "yolov4-mish.cfg", "yolov4-leaky.cfg")
Row = tuple[str, dict[str, float | None]]  # cfg; milliseconds of each peer
OURS, NATIVE = "eager, fused", "eager, PyTorch's operators"


def main() -> None:
    """Measure and write benchmarks/results/network_cpu.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.network_cpu", description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of every way (all cores)")
    parser.add_argument("--rounds", type=int, default=9, help="images each way (9)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[416, 608])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--cfgs", nargs="+", default=list(CFGS))
    parser.add_argument("--peers", nargs="+", choices=tuple(PEERS), default=list(PEERS))
    parser.add_argument("--out", type=Path, default=RESULTS / "network_cpu.md")
    options = parser.parse_args()
    report = Report(options.out, "Whole networks on a CPU, one image at a time")
    kind = "processor time" if options.threads == 1 else "wall clock"
    threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}"
    turns = "measured in turns, each right after another"
    report.add(f"Medians of {options.rounds} images, {turns}, in milliseconds of {kind}; {threads} each.\n")
    for size in options.sizes:
        rows: dict[str, list[Row]] = {precision: [] for precision in options.precisions}
        for cfg in options.cfgs:
            with tempfile.TemporaryDirectory() as folder:
                write_network(with_size(load_cfg(cfg), (size, size)), Path(folder))
                for precision, found in rows.items():
                    found.append((cfg, measure(Path(folder), size, precision, options)))
        for precision, found in rows.items():
            report.add(section(f"{size} x {size}, {precision}", found, options.peers))


def write_network(config: Config, folder: Path) -> None:
    """The network as every peer wants it: net.cfg, net.weights, and net-SIZE.onnx where onnx is installed."""
    torch.manual_seed(0)
    set_ops("native")
    network, size = Darknet(config).train(), config.net.width
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network(picture(size))
    (folder / "net.cfg").write_text(format_cfg(config))
    save_darknet_weights(network, folder / "net.weights")
    try:
        write_onnx(network.fuse(), picture(size), folder / f"net-{size}.onnx")
    except ImportError as error:
        print(f"no ONNX file: {error}", file=sys.stderr)


def write_onnx(network: Darknet, images: torch.Tensor, path: Path) -> None:
    """The fused network in ONNX, Mish as the standard operator."""
    torch.onnx.export(network, (images,), path, dynamo=True, opset_version=18, external_data=False, verbose=False)


def measure(folder: Path, size: int, precision: str, options: argparse.Namespace) -> dict[str, float | None]:
    """Median milliseconds of each peer; None where it could not be started."""
    workers = {peer: start(peer, folder, size, precision, options.threads) for peer in options.peers}
    running = {peer: worker for peer, worker in workers.items() if worker is not None}
    times: dict[str, list[float]] = {peer: [] for peer in running}
    for _ in range(options.rounds):
        for peer, worker in running.items():
            worker.stdin.write("\n")
            worker.stdin.flush()
            times[peer].append(float(worker.stdout.readline()))
    for worker in running.values():
        worker.communicate()
    return {peer: statistics.median(times[peer]) if peer in times else None for peer in options.peers}


def start(peer: str, folder: Path, size: int, precision: str, threads: int) -> subprocess.Popen[str] | None:
    """A warm worker, or None with a line on stderr that says why."""
    arguments = (peer, str(folder), str(size), precision, str(threads))
    command = [sys.executable, "-m", "benchmarks.network_peers", *arguments]
    with (folder / "error.txt").open("w+") as errors:
        worker = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=errors, text=True)
        for line in worker.stdout:
            if line.strip() == "ready":
                return worker
        worker.wait()
        errors.seek(0)
        print(f"{peer}, {precision}: {(errors.read().strip().splitlines() or ['ended'])[-1]}", file=sys.stderr)
    return None


def section(title: str, rows: list[Row], peers: list[str]) -> str:
    """Milliseconds, and what follows from them."""
    cells = [
        (cfg, *times.values(), ratio(times, OURS, NATIVE), ratio(times, "compiled", "OpenVINO")) for cfg, times in rows
    ]
    header = ("cfg", *peers, "fused : PyTorch's", "compiled : OpenVINO")
    text = f"## {title}\n\n" + table(header, cells)
    found = {cfg: times.get(OURS) for cfg, times in rows}
    mish, leaky = found.get("yolov4-mish.cfg"), found.get("yolov4-leaky.cfg")
    if mish and leaky:
        text += f"\nEager, fused: all Mish takes {mish / leaky:.2f} times what all leaky takes.\n"
    return text


def ratio(times: dict[str, float | None], above: str, below: str) -> str | None:
    """``above`` : ``below`` with two digits, None where either is missing."""
    first, second = times.get(above), times.get(below)
    return f"{first / second:.2f}" if first and second else None


if __name__ == "__main__":
    main()

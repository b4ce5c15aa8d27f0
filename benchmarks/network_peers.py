"""One way to run a network on the CPU, in a process of its own: measures when its parent says so.

Not for use by hand: ``benchmarks.network_cpu`` starts it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from models import load_network
from models.ops import set_ops
from utils.cfg import load_cfg, with_size

WARM_UP = 3
Run = Callable[[], object]


def eager(folder: Path, size: int, precision: str, *, ops: str) -> Run:
    """Our network, with PyTorch's operators or the fused ones."""
    set_ops(ops)
    network = load_network(
        with_size(load_cfg(folder / "net.cfg"), (size, size)), folder / "net.weights", "cpu", precision
    )
    images = picture(size)

    def once() -> None:
        with torch.inference_mode():
            network(images)

    return once


def compiled(folder: Path, size: int, precision: str) -> Run:
    """Our network under torch.compile, with its weights compiled in."""
    config = with_size(load_cfg(folder / "net.cfg"), (size, size))
    network = load_network(config, folder / "net.weights", "cpu", precision, compile=True)
    images = picture(size)

    def once() -> None:
        with torch.inference_mode():
            network(images)

    return once


def openvino(folder: Path, size: int, precision: str) -> Run:
    """OpenVINO, tuned for the latency of one image."""
    import openvino

    hints = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    model = openvino.Core().compile_model(folder / f"net-{size}.onnx", "CPU", hints)
    request, images = model.create_infer_request(), picture(size).numpy()
    return lambda: request.infer([images])


def onnxruntime(folder: Path, size: int, precision: str) -> Run:
    """ONNX Runtime, which has no bf16 convolution for CPUs."""
    import onnxruntime

    if precision != "fp32":
        raise NotImplementedError("fp32 only")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / f"net-{size}.onnx", options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: picture(size).numpy()}
    return lambda: session.run(None, feed)


def opencv(folder: Path, size: int, precision: str) -> Run:
    """OpenCV's reader of Darknet files, decoding of the boxes included; fp32 on CPUs."""
    import cv2

    if precision != "fp32":
        raise NotImplementedError("fp32 only")
    cv2.setNumThreads(torch.get_num_threads())
    network = cv2.dnn.readNetFromDarknet(str(folder / "net.cfg"), str(folder / "net.weights"))
    images, outputs = picture(size).numpy(), network.getUnconnectedOutLayersNames()

    def once() -> None:
        network.setInput(np.ascontiguousarray(images))
        network.forward(outputs)

    return once


def picture(size: int) -> torch.Tensor:
    """(1, 3, size, size) of noise, the same in every process."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


PEERS: dict[str, Callable[[Path, int, str], Run]] = {
    "eager, PyTorch's operators": lambda *where: eager(*where, ops="native"),
    "eager, fused": lambda *where: eager(*where, ops="fused"),
    "compiled": compiled,
    "OpenVINO": openvino,
    "ONNX Runtime": onnxruntime,
    "OpenCV": opencv,
}


def main(peer: str, folder: str, size: str, precision: str, threads: str) -> None:
    """Answer every line on stdin by the milliseconds of one image; with one thread, of processor time.

    Another image goes before it, as in a video: after the other programs' turns caches are cold and threads asleep.
    """
    torch.set_num_threads(int(threads))
    clock = time.process_time if threads == "1" else time.perf_counter
    once = PEERS[peer](Path(folder), int(size), precision)
    for _ in range(WARM_UP):
        once()
    print("ready", flush=True)
    for _ in sys.stdin:
        once()
        begin = clock()
        once()
        print((clock() - begin) * 1e3, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

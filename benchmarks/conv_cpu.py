"""What convolution and activation in one cost with AMX: ``python -m benchmarks.conv_cpu [--seconds 1]``.

Layers of YOLOv4 at 416, one image in bf16. oneDNN's convolution without bias and activation, its weights in its own
order, beside ``conv_act``, in turns. Weights stay in the cache from call to call, as in a network they do not: there
those of the last layers come from memory, for both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.tables import RESULTS, Report, table
from models.ops import PackedConv2d, native, set_ops
from models.ops.extension import has_conv_act
from models.ops.registration import ops
from models.ops.timing import interleaved_medians

LAYERS = (  # channels, height and width, filters, kernel, stride
    (3, 416, 32, 3, 1),
    (32, 416, 64, 3, 2),
    (64, 208, 64, 1, 1),
    (32, 208, 64, 3, 1),
    (64, 104, 64, 3, 1),
    (128, 52, 128, 1, 1),
    (128, 52, 128, 3, 1),
    (256, 52, 512, 3, 2),
    (256, 26, 256, 1, 1),
    (256, 26, 256, 3, 1),
    (1024, 13, 512, 1, 1),
    (512, 13, 1024, 3, 1),
)
ACTIVATIONS = ("linear", "leaky", "mish")


def main() -> None:
    """Measure and write benchmarks/results/conv_cpu.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conv_cpu", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each layer (1)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(all cores)")
    parser.add_argument("--out", type=Path, default=RESULTS / "conv_cpu.md")
    options = parser.parse_args()
    set_ops("fused")
    if not has_conv_act():
        raise SystemExit("conv_cpu: this processor has no AMX (wanted one with it)")
    torch.set_num_threads(options.threads)
    report = Report(options.out, "Convolution and activation in one, in bf16 with AMX")
    rows = [_row(layer, options.seconds) for layer in LAYERS]
    header = ("channels, size, filters, kernel / stride", "oneDNN's convolution", *ACTIVATIONS, "Mish : oneDNN")
    report.add("Medians in milliseconds, in turns.\n\n" + table(header, rows))


@torch.inference_mode()
def _row(layer: tuple[int, ...], seconds: float) -> tuple[object, ...]:
    channels, side, filters, kernel, stride = layer
    with torch.inference_mode(False):
        conv = PackedConv2d(channels, filters, kernel, stride, kernel // 2, bias=False).bfloat16().requires_grad_(False)
        x = F.mish(torch.randn(1, channels, side, side)).bfloat16().contiguous(memory_format=torch.channels_last)
        weights, bias = ops.conv_pack(conv.weight), torch.randn(filters)
    geometry = (filters, kernel, stride, kernel // 2)
    ways = {"oneDNN": lambda: conv(x)}
    for name in ACTIVATIONS:
        code = native.ACTIVATIONS[name]
        ways[name] = lambda code=code: ops.conv_act(x, weights, bias, None, *geometry, code)
    found = interleaved_medians(ways, seconds=seconds, rounds=1000)
    name = f"{channels}, {side}, {filters}, {kernel}x{kernel} / {stride}"
    return name, *found.values(), f"{found['mish'] / found['oneDNN']:.2f}"


if __name__ == "__main__":
    main()

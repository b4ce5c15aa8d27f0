"""The network a cfg describes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.build import build_layer
from models.graph import Graph, plan
from models.heads.yolo import DetectionHead
from models.layers.batch_norm import CrossMiniBatchNorm2d
from models.layers.excitation import AssistedExcitation
from models.layers.merging import ShortcutLayer
from models.layers.parametric import ConvolutionalLayer
from models.layers.pointwise import DropBlockLayer
from models.postprocess import postprocess
from models.summary import summary
from utils.cfg import Config
from utils.cfg.layers import Connected
from utils.image import network_input, read_image
from utils.structures import Detections, Size, Targets

DETECT_BATCH = 8  # images ``detect`` runs at a time


class Darknet(nn.Module):
    """A Darknet network: ``layers[i]`` is what the cfg calls layer i.

    Weights start as Darknet's do, drawn from torch's global generator; only the rolling variance starts at 1 instead
    of 0, so that an untrained network can be run.

    Attributes:
        config: the cfg it was built from.
        graph: its plan: shapes, sources, cost of every layer.
        heads: the detection heads in cfg order; empty for a classifier.
        size: (H, W) of the input the cfg gives; any multiple of the largest stride runs too.
        num_classes: classes of the heads, or channels of a classifier's logits.
        seen: images trained on, as the .weights header counts; DropBlock and ``stopbackward`` go by it.

    Raises:
        CfgError: what :func:`models.graph.plan` refuses.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.graph: Graph = plan(config)
        self.size: Size = (config.net.height, config.net.width)
        self.seen = 0
        self.layers = nn.ModuleList()
        for node in self.graph.nodes:
            self.layers.append(build_layer(node, list(self.layers), self.size, config.source))
        for module in self.modules():
            if isinstance(module, CrossMiniBatchNorm2d):
                module.subdivisions = config.net.subdivisions
        self._sources = [node.sources for node in self.graph.nodes]  # as the layers are called; `fuse` moves some
        self._dead_after = _dead_after(self.graph)
        self._frozen_layers = 0
        self.freeze(max((i + 1 for i, section in enumerate(config.layers) if section.stopbackward == 1), default=0))
        self._fixed_size = any(isinstance(node.section, Connected) for node in self.graph.nodes)

    @property
    def heads(self) -> tuple[DetectionHead, ...]:
        """The detection heads in cfg order."""
        return tuple(self.layers[index] for index in self.graph.heads)  # type: ignore[misc]  # the plan says what they are

    @property
    def num_classes(self) -> int:
        """K."""
        return self.heads[0].num_classes if self.heads else self.graph.nodes[self.graph.output].outputs[0]

    @property
    def frozen_layers(self) -> int:
        """How many of the first layers stay as they are for good."""
        return self._frozen_layers

    @property
    def dtype(self) -> torch.dtype:
        """What the convolutions compute in, autocast aside."""
        computing = (module for module in self.modules() if isinstance(module, nn.Conv2d | nn.Linear))
        return next((module.weight.dtype for module in computing), torch.float32)

    def forward(self, images: Tensor, targets: Targets | None = None) -> list[Tensor]:
        """Run the network; an activation lives only until the last layer that reads it.

        Args:
            images: float (B, C, H, W) in [0, 1].
            targets: the truth, which ``assisted_excitation`` goes by in training; without it nothing is excited.

        Returns:
            float32, whatever the precision inside: the raw head maps (B, A*E, GH, GW) in cfg order, in training with
            the embeddings that [contrastive] layers read among them; for a classifier one tensor, the logits (B, K)
            that its [softmax] would get.
        """
        self._check(images)
        frozen = self._begin_training_pass(images, targets) if self.training else 0
        return self.run_layers(images.to(self.dtype), frozen)

    def run_layers(self, x: Tensor, frozen: int) -> list[Tensor]:
        """From input to raw heads; the first ``frozen`` layers without gradient. `models.compiling` replaces it."""
        wanted = self.graph.heads + (self.graph.embeddings if self.training else ())
        alive: dict[int, Tensor] = {}
        raws: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            node = self.graph.nodes[index]
            sources = [alive[source] for source in self._sources[index]]
            if index < frozen:
                with torch.no_grad():
                    x = layer(x, *sources)
            else:
                x = layer(x, *sources)
            del sources
            if node.section.onlyforward:
                x = x.detach()
            if index in wanted:
                raws.append(x.float())
            elif index == self.graph.output and not self.graph.heads:
                return [x.flatten(1).float()]
            self._keep(index, x, alive)
        return raws

    def _keep(self, index: int, x: Tensor, alive: dict[int, Tensor]) -> None:
        """Hold on to a layer's output if a later layer reads it; let go of what this layer read last."""
        if self.graph.last_use[index] > index:
            alive[index] = x
        if index - 1 in alive and getattr(self.layers[index], "overwrites_previous", False):
            alive[index - 1] = x
        for dead in self._dead_after[index]:
            del alive[dead]

    def _check(self, images: Tensor) -> None:
        channels = self.config.net.channels
        if images.dim() != 4 or images.shape[1] != channels or not images.is_floating_point():
            got = f"{images.dtype} {tuple(images.shape)}".removeprefix("torch.")
            raise ValueError(f"network: got images {got} (wanted float (B, {channels}, H, W) in [0, 1])")
        height, width = size = tuple(images.shape[2:])
        if size == self.size:
            return
        steps = [max((head.stride[axis] for head in self.heads), default=1) for axis in (0, 1)]
        if self._fixed_size or height % steps[0] or width % steps[1] or not height or not width:
            wanted = f"{self.size[0]}x{self.size[1]}"
            if not self._fixed_size:
                wanted += f" or multiples of {steps[0]}x{steps[1]}"
            raise ValueError(f"network: got images of height x width {height}x{width} (wanted {wanted})")

    def _begin_training_pass(self, images: Tensor, targets: Targets | None) -> int:
        """Tell layers how much of the training is over; return how many of the first layers are frozen now."""
        iteration, max_batches = self.seen // self.config.net.batch, self.config.net.max_batches
        for module in self.modules():
            if isinstance(module, DropBlockLayer):
                module.progress = iteration / max(1, max_batches)
            elif isinstance(module, AssistedExcitation):
                module.begin(iteration, max_batches, targets, (images.shape[2], images.shape[3]))
        until = (i + 1 for i, section in enumerate(self.config.layers) if iteration < section.stopbackward)
        return max(self._frozen_layers, max(until, default=0))

    def freeze(self, layers: int) -> None:
        """Keep the first ``layers`` layers as they are, for good: no gradient, batch norm in evaluation mode."""
        self._frozen_layers = max(layers, self._frozen_layers)
        self.layers[:layers].requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Darknet:
        """Training mode, but for frozen layers."""
        super().train(mode)
        self.layers[: self._frozen_layers].eval()
        return self

    def fuse(self) -> Darknet:
        """Fold every batch norm into its convolution, in place, for inference only; return the network.

        A convolution also adds what a shortcut right behind it would, where nothing else reads the one's output.
        """
        self.eval().requires_grad_(False)
        for layer in self.layers:
            if isinstance(layer, ConvolutionalLayer):
                layer.fuse()
        for index, (layer, after) in enumerate(pairwise(self.layers)):
            joins = isinstance(layer, ConvolutionalLayer) and isinstance(after, ShortcutLayer) and after.only_adds
            if joins and layer.takes_shortcut and self.graph.last_use[index] == index:
                self._sources[index], self._sources[index + 1] = self.graph.nodes[index + 1].sources, ()
        return self

    def cast(self, dtype: torch.dtype) -> Darknet:
        """Let convolutions and connected layers compute in ``dtype``, in place; batch norm stays in float32."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(dtype)
        return self

    def summary(self) -> str:
        """The table Darknet prints: every layer with its shapes, parameters and cost."""
        return summary(self.graph)

    @torch.inference_mode()
    def detect(
        self,
        images: Sequence[np.ndarray | str | Path],
        score_threshold: float = 0.25,
        nms_threshold: float = 0.45,
        letterbox: bool | None = None,
    ) -> list[Detections]:
        """Find objects in images of any size.

        Args:
            images: uint8 (H, W, 3) RGB arrays, or paths.
            letterbox: keep the aspect ratio; default what the cfg's ``letter_box`` says.

        Returns:
            For each image its detections in original pixels, on the CPU.
        """
        if not self.heads:
            raise ValueError(
                f"{self.config.source}: a network without a head finds no objects (wanted a [yolo] section)"
            )
        if isinstance(images, str | Path | np.ndarray):
            raise ValueError("detect: got one image (wanted a list of images); put it into [ ]")
        letterbox = self.config.net.letter_box if letterbox is None else letterbox
        device = self.heads[0].anchors.device
        results: list[Detections] = []
        for start in range(0, len(images), DETECT_BATCH):
            arrays = (i if isinstance(i, np.ndarray) else read_image(i) for i in images[start : start + DETECT_BATCH])
            inputs, boxes = zip(
                *(network_input(array, self.size, letterbox=letterbox) for array in arrays), strict=True
            )
            raws = self(torch.from_numpy(np.stack(inputs)).to(device))
            results += postprocess(
                raws, self.heads, boxes, score_threshold=score_threshold, nms_threshold=nms_threshold
            )
        return [Detections(r.boxes.cpu(), r.scores.cpu(), r.labels.cpu()) for r in results]


def _dead_after(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """For each layer, the earlier outputs that nothing reads after it."""
    dead: list[list[int]] = [[] for _ in graph.nodes]
    for index, last in enumerate(graph.last_use):
        if last > index:
            dead[last].append(index)
    return tuple(map(tuple, dead))

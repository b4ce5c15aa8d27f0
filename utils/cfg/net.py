"""The ``[net]`` section: input, augmentation and training schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from utils.cfg.options import BIG, ITERATIONS, Options, declare, integer, real, switch, word
from utils.cfg.values import Integer, Items, Real

POLICIES = ("constant", "step", "steps", "exp", "poly", "sigmoid", "random", "sgdr")


@dataclass(frozen=True, kw_only=True)
class Net(Options):
    """``[net]``: the input, the augmentation and the training schedule."""

    kind = "net"
    ignored = ("max_epochs", "seen")

    batch: int = integer(1, 1, 10**6, "images per optimiser step")
    subdivisions: int = integer(1, 1, 10**6, "forward and backward passes a batch is cut into")
    time_steps: int = integer(1, 1, 10**5, "unrolled steps of a recurrent network")
    track: bool = switch("train on video sequences")
    augment_speed: int = integer(2, 0, 1000, "largest frame step when tracking")
    sequential_subdivisions: int | None = integer(None, 0, 10**6, "tracking only; default subdivisions")
    width: int = integer(0, 0, 32768, "input pixels")
    height: int = integer(0, 0, 32768, "input pixels")
    channels: int = integer(0, 0, 4096)
    inputs: int | None = integer(None, 1, 2**31 - 1, "input values; default width * height * channels")

    learning_rate: float = real(0.001, 0, 1000)
    learning_rate_min: float = real(0.00001, 0, 1000, "sgdr: the rate a cycle ends with")
    momentum: float = real(0.9, 0, 1)
    decay: float = real(0.0001, 0, 1, "weight decay")
    max_batches: int = integer(0, 0, ITERATIONS, "optimiser steps of the whole training")
    policy: str = word("constant", POLICIES)
    burn_in: int = integer(0, 0, ITERATIONS, "warm-up steps")
    power: float = real(4.0, 0, 100, "exponent of the warm-up, of poly and of random")
    step: int = integer(1, 1, ITERATIONS, "policy step and sigmoid")
    scale: float = real(1.0, 0, 1000, "policy step: factor at each step")
    steps: tuple[int, ...] = declare(Items(Integer(-ITERATIONS, ITERATIONS)), (), "when the rate changes; -1: at once")
    scales: tuple[float, ...] = declare(Items(Real(0, 1000)), (), "factor at each of steps")
    seq_scales: tuple[float, ...] = declare(Items(Real(0, 1000)), (), "factor of the sequence length at each of steps")
    gamma: float = real(1.0, 0, 1000, "policy exp and sigmoid")
    sgdr_cycle: int | None = integer(None, 0, ITERATIONS, "first cycle, in steps; default max_batches")
    sgdr_mult: int = integer(2, 1, 1000, "each cycle is this much longer")
    adam: bool = switch("Adam in place of SGD")
    B1: float = real(0.9, 0, 1, "Adam")
    B2: float = real(0.999, 0, 1, "Adam")
    eps: float = real(0.000001, 0, 1, "Adam")

    angle: float = real(0.0, -360, 360, "degrees; classifiers only")
    aspect: float = real(1.0, 0.01, 100, "classifiers only")
    max_crop: int | None = integer(None, 0, 32768, "classifiers: longest side; default 2 * width")
    min_crop: int | None = integer(None, 0, 32768, "classifiers: shortest side; default width")
    saturation: float = real(1.0, 0, 100, "factor up to this or its reciprocal")
    exposure: float = real(1.0, 0, 100, "factor up to this or its reciprocal")
    hue: float = real(0.0, 0, 1, "turn of the colour circle, either way")
    flip: bool = switch("mirror half of the images", default=True)
    blur: int = integer(0, 0, 1000, "1: background only, above: kernel size")
    gaussian_noise: int = integer(0, 0, 1000, "standard deviation in grey levels")
    mixup: int = integer(0, 0, 4, "1 mixup, 2 cutmix, 3 mosaic, 4 both of the latter")
    cutmix: bool = switch("classifiers only")
    mosaic: bool = switch("four images in one")
    mosaic_bound: bool = switch("clip boxes to their own tile")
    letter_box: bool = switch("keep the aspect ratio in training and evaluation")
    label_smooth_eps: float = real(0.0, 0, 1, "classifiers; detectors have it in [yolo]")
    resize_step: int = integer(32, 1, 4096, "granularity of multi-scale training, pixels")
    ema_alpha: float = real(0.0, 0, 1, "average of the weights; 0: none")
    adversarial_lr: float = real(0.0, 0, BIG, "self-adversarial training; 0: none")
    attention: bool = switch("show what self-adversarial training changes")
    dynamic_minibatch: bool = switch("multi-scale also changes the mini-batch")

    loss_scale: float = real(1.0, 0, BIG, "for half precision")
    try_fix_nan: bool = switch("zero what is not finite in a gradient")
    badlabels_rejection_percentage: float = real(0.0, 0, 100, "late: ignore so many % of the predictions")
    num_sigmas_reject_badlabels: float = real(0.0, 0, 1000, "late: ignore deltas beyond")
    equidistant_point: float = real(0.0, 0, BIG, "ignore small deltas from this iteration on")
    weights_reject_freq: int = integer(0, 0, ITERATIONS)
    contrastive: bool = switch("train on pairs of views of each image")
    contrastive_jit_flip: bool = switch()
    contrastive_color: bool = switch()
    unsupervised: bool = switch()
    optimized_memory: int = integer(0, 0, 3, "memory only, no effect on results")
    workspace_size_limit_MB: int = integer(1024, 0, 10**6, "memory only, no effect on results")  # noqa: N815
    use_cuda_graph: bool = switch("speed only, no effect on results")
    max_chart_loss: float = real(20.0, 0, BIG, "chart only")
    show_receptive_field: bool = switch("print only")

    def __post_init__(self) -> None:
        if self.sgdr_cycle is None:
            self._derive(sgdr_cycle=self.max_batches)
        if self.min_crop is None:
            self._derive(min_crop=self.width)
        if self.max_crop is None:
            self._derive(max_crop=2 * self.width)
        if self.inputs is None:
            self._derive(inputs=self.width * self.height * self.channels)
        if self.sequential_subdivisions is None:
            self._derive(sequential_subdivisions=self.subdivisions)

    def closing(self, share: float) -> int:
        """The first mini-batch of the last ``share`` of the run."""
        return self.subdivisions * round(self.max_batches * (1 - share))

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.subdivisions > self.batch:
            yield "subdivisions", f"wanted at most batch, which is {self.batch}"
        if self.policy == "steps" and not self.steps:
            yield "policy", "wanted steps=... and scales=... beside it"
        if self.policy == "steps" and len(self.steps) != len(self.scales):
            yield "scales", f"wanted one for each of the {len(self.steps)} steps"

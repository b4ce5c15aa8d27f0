"""The loss of [Gaussian_yolo] heads against a slow loop and against hand arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from models.heads.gaussian import GaussianYoloHead
from models.losses.gaussian import GaussianLoss
from tests.reference.gaussian_delta import GaussianLayer
from utils.cfg.heads import GaussianYolo
from utils.structures import Targets

GRID, SIZE = (8, 12), (64, 96)
ANCHORS = ((6, 8), (10, 7), (9, 16), (20, 14), (16, 30), (36, 28))

BDD = {"iou_thresh": 0.213, "iou_normalizer": 0.5, "iou_loss": "giou", "uc_normalizer": 0.7}  # much as published
SMOOTH = {"objectness_smooth": True, "ignore_thresh": 0.1, "obj_normalizer": 0.4}
COUNTS = {"counters_per_class": (100, 0, 10), "max_delta": 4.0, "cls_normalizer": 0.5}
VARIANTS = {
    "defaults": {},
    "likelihood": {"iou_loss": "mse", "iou_thresh": 0.2, "ignore_thresh": 0.3},
    "as published": BDD,
    "iou": BDD | {"iou_loss": "iou", "scale_x_y": 1.1},
    "diou": BDD | {"iou_loss": "diou"},
    "ciou": BDD | {"iou_loss": "ciou", "iou_thresh_kind": "ciou"},
    "clipped": BDD | {"max_delta": 0.02},
    "likelihood, clipped": BDD | {"iou_loss": "mse", "max_delta": 0.5},
    "left top": BDD | {"yolo_point": "left_top"},
    "right bottom": BDD | {"yolo_point": "right_bottom"},
    "right bottom, likelihood": BDD | {"yolo_point": "right_bottom", "iou_loss": "mse"},
    "counted classes": BDD | COUNTS,
    "label smoothing": BDD | {"label_smooth_eps": 0.1},
    "smooth": BDD | SMOOTH,
    "smooth, counted": BDD | SMOOTH | COUNTS,
    "learns by overlap": BDD | {"truth_thresh": 0.2, "ignore_thresh": 0.1},
    "smooth, learns by overlap": BDD | SMOOTH | COUNTS | {"truth_thresh": 0.2, "label_smooth_eps": 0.1},
}


def head_with(**keys) -> GaussianYoloHead:
    section = GaussianYolo(classes=3, num=6, mask=(1, 3, 5), anchors=ANCHORS, **keys)
    return GaussianYoloHead(section, section.anchors, section.mask, stride=(8, 8))


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Operators without a deterministic form raise."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def random_raw(head: GaussianYoloHead, images: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, head.num_anchors * head.entries, *GRID, generator=generator).requires_grad_()


def crowded_targets(images: int, seed: int) -> Targets:
    """Many boxes on few cells, so that predictions have several boxes to learn."""
    generator = torch.Generator().manual_seed(seed)
    count = 12
    centre = torch.tensor([40.0, 30.0]) + 14 * torch.rand(count, 2, generator=generator)
    half = 2 + 14 * torch.rand(count, 2, generator=generator)
    image = torch.randint(0, images, (count,), generator=generator).sort().values
    labels = torch.randint(0, 3, (count,), generator=generator)
    return Targets(image, labels, torch.cat((centre - half, centre + half), 1), torch.zeros(count).bool())


def slow_layers(head: GaussianYoloHead, raw: Tensor, targets: Targets) -> list[GaussianLayer]:
    layers = []
    for image, output in enumerate(head.activate(raw.detach().double()).numpy()):
        own = targets.image_index == image
        boxes = targets.boxes[own].double() / torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
        boxes = torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1)
        truths = [(tuple(box), label) for box, label in zip(boxes.tolist(), targets.labels[own].tolist(), strict=True)]
        layers.append(GaussianLayer(head.section, output, truths, SIZE))
        layers[-1].run()
    return layers


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_gradient_is_minus_the_delta_of_the_slow_loop(variant: str, seed: int, deterministic) -> None:
    head = head_with(**VARIANTS[variant])
    raw, targets = random_raw(head, 3, seed), crowded_targets(3, seed)
    losses = GaussianLoss([head])([raw], targets)
    losses.total.backward()
    slow = slow_layers(head, raw, targets)
    expected = torch.from_numpy(np.stack([layer.delta for layer in slow])).float()
    torch.testing.assert_close(-head.grid(raw.grad), expected, rtol=1e-4, atol=1e-5)
    assert losses.total.item() == pytest.approx(expected.double().square().sum().item(), rel=1e-4)
    for part, entries in (
        (losses.box, slice(0, 8)),
        (losses.objectness, slice(8, 9)),
        (losses.classes, slice(9, None)),
    ):
        assert part.item() == pytest.approx(expected[:, :, entries].double().square().sum().item(), rel=1e-4)
    ious = [iou for layer in slow for iou in layer.ious]
    assert losses.positives.item() == len(ious) > 0
    assert losses.mean_iou.item() == pytest.approx(np.mean(ious), rel=1e-5)


def test_one_box_by_hand() -> None:
    """A box of the size of anchor 3 round (60, 36) in pixels: column 7, row 4, its centre in the middle of the cell."""
    head = head_with(iou_loss="mse", iou_normalizer=2.0, uc_normalizer=3.0)
    raw = torch.zeros(1, 3 * 12, *GRID)
    head.grid(raw)[0, 1, 0, 4, 7] = 1.0  # x
    raw.requires_grad_()
    box = torch.tensor([[60.0 - 10, 36 - 7, 60 + 10, 36 + 7]])
    targets = Targets(torch.tensor([0]), torch.tensor([1]), box, torch.tensor([False]))
    GaussianLoss([head])([raw], targets).total.backward()
    delta = -head.grid(raw.grad)[0, 1, :, 4, 7]
    weight = (2 - 20 / 96 * 14 / 64) / 2
    # every uncertainty is .5; x is .731 and should be .5, the others are right
    error = (0.5 - 1 / (1 + math.exp(-1))) / 0.5
    wanted = [2 * weight * error / 0.5, 3 * weight * (error**2 / 0.5 - 1 / 0.8)]
    wanted += [0, 3 * weight * -1 / 0.8] * 3
    assert delta.tolist() == pytest.approx([*wanted, 0.5, -0.5, 0.5, -0.5], rel=1e-5, abs=1e-5)


def test_a_truth_beyond_belief_teaches_nothing() -> None:
    """The likelihood of a far truth is lost beside 1e-9, and with it the gradient of mean and uncertainty."""
    head = head_with(iou_loss="mse")
    raw = torch.zeros(1, 3 * 12, *GRID)
    head.grid(raw)[0, 1, 4, 4, 7] = 10.0  # a width e^10 times too large, 20 uncertainties away
    raw.requires_grad_()
    box = torch.tensor([[60.0 - 10, 36 - 7, 60 + 10, 36 + 7]])
    targets = Targets(torch.tensor([0]), torch.tensor([1]), box, torch.tensor([False]))
    GaussianLoss([head])([raw], targets).total.backward()
    delta = -head.grid(raw.grad)[0, 1, :, 4, 7]
    assert delta[4:6].abs().max() < 1e-12 < delta[7].abs()


def test_images_without_boxes_are_background() -> None:
    head = head_with(**BDD)
    raw = random_raw(head, 2, 0)
    nothing = Targets(torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0, 4), torch.zeros(0).bool())
    losses = GaussianLoss([head])([raw], nothing)
    losses.total.backward()
    gradient = head.grid(raw.grad)
    torch.testing.assert_close(gradient[:, :, 8], head.grid(raw.detach())[:, :, 8].sigmoid())
    gradient[:, :, 8] = 0
    assert not gradient.any()
    assert losses.positives == losses.mean_iou == losses.box == losses.classes == 0


def test_a_crowd_is_neither_object_nor_background() -> None:
    head = head_with(**BDD)
    raw = random_raw(head, 2, 0)
    half = torch.tensor([[0.0, 0.0, 48.0, 64.0]])  # the left half of image 1
    crowd = Targets(torch.tensor([1]), torch.tensor([0]), half, torch.tensor([True]))
    GaussianLoss([head])([raw], crowd).total.backward()
    boxes = head.decode(raw.detach()).boxes.view(2, 3, *GRID, 4)
    inside_w = boxes[..., 2].clamp(max=48) - boxes[..., 0].clamp(min=0)
    inside_h = boxes[..., 3].clamp(max=64) - boxes[..., 1].clamp(min=0)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    covered = inside_w.clamp(min=0) * inside_h.clamp(min=0) > head.section.ignore_thresh * area
    covered[0] = False
    assert covered.any()
    assert torch.equal(head.grid(raw.grad)[:, :, 8] == 0, covered)


def test_delta_normalizer_scales_the_gradient_alone() -> None:
    plain, scaled = head_with(**BDD), head_with(**BDD, delta_normalizer=0.25)
    raws, targets = [random_raw(plain, 2, 0) for _ in range(2)], crowded_targets(2, 0)
    losses = [GaussianLoss([head])([raw], targets) for head, raw in zip((plain, scaled), raws, strict=True)]
    for one in losses:
        one.total.backward()
    assert losses[0].total.item() == losses[1].total.item()
    torch.testing.assert_close(raws[1].grad, 0.25 * raws[0].grad)

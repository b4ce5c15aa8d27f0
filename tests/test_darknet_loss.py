"""The Darknet loss against a slow loop; test_darknet_training.py has what Darknet itself computed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from models.heads.region import RegionHead
from models.heads.yolo import YoloHead
from models.losses.darknet import DarknetLoss
from tests.reference.yolo_delta import YoloLayer
from utils.cfg.heads import Region, Yolo
from utils.errors import UsageError
from utils.structures import Targets

GRID = (8, 12)
SIZE = (64, 96)
ANCHORS = ((6, 8), (10, 7), (9, 16), (20, 14), (16, 30), (36, 28))

V4 = {"iou_thresh": 0.213, "iou_normalizer": 0.07, "iou_loss": "ciou", "max_delta": 5.0, "scale_x_y": 1.05}
SMOOTH = {"objectness_smooth": True, "ignore_thresh": 0.1, "obj_normalizer": 0.4}
COUNTS = {"counters_per_class": (100, 0, 10), "max_delta": 4.0, "cls_normalizer": 0.5}
VARIANTS = {
    "defaults": {},
    "mse": {"iou_loss": "mse", "ignore_thresh": 0.3},
    "iou": V4 | {"iou_loss": "iou"},
    "giou": V4 | {"iou_loss": "giou", "iou_thresh_kind": "giou"},
    "diou": V4 | {"iou_loss": "diou", "iou_thresh_kind": "diou"},
    "ciou": V4 | {"iou_thresh_kind": "ciou"},
    "clipped": V4 | {"max_delta": 0.02},
    "focal": V4 | {"focal_loss": True},
    "focal with smoothed labels": V4 | {"focal_loss": True, "label_smooth_eps": 0.2},
    "counted classes": V4 | COUNTS,
    "counted classes, mse": V4 | COUNTS | {"iou_loss": "mse"},
    "label smoothing": V4 | {"label_smooth_eps": 0.1},
    "label smoothing, counted": V4 | COUNTS | {"label_smooth_eps": 0.1},
    "learns by overlap": V4 | {"truth_thresh": 0.2, "ignore_thresh": 0.1},
    "learns by overlap, counted": V4 | COUNTS | {"truth_thresh": 0.2, "ignore_thresh": 0.1},
    "smooth": V4 | SMOOTH,
    "smooth, learns by overlap": V4 | SMOOTH | COUNTS | {"truth_thresh": 0.2, "label_smooth_eps": 0.1},
    "new coordinates": V4 | {"new_coords": True, "scale_x_y": 2.0},
    "new coordinates, mse": {"new_coords": True, "scale_x_y": 2.0, "iou_thresh": 0.2},
}


def head_with(**keys) -> YoloHead:
    section = Yolo(classes=3, num=6, mask=(1, 3, 5), anchors=ANCHORS, **keys)
    return YoloHead(section, section.anchors, section.mask, stride=(8, 8))


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Operators without a deterministic form raise."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def no_targets() -> Targets:
    return Targets(
        torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0, 4), torch.zeros(0).bool()
    )


def random_raw(head: YoloHead, images: int, seed: int) -> Tensor:
    raw = torch.randn(images, head.num_anchors * head.entries, *GRID, generator=torch.Generator().manual_seed(seed))
    return (raw.sigmoid() if head.section.new_coords else raw).requires_grad_()


def crowded_targets(images: int, seed: int) -> Targets:
    """Many boxes on few cells, so that predictions have several boxes to learn."""
    generator = torch.Generator().manual_seed(seed)
    count = 12
    centre = torch.tensor([40.0, 30.0]) + 14 * torch.rand(count, 2, generator=generator)
    half = 2 + 14 * torch.rand(count, 2, generator=generator)
    image = torch.randint(0, images, (count,), generator=generator).sort().values
    labels = torch.randint(0, 3, (count,), generator=generator)
    return Targets(image, labels, torch.cat((centre - half, centre + half), 1), torch.zeros(count).bool())


def slow_layers(head: YoloHead, raw: Tensor, targets: Targets) -> list[YoloLayer]:
    outputs = head.activate(raw.detach().double()).numpy()
    layers = []
    for image, output in enumerate(outputs):
        own = targets.image_index == image
        boxes = targets.boxes[own].double() / torch.tensor([96, 64, 96, 64])
        boxes = torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1)
        truths = [(tuple(box), label) for box, label in zip(boxes.tolist(), targets.labels[own].tolist(), strict=True)]
        layers.append(YoloLayer(head.section, output, truths, SIZE))
        layers[-1].run()
    return layers


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_gradient_is_minus_the_delta_of_the_slow_loop(variant, seed):
    head = head_with(**VARIANTS[variant])
    raw, targets = random_raw(head, 3, seed), crowded_targets(3, seed)
    losses = DarknetLoss([head])([raw], targets)
    losses.total.backward()
    layers = slow_layers(head, raw, targets)
    expected = torch.from_numpy(np.stack([layer.delta for layer in layers])).float()
    torch.testing.assert_close(-head.grid(raw.grad), expected, rtol=2e-5, atol=2e-6)
    ious = [iou for layer in layers for iou in layer.ious]
    assert losses.positives.item() == len(ious) > 0
    assert losses.mean_iou.item() == pytest.approx(np.mean(ious), rel=1e-5)


def darknet_cost(section: Yolo, layers: list[YoloLayer]) -> float:
    """What the layer prints for the mini-batch."""
    delta = np.stack([layer.delta for layer in layers])
    if section.iou_loss == "mse" or not section.show_details:
        return np.square(delta).sum()
    agreement = [one for layer in layers for one in (layer.gious if section.iou_loss == "giou" else layer.ious)]
    return section.iou_normalizer * (1 - np.mean(agreement)) + section.obj_normalizer * np.square(delta[:, :, 4:]).sum()


@pytest.mark.parametrize("variant", ["mse", "giou", "ciou", "smooth", "without details"])
def test_total_is_the_cost_darknet_prints(variant):
    keys = VARIANTS[variant] if variant in VARIANTS else V4 | {"show_details": False}
    head = head_with(**keys)
    raw, targets = random_raw(head, 3, 0), crowded_targets(3, 0)
    expected = darknet_cost(head.section, slow_layers(head, raw, targets))
    assert DarknetLoss([head])([raw], targets).total.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("truth_thresh", [0.9, 1.0])
@pytest.mark.parametrize(("probability", "excused"), [(0.24, False), (0.26, True)])
def test_only_a_prediction_with_some_class_is_excused_for_lying_on_a_box(probability, excused, truth_thresh):
    head = head_with(**V4, ignore_thresh=0.55, truth_thresh=truth_thresh)
    raw = torch.zeros(1, head.num_anchors * head.entries, *GRID)
    grid = head.grid(raw)
    grid[:, :, 5:] = -9
    grid[0, 1, 7, 5, 6] = torch.tensor(probability).logit()
    raw.requires_grad_()
    # this anchor predicts 20 x 14 round (52, 44), in column 6; the box, 5 pixels further, is learnt in column 7 and
    # has with it an IoU of 15 / 25 = .6
    box = torch.tensor([[57.0 - 10, 44 - 7, 57 + 10, 44 + 7]])
    targets = Targets(torch.tensor([0]), torch.tensor([0]), box, torch.tensor([False]))
    DarknetLoss([head])([raw], targets).total.backward()
    assert (head.grid(raw.grad)[0, 1, 4, 5, 6] == 0) == excused


def test_saturated_objectness_is_written_despite_smoothing():
    head = head_with(**(V4 | SMOOTH | COUNTS | {"ignore_thresh": 0.9}))
    raw, targets = random_raw(head, 1, 0), crowded_targets(1, 0)
    with torch.no_grad():
        head.grid(raw)[:, :, 4] = -1000  # probability 0: its delta is 0, the one case in which a box writes its own
    DarknetLoss([head])([raw], targets).total.backward()
    expected = torch.from_numpy(slow_layers(head, raw, targets)[0].delta[None]).float()
    torch.testing.assert_close(-head.grid(raw.grad), expected, rtol=2e-5, atol=2e-6)
    assert (expected[:, :, 4] >= head.section.obj_normalizer).any()


def test_box_deltas_of_several_classes_stay_whole_where_the_objectness_is_content():
    head = head_with(**V4)
    raw, targets = random_raw(head, 1, 0), crowded_targets(1, 0)
    with torch.no_grad():
        head.grid(raw)[:, :, 4] = 1000  # probability 1: nothing to learn where a box is
    DarknetLoss([head])([raw], targets).total.backward()
    expected = torch.from_numpy(slow_layers(head, raw, targets)[0].delta[None]).float()
    torch.testing.assert_close(-head.grid(raw.grad), expected, rtol=2e-5, atol=2e-6)


def test_two_heads_add_their_gradients_and_average_their_costs():
    first, second = head_with(), head_with(**V4)
    raws, targets = [random_raw(first, 2, 0), random_raw(second, 2, 1)], crowded_targets(2, 0)
    together = DarknetLoss([first, second])(raws, targets)
    together.total.backward()
    alone = [DarknetLoss([head])([raw.detach()], targets) for head, raw in zip((first, second), raws, strict=True)]
    assert together.total.item() == pytest.approx(sum(one.total.item() for one in alone) / 2, rel=1e-6)
    parts = together.box + together.objectness + together.classes
    assert parts.item() == pytest.approx(together.total.item(), rel=1e-6)
    fresh = raws[0].detach().requires_grad_()
    DarknetLoss([first])([fresh], targets).total.backward()
    assert torch.equal(fresh.grad, raws[0].grad)


def test_delta_normalizer_scales_the_gradient_alone():
    plain, scaled = head_with(**V4), head_with(**V4, delta_normalizer=0.25)
    raws, targets = [random_raw(plain, 2, 0) for _ in range(2)], crowded_targets(2, 0)
    losses = [DarknetLoss([head])([raw], targets) for head, raw in zip((plain, scaled), raws, strict=True)]
    for one in losses:
        one.total.backward()
    assert losses[0].total.item() == losses[1].total.item()
    torch.testing.assert_close(raws[1].grad, 0.25 * raws[0].grad)


def test_upstream_gradient_scales_the_delta():
    head = head_with(**V4)
    raws, targets = [random_raw(head, 2, 0) for _ in range(2)], crowded_targets(2, 0)
    DarknetLoss([head])([raws[0]], targets).total.backward()
    (DarknetLoss([head])([raws[1]], targets).total / 8).backward()
    torch.testing.assert_close(raws[1].grad, raws[0].grad / 8)


def test_the_same_gradient_every_time(deterministic):
    head = head_with(**V4)
    targets = crowded_targets(3, 0)
    gradients = []
    for _ in range(3):
        raw = random_raw(head, 3, 0)
        DarknetLoss([head])([raw], targets).total.backward()
        gradients.append(raw.grad)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_images_without_boxes_are_background():
    head = head_with(**V4)
    raw = random_raw(head, 2, 0)
    losses = DarknetLoss([head])([raw], no_targets())
    losses.total.backward()
    gradient = head.grid(raw.grad)
    torch.testing.assert_close(gradient[:, :, 4], head.grid(raw.detach())[:, :, 4].sigmoid())
    gradient[:, :, 4] = 0
    assert not gradient.any()
    assert losses.positives == losses.mean_iou == losses.box == losses.classes == 0


def test_a_crowd_is_neither_object_nor_background():
    head = head_with(**V4)
    raw = random_raw(head, 2, 0)
    crowd = Targets(
        torch.tensor([1]), torch.tensor([0]), torch.tensor([[0.0, 0.0, 48.0, 64.0]]), torch.tensor([True])
    )  # the left half of image 1
    losses = DarknetLoss([head])([raw], crowd)
    losses.total.backward()
    assert losses.positives == 0
    gradient, boxes = head.grid(raw.grad), head.decode(raw.detach()).boxes.view(2, 3, *GRID, 4)
    width = boxes[..., 2] - boxes[..., 0]
    height = boxes[..., 3] - boxes[..., 1]
    inside_w = boxes[..., 2].clamp(max=48) - boxes[..., 0].clamp(min=0)
    inside_h = boxes[..., 3].clamp(max=64) - boxes[..., 1].clamp(min=0)
    covered = inside_w.clamp(min=0) * inside_h.clamp(min=0) > head.section.ignore_thresh * width * height
    covered[0] = False
    assert covered.any()
    assert torch.equal(gradient[:, :, 4] == 0, covered)


def test_unusable_boxes_are_left_out():
    head = head_with(**V4)
    raw = random_raw(head, 1, 0)
    boxes = torch.tensor([[10.0, 10.0, 10.0, 30.0], [10.0, 10.0, 30.0, 30.0], [10.0, 10.0, 30.0, 30.0]])
    targets = Targets(torch.zeros(3, dtype=torch.long), torch.tensor([0, 3, -1]), boxes, torch.zeros(3).bool())
    assert DarknetLoss([head])([raw], targets).positives == 0


def test_a_box_centred_on_the_far_edge_learns_in_the_last_cell():
    head = head_with(**V4)
    raw = random_raw(head, 1, 0)
    box = torch.tensor([[86.0, 57.0, 106.0, 71.0]])  # anchor 3 round (96, 64), the corner of the input
    DarknetLoss([head])(
        [raw], Targets(torch.tensor([0]), torch.tensor([0]), box, torch.tensor([False]))
    ).total.backward()
    learning = head.grid(raw.grad)[0, :, 5].nonzero()
    assert learning[:, 1:].unique(dim=0).tolist() == [[7, 11]]


def test_a_raw_map_too_few_is_refused():
    head = head_with()
    with pytest.raises(ValueError, match=r"got 1 raw maps .wanted 2, one for each head"):
        DarknetLoss([head, head])([random_raw(head, 1, 0)], no_targets())


def test_a_network_without_heads_is_refused():
    with pytest.raises(UsageError, match=r"the cfg has no head .wanted \[yolo\] heads only"):
        DarknetLoss([])


def test_other_heads_are_refused():
    section = Region(classes=3, num=1, anchors=((1.0, 1.0),))
    with pytest.raises(UsageError, match=r"the cfg has \[region\] .wanted \[yolo\] heads only"):
        DarknetLoss([RegionHead(section, section.anchors, (0,), stride=(8, 8))])

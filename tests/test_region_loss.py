"""The loss of [region] heads against a slow loop and against hand arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.heads.region import RegionHead
from models.losses.region import RegionLoss
from tests.reference.region_delta import RegionLayer
from utils.cfg.heads import Region
from utils.structures import Targets

GRID, SIZE, STRIDE = (5, 7), (80, 112), 16
ANCHORS = ((0.6, 0.7), (1.9, 2.1), (3.3, 1.4))
PARENTS = [-1, -1, 0, 0, 1, 2, 2]  # two families at the top
TREE = "".join(f"class{index} {parent}\n" for index, parent in enumerate(PARENTS))

PLAIN = {"softmax": True, "bias_match": True, "thresh": 0.4, "object_scale": 5.0}
VARIANTS = {
    "defaults": {},
    "as published": PLAIN,
    "logistic classes": PLAIN | {"softmax": False},
    "scales": PLAIN | {"coord_scale": 2.0, "noobject_scale": 0.5, "class_scale": 3.0},
    "own shape": PLAIN | {"bias_match": False},
    "rescored": PLAIN | {"rescore": True},
    "focal": PLAIN | {"focal_loss": True},
    "class where it lies on a box": PLAIN | {"classfix": 1, "thresh": 0.1},
    "class by belief": PLAIN | {"classfix": 2, "thresh": 0.1},
    "objectness is the IoU": PLAIN | {"classfix": -1},
    "background": PLAIN | {"background": True},
    "more coordinates": PLAIN | {"coords": 6},
}


def head_with(source: str = "<string>", **keys) -> RegionHead:
    section = Region(**{"classes": 3, "num": 3, "anchors": ANCHORS, **keys})
    anchors = [(STRIDE * width, STRIDE * height) for width, height in section.anchors]
    return RegionHead(section, anchors, (0, 1, 2), stride=(STRIDE, STRIDE), source=source)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Operators without a deterministic form raise."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def random_raw(head: RegionHead, images: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, head.num_anchors * head.entries, *GRID, generator=generator).requires_grad_()


def crowded_targets(images: int, seed: int, classes: int = 3) -> Targets:
    """Many boxes on few cells, so that predictions have several boxes to learn."""
    generator = torch.Generator().manual_seed(seed)
    count = 12
    centre = torch.tensor([50.0, 40.0]) + 20 * torch.rand(count, 2, generator=generator)
    half = 4 + 20 * torch.rand(count, 2, generator=generator)
    image = torch.randint(0, images, (count,), generator=generator).sort().values
    labels = torch.randint(0, classes, (count,), generator=generator)
    return Targets(image, labels, torch.cat((centre - half, centre + half), 1), torch.zeros(count).bool())


def slow_layers(head: RegionHead, raw: Tensor, targets: Targets, **options) -> list[RegionLayer]:
    layers = []
    for image, grid in enumerate(head.grid(raw.detach().double()).numpy()):
        own = targets.image_index == image
        boxes = targets.boxes[own].double() / torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
        boxes = torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1)
        truths = [(tuple(box), label) for box, label in zip(boxes.tolist(), targets.labels[own].tolist(), strict=True)]
        layers.append(RegionLayer(head.section, grid, truths, **options))
        layers[-1].run()
    return layers


def check(head: RegionHead, raw: Tensor, targets: Targets, seen: int, slow: list[RegionLayer]) -> None:
    losses = RegionLoss([head], lambda: seen)([raw], targets)
    losses.total.backward()
    expected = torch.from_numpy(np.stack([layer.delta for layer in slow])).float()
    torch.testing.assert_close(-head.grid(raw.grad), expected, rtol=2e-5, atol=2e-6)
    assert losses.total.item() == pytest.approx(expected.double().square().sum().item(), rel=1e-5)
    parts = (losses.box, losses.objectness, losses.classes)
    at = head.box_entries
    for part, entries in zip(parts, (slice(0, at), slice(at, at + 1), slice(at + 1, None)), strict=True):
        assert part.item() == pytest.approx(expected[:, :, entries].double().square().sum().item(), rel=1e-5)
    ious = [iou for layer in slow for iou in layer.ious]
    assert losses.positives.item() == len(ious) > 0
    assert losses.mean_iou.item() == pytest.approx(np.mean(ious), rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_gradient_is_minus_the_delta_of_the_slow_loop(variant: str, prior: bool, seed: int, deterministic) -> None:
    head = head_with(**VARIANTS[variant])
    raw, targets = random_raw(head, 3, seed), crowded_targets(3, seed)
    seen = 12799 if prior else 12800
    check(head, raw, targets, seen, slow_layers(head, raw, targets, prior=prior))


@pytest.mark.parametrize("classfix", [0, 1, 2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_classes_in_a_tree(classfix: int, seed: int, tmp_path: Path, deterministic) -> None:
    (tmp_path / "my.tree").write_text(TREE)
    keys = PLAIN | {"classes": 7, "tree": "my.tree", "classfix": classfix, "thresh": 0.2}
    head = head_with(str(tmp_path / "my.cfg"), **keys)
    raw, targets = random_raw(head, 3, seed), crowded_targets(3, seed, classes=7)
    check(head, raw, targets, 12800, slow_layers(head, raw, targets, tree=PARENTS))


def test_labels_go_through_the_map(tmp_path: Path) -> None:
    (tmp_path / "my.tree").write_text(TREE)
    (tmp_path / "my.map").write_text("6\n4\n3\n")
    head = head_with(str(tmp_path / "my.cfg"), **PLAIN, classes=7, tree="my.tree", map="my.map")
    raw, targets = random_raw(head, 3, 0), crowded_targets(3, 0)
    mapped = targets._replace(labels=torch.tensor([6, 4, 3])[targets.labels])
    check(head, raw, targets, 12800, slow_layers(head, raw, mapped, tree=PARENTS))
    unknown = targets._replace(labels=torch.full_like(targets.labels, 3))  # the map ends before it
    assert RegionLoss([head], lambda: 0)([raw], unknown).positives == 0


def test_one_box_by_hand() -> None:
    """A box of 2 x 2 cells round (2.25, 1.5) in cells: cell column 2, row 1, the anchor of 1.9 x 2.1."""
    head = head_with(**PLAIN, coord_scale=2.0)
    raw = torch.zeros(1, 3 * 8, *GRID, requires_grad=True)
    box = torch.tensor([[2.25 - 1, 1.5 - 1, 2.25 + 1, 1.5 + 1]]) * STRIDE
    targets = Targets(torch.tensor([0]), torch.tensor([2]), box, torch.tensor([False]))
    losses = RegionLoss([head], lambda: 12800)([raw], targets)
    losses.total.backward()
    delta = -head.grid(raw.grad)
    found = delta[0, 1, :, 1, 2]
    # sigmoids are .5, their slope .25: x lacks .25 - .5, y nothing; w and h ln(2 / 1.9), ln(2 / 2.1)
    box_wanted = [2 * -0.25 * 0.25, 0, 2 * math.log(2 / 1.9), 2 * math.log(2 / 2.1)]
    assert found.tolist() == pytest.approx([*box_wanted, 5 * 0.5 * 0.25, -1 / 3, -1 / 3, 2 / 3], abs=1e-6)
    # anchor 0 of 0.6 x 0.7 is far from the box; it is background
    assert delta[0, 0, 4, 1, 2].item() == pytest.approx(-0.5 * 0.25)
    # 1.9 x 2.1 one cell to the left: 1.2 * 2 / (3.99 + 4 - 2.4) = .43 is on the box; one up: 1.785 / 6.205 = .29
    assert delta[0, 1, 4, 1, 1].item() == 0
    assert delta[0, 1, 4, 0, 2].item() == pytest.approx(-0.5 * 0.25)
    predicted = (2.5 - 0.95, 1.5 - 1.05, 2.5 + 0.95, 1.5 + 1.05)
    inner = (3.25 - predicted[0]) * 2
    assert losses.mean_iou.item() == pytest.approx(inner / (1.9 * 2.1 + 4 - inner), rel=1e-6)


def test_boxes_are_drawn_to_their_anchors_at_first() -> None:
    head = head_with(**PLAIN)
    raw = random_raw(head, 2, 0)
    nothing = Targets(torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0, 4), torch.zeros(0).bool())
    seen = [0]
    loss = RegionLoss([head], lambda: seen[0])
    loss([raw], nothing).total.backward()
    delta, grid = -head.grid(raw.grad), head.grid(raw.detach())
    xy = grid[:, :, :2].sigmoid()
    torch.testing.assert_close(delta[:, :, :2], 0.01 * (0.5 - xy) * xy * (1 - xy))
    torch.testing.assert_close(delta[:, :, 2:4], -0.01 * grid[:, :, 2:4])
    raw.grad, seen[0] = None, 12800
    loss([raw], nothing).total.backward()
    assert not head.grid(raw.grad)[:, :, :4].any()


def test_a_crowd_is_neither_object_nor_background() -> None:
    head = head_with(**PLAIN)
    raw = random_raw(head, 2, 0)
    crowd = Targets(
        torch.tensor([1]), torch.tensor([0]), torch.tensor([[0.0, 0.0, 56.0, 80.0]]), torch.tensor([True])
    )  # the left half of image 1
    RegionLoss([head], lambda: 12800)([raw], crowd).total.backward()
    idle = head.grid(raw.grad)[:, :, 4] == 0
    boxes = head.decode(raw.detach()).boxes.view(2, 3, *GRID, 4)
    inside_w = boxes[..., 2].clamp(max=56) - boxes[..., 0].clamp(min=0)
    inside_h = boxes[..., 3].clamp(max=80) - boxes[..., 1].clamp(min=0)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    covered = inside_w.clamp(min=0) * inside_h.clamp(min=0) > head.section.thresh * area
    covered[0] = False
    assert covered.any()
    assert torch.equal(idle, covered)


def test_heads_average_their_costs_and_add_their_gradients() -> None:
    heads = [head_with(**PLAIN), head_with(**VARIANTS["rescored"])]
    raws, targets = [random_raw(heads[0], 2, seed) for seed in (0, 1)], crowded_targets(2, 0)
    together = RegionLoss(heads, lambda: 12800)(raws, targets)
    (together.total / 8).backward()
    alone = []
    for head, raw in zip(heads, raws, strict=True):
        fresh = raw.detach().requires_grad_()
        alone.append(RegionLoss([head], lambda: 12800)([fresh], targets))
        alone[-1].total.backward()
        torch.testing.assert_close(raw.grad, fresh.grad / 8)
    assert together.total.item() == pytest.approx(sum(one.total.item() for one in alone) / 2, rel=1e-6)
    assert together.positives == sum(one.positives for one in alone)

"""The loss of Scaled-YOLOv4: hand arithmetic, a slow loop, finite differences, and what must not make it fail."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.darknet import Darknet
from models.heads.yolo import YoloHead
from models.losses import scaled
from models.losses.criterion import make_criterion
from models.losses.darknet import DarknetLoss
from models.losses.scaled import ScaledLoss
from models.losses.simota import SimotaLoss
from tests.reference import scaled_loss as slow
from utils.cfg import parse_cfg
from utils.cfg.heads import Yolo
from utils.errors import UsageError
from utils.structures import Targets

ANCHORS = ((6, 8), (10, 7), (9, 16), (20, 14), (16, 30), (36, 28))
GRIDS = {8: (8, 12), 16: (4, 6)}  # stride: cells of an input of 64 x 96
VARIANTS = {
    "exp": {"scale_x_y": 1.05},
    "wide": {"scale_x_y": 2.0, "label_smooth_eps": 0.1},
    "counted": {"scale_x_y": 2.0, "counters_per_class": (100, 0, 10), "max_delta": 4.0},
    "new coordinates": {"scale_x_y": 2.0, "new_coords": True, "label_smooth_eps": 0.1},
}


def head_with(stride: int = 8, mask: tuple[int, ...] = (0, 1, 2), **keys: object) -> YoloHead:
    section = Yolo(classes=3, num=6, mask=mask, anchors=ANCHORS, **keys)
    return YoloHead(section, section.anchors, section.mask, stride=(stride, stride))


def two_heads(**keys: object) -> list[YoloHead]:
    """The coarse one first, as in yolov4-tiny."""
    return [head_with(16, (3, 4, 5), **keys), head_with(8, (0, 1, 2), **keys)]


def targets_of(*rows: tuple[int, int, tuple[float, float, float, float]], crowd: bool = False) -> Targets:
    image, labels, boxes = ([row[part] for row in rows] for part in range(3))
    flags = torch.full((len(rows),), crowd)
    return Targets(torch.tensor(image).long(), torch.tensor(labels).long(), torch.tensor(boxes).reshape(-1, 4), flags)


def random_raws(heads: list[YoloHead], images: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    raws = []
    for head in heads:
        raw = torch.randn(images, head.num_anchors * head.entries, *GRIDS[round(head.stride[0])], generator=generator)
        raws.append((raw.sigmoid() if head.section.new_coords else raw).to(dtype).requires_grad_())
    return raws


def random_targets(images: int, seed: int = 0, count: int = 10) -> Targets:
    rng = np.random.default_rng(seed)
    centre = rng.uniform((4, 4), (92, 60), (count, 2))
    half = rng.uniform(2, 16, (count, 2))
    boxes = np.concatenate((centre - half, centre + half), 1).astype(np.float32)
    image = np.sort(rng.integers(0, images, count)).tolist()
    return targets_of(*zip(image, rng.integers(0, 3, count).tolist(), boxes.tolist(), strict=True))


def test_two_boxes_by_hand() -> None:
    # one head of one anchor 8 x 8, stride 8, all raw values 0: each cell predicts an 8 x 8 box at its centre, with
    # objectness and classes of one half. Two boxes of 8 x 8 at the centre of their cell: CIoU 1. No neighbour can
    # learn a centre.
    section = Yolo(classes=2, num=1, anchors=((8, 8),), scale_x_y=2.0)
    head = YoloHead(section, section.anchors, section.mask, stride=(8, 8))
    raw = torch.zeros(1, 7, 4, 4, requires_grad=True)
    losses = ScaledLoss([head])([raw], targets_of((0, 0, (0.0, 0.0, 8.0, 8.0)), (0, 1, (16.0, 8.0, 24.0, 16.0))))
    half = math.log(2)  # -log(1/2)
    assert losses.positives.item() == 2 and losses.mean_iou.item() == pytest.approx(1)
    assert losses.box.item() == pytest.approx(0, abs=1e-4)
    assert losses.objectness.item() == pytest.approx(64 * 3 * 4.0 * half)  # one head of three; balance of the finest
    assert losses.classes.item() == pytest.approx(64 * 3 * 0.5 / 80 * 2 * half)  # both classes of each positive
    # the second box now 8 x 4 round the same centre: IoU .5, no distance, atan(8 / 4) - atan(1) = .32175
    losses = ScaledLoss([head])([raw], targets_of((0, 0, (0.0, 0.0, 8.0, 8.0)), (0, 1, (16.0, 10.0, 24.0, 14.0))))
    aspect = 4 / math.pi**2 * 0.3217506**2  # .04196
    ciou = 0.5 - aspect**2 / (0.5 + aspect)  # .49675
    assert losses.box.item() == pytest.approx(
        64 * 3 * 0.05 * (1 - ciou) / 2, rel=1e-5
    )  # the mean with the first box's 0
    assert losses.mean_iou.item() == pytest.approx(0.75)
    losses.total.backward()
    # (sigmoid - aim) / 16 cells: aims 1 at the first, .5 = the IoU at the second, 0 elsewhere
    gradient = raw.grad[0, 4] * 16 / 12 / 64
    assert gradient[0, 0].item() == pytest.approx(-0.5)
    assert gradient[1, 2].item() == pytest.approx(0, abs=1e-6)
    assert gradient[3, 3].item() == pytest.approx(0.5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_like_the_slow_loop(variant: str, seed: int) -> None:
    heads, targets = two_heads(**VARIANTS[variant]), random_targets(3, seed)
    raws = random_raws(heads, 3, seed)
    losses = ScaledLoss(heads)(raws, targets)
    truths = list(zip(targets.image_index.tolist(), targets.labels.tolist(), targets.boxes.tolist(), strict=True))
    parts = [
        slow.head_loss(head.section, head.grid(raw.detach().double()).numpy(), round(head.stride[0]), truths)
        for head, raw in zip(heads, raws, strict=True)
    ]
    coarse, fine = parts
    share, images = 64 * 3 / 2, 3
    assert losses.box.item() == pytest.approx(images * share * 0.05 * (coarse[0] + fine[0]), rel=1e-4)
    assert losses.objectness.item() == pytest.approx(images * share * (1.0 * coarse[1] + 4.0 * fine[1]), rel=1e-4)
    assert losses.classes.item() == pytest.approx(images * share * 0.5 / 80 * (coarse[2] + fine[2]), rel=1e-4)
    assert losses.total.item() == pytest.approx(sum(x.item() for x in losses_parts(losses)), rel=1e-6)


def losses_parts(losses) -> tuple[Tensor, Tensor, Tensor]:
    return losses.box, losses.objectness, losses.classes


@pytest.mark.parametrize("variant", ["exp", "new coordinates", "counted"])
def test_gradient_is_that_of_finite_differences(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # two things are constants to the gradient, and must not move with the differences either: what objectness aims at,
    # and the trade-off weight by which CIoU differs from DIoU
    aims: list[Tensor] = []
    best_fit = scaled.best_fit
    monkeypatch.setattr(scaled, "best_fit", lambda *args: aims[0] if aims else aims.append(best_fit(*args)) or aims[0])
    monkeypatch.setattr(scaled.box_ops, "ciou", scaled.box_ops.diou)
    heads, targets = [head_with(**VARIANTS[variant])], random_targets(1, seed=3, count=3)
    raw = random_raws(heads, 1, seed=2, dtype=torch.float64)[0]
    criterion = ScaledLoss(heads)
    criterion([raw], targets).total.backward()
    strongest = raw.grad.abs().flatten().argsort(descending=True)[:40].tolist()
    for place in [*strongest, *np.random.default_rng(0).integers(0, raw.numel(), 20).tolist()]:
        step = torch.zeros(raw.numel(), dtype=torch.float64)
        step[place] = 1e-6
        step = step.view_as(raw)
        with torch.no_grad():
            difference = criterion([raw + step], targets).total - criterion([raw - step], targets).total
        assert difference.item() / 2e-6 == pytest.approx(raw.grad.flatten()[place].item(), rel=1e-4, abs=1e-8)


def perfect_raw(head: YoloHead, box: tuple[float, float, float, float], places: list[tuple[int, int, int]]) -> Tensor:
    """A raw map whose ``places`` (anchor, row, column) decode to ``box``."""
    raw = torch.zeros(1, head.num_anchors * head.entries, *GRIDS[round(head.stride[0])])
    raw[:] = 0.5 if head.section.new_coords else 0.0
    x1, y1, x2, y2 = box
    for anchor, row, column in places:
        centre = torch.tensor([(x1 + x2) / 2 / 8 - column, (y1 + y2) / 2 / 8 - row])
        share = (centre + (head.section.scale_x_y - 1) / 2) / head.section.scale_x_y
        ratio = torch.tensor([x2 - x1, y2 - y1]) / head.anchors[anchor]
        new = head.section.new_coords
        entries = torch.cat((share if new else share.logit(), ratio.sqrt() / 2 if new else ratio.log()))
        head.grid(raw)[0, anchor, :4, row, column] = entries
    return raw


@pytest.mark.parametrize("variant", ["wide", "new coordinates"])
def test_a_perfect_prediction_has_no_box_loss_and_aims_at_one(variant: str) -> None:
    head, box = head_with(**VARIANTS[variant]), (42.0, 18.0, 52.0, 26.0)
    targets = targets_of((0, 2, box))
    places = [(anchor, *cell) for anchor in range(3) for cell in [(2, 5), (2, 6), (3, 5)]]  # centre 5.875, 2.75
    losses = ScaledLoss([head])([perfect_raw(head, box, places)], targets)
    assert losses.positives.item() == 9
    assert losses.mean_iou.item() == pytest.approx(1, abs=1e-5)
    assert losses.box.item() == pytest.approx(0, abs=1e-4)


def test_best_fit_of_two_boxes_in_one_place() -> None:
    head = head_with(scale_x_y=2.0, mask=(1,))
    losses = ScaledLoss([head])
    raw = torch.zeros(1, 8, *GRIDS[8], requires_grad=True)  # the anchor itself, 10 x 7, at the middle of each cell
    small, exact = (42.0, 26.0, 46.0, 30.0), (39.0, 24.5, 49.0, 31.5)  # both with the centre (44, 28)
    for rows in ([(0, 0, small), (0, 1, exact)], [(0, 1, exact), (0, 0, small)]):
        raw.grad = None
        losses([raw], targets_of(*rows)).total.backward()
        aim = 0.5 - raw.grad[0, 4, 3, 5].item() * 96 / (64 * 12)  # 96 cells; weight 12 of one head
        assert aim == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("loss", [ScaledLoss, SimotaLoss])
def test_images_without_boxes(loss: type[ScaledLoss]) -> None:
    heads = two_heads(scale_x_y=2.0)
    raws = random_raws(heads, 2)
    losses = loss(heads)(raws, targets_of())
    losses.total.backward()
    assert (losses.box.item(), losses.classes.item(), losses.mean_iou.item(), losses.positives.item()) == (0, 0, 0, 0)
    assert losses.objectness.item() > 0
    for head, raw in zip(heads, raws, strict=True):
        gradient = head.grid(raw.grad)
        assert (gradient[:, :, 4] > 0).all()  # everything is background
        assert not gradient[:, :, :4].any() and not gradient[:, :, 5:].any()


def test_a_crowd_is_neither_object_nor_background() -> None:
    head = head_with(scale_x_y=2.0, ignore_thresh=0.5)
    raw = random_raws([head], 2)[0]
    crowd = targets_of((1, 0, (0.0, 0.0, 48.0, 64.0)), crowd=True)
    losses = ScaledLoss([head])([raw], crowd)
    losses.total.backward()
    assert losses.positives.item() == 0
    ignored = head.grid(raw.grad)[:, :, 4] == 0
    boxes = head.decode(raw.detach()).boxes.view(2, 3, *GRIDS[8], 4)
    inside = (boxes.clamp(min=0)[..., 2].clamp(max=48) - boxes.clamp(min=0)[..., 0]).clamp(min=0)
    inside = inside * (boxes[..., 3].clamp(max=64) - boxes[..., 1].clamp(min=0))
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    assert not ignored[0].any()
    assert torch.equal(ignored[1], inside[1] / area[1] > 0.5) and 0 < ignored[1].sum() < ignored[1].numel()
    # an object inside the crowd is learnt nevertheless
    both = [torch.cat(pair) for pair in zip(crowd, targets_of((1, 2, (20.0, 20.0, 30.0, 28.0))), strict=True)]
    raw.grad = None
    losses = ScaledLoss([head])([raw], Targets(*both))
    losses.total.backward()
    assert losses.positives.item() == 9
    gradient = head.grid(raw.grad)[1, :, 4]
    assert (gradient[:, 3, 3] != 0).all()  # the cell of its centre (25, 24)


@pytest.mark.parametrize("loss", [ScaledLoss, SimotaLoss])
def test_the_rate_does_not_depend_on_the_batch(loss: type[ScaledLoss]) -> None:
    heads, targets = two_heads(scale_x_y=2.0), random_targets(1, seed=5)
    raws = [raw.detach() for raw in random_raws(heads, 1)]
    one = loss(heads)(raws, targets)
    twice = Targets(*(torch.cat((tensor, tensor)) for tensor in targets))
    twice = twice._replace(image_index=torch.cat((targets.image_index, targets.image_index + 1)))
    two = loss(heads)([torch.cat((raw, raw)) for raw in raws], twice)
    for part in ("total", "box", "objectness", "classes"):  # a step divides these by the images of its batch
        assert getattr(two, part).item() == pytest.approx(2 * getattr(one, part).item(), rel=1e-5)


@pytest.mark.parametrize("loss", [ScaledLoss, SimotaLoss])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", [1, 30, 60000])
def test_gradients_are_finite(loss: type[ScaledLoss], variant: str, dtype: torch.dtype, size: float) -> None:
    heads = two_heads(**VARIANTS[variant])
    new = heads[0].section.new_coords
    raws = []
    for raw in random_raws(heads, 2, seed=1):
        raw = (raw.detach() if not new else raw.detach().logit()) * size
        raws.append((raw.sigmoid() if new else raw.clamp(-60000, 60000)).to(dtype).requires_grad_())
    losses = loss(heads)(raws, random_targets(2, seed=1))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    for raw in raws:
        assert raw.grad.dtype == dtype and torch.isfinite(raw.grad).all()


def test_rare_classes_weigh_more_and_smoothing_costs_confidence() -> None:
    head = head_with(scale_x_y=2.0, counters_per_class=(100, 0, 10), max_delta=4.0, mask=(1,))
    sure = torch.tensor([[5.0, -5.0, -5.0]])
    plain = head_with(scale_x_y=2.0, mask=(1,))
    for label, weight in enumerate((1.0, 4.0, 4.0)):  # 100 / 100; at most 4
        wrong = torch.zeros(1, 3)
        loss, even = (scaled.class_loss(one, wrong, torch.tensor([label])) for one in (head, plain))
        expected = torch.full((1, 3), math.log(2))
        torch.testing.assert_close(even, expected)
        expected[0, label] *= weight
        torch.testing.assert_close(loss, expected)
    smooth = head_with(scale_x_y=2.0, label_smooth_eps=0.1, mask=(1,))
    # aims .95 and .05; logits log(.95 / .05) = 2.944 are the best there is
    best = torch.tensor([[2.944, -2.944, -2.944]])
    label = torch.tensor([0])
    assert scaled.class_loss(smooth, sure, label).sum() > scaled.class_loss(smooth, best, label).sum()
    assert scaled.class_loss(plain, sure, label).sum() < scaled.class_loss(plain, best, label).sum()


def test_probabilities_and_logits_have_one_cross_entropy() -> None:
    logits = torch.linspace(-8, 8, 33)
    probabilities = SimpleNamespace(section=SimpleNamespace(new_coords=True))
    plain = SimpleNamespace(section=SimpleNamespace(new_coords=False))
    for aim in (0.0, 0.3, 1.0):
        aims = torch.full_like(logits, aim)
        expected = scaled.cross_entropy(plain, logits, aims, 2.0)
        torch.testing.assert_close(
            scaled.cross_entropy(probabilities, logits.sigmoid(), aims, 2.0), expected, rtol=1e-3, atol=1e-5
        )
    saturated = torch.tensor([0.0, 1.0], requires_grad=True)
    scaled.cross_entropy(probabilities, saturated, torch.tensor([1.0, 0.0])).sum().backward()
    assert saturated.grad[0] < -5e3 and saturated.grad[1] > 5e3  # as wrong as can be, and still learning


@pytest.mark.parametrize("loss", [ScaledLoss, SimotaLoss])
def test_other_heads_are_refused(loss: type[ScaledLoss]) -> None:
    stranger = SimpleNamespace(section=SimpleNamespace(kind="region"))
    with pytest.raises(
        UsageError, match=r"--loss scaled, simota: the cfg has \[region\] .wanted \[yolo\] heads only.; use"
    ):
        loss([stranger])
    with pytest.raises(UsageError, match="the cfg has no head"):
        loss([])


def test_as_many_maps_as_heads() -> None:
    with pytest.raises(ValueError, match="ScaledLoss: got 1 raw maps .wanted 2, one for each head"):
        ScaledLoss(two_heads())([torch.zeros(1, 24, 8, 12)], targets_of())


def test_a_criterion_by_its_name() -> None:
    head = "[convolutional]\nfilters=7\n[yolo]\nclasses=2\nnum=1\n"
    network = Darknet(parse_cfg(f"[net]\nwidth=32\nheight=32\nchannels=3\n{head}"))
    kinds = {"darknet": DarknetLoss, "scaled": ScaledLoss, "simota": SimotaLoss}
    for name, kind in kinds.items():
        assert type(make_criterion(network, name)) is kind
    with pytest.raises(ValueError, match="make_criterion: 'mse' .wanted darknet, scaled or simota"):
        make_criterion(network, "mse")
    embedding = "[route]\nlayers=0\n[contrastive]\nyolo_layer=1\n"
    network = Darknet(parse_cfg(f"[net]\nwidth=32\nheight=32\nchannels=3\n{head}{embedding}"))
    with pytest.raises(UsageError, match=r"--loss simota: the cfg has \[contrastive\] .wanted \[yolo\] heads only"):
        make_criterion(network, "simota")

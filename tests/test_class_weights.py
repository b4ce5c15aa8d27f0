"""training.class_weights: what --class-weights means, and that every loss goes by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.darknet import Darknet
from models.losses.class_delta import class_multipliers
from models.losses.classification import ClassificationLoss
from models.losses.criterion import make_criterion
from training.class_weights import as_counts, class_weights, weights_line
from utils.cfg import parse_cfg, with_counters
from utils.errors import InputError, UsageError
from utils.structures import Targets

NAMES = ("red", "white cell", "blue")
COUNTS = (400, 100, 1)


def test_rare_classes_get_more_by_the_square_root() -> None:
    # sqrt(400 / 100), and sqrt(400) is beyond the 10 there are at most
    assert class_weights("auto", NAMES, COUNTS) == [1, 2, 10]
    assert class_weights("auto", NAMES, (9, 0, 9)) == [1, 3, 1]  # none counts as one
    assert class_weights("auto", NAMES, (0, 0, 0)) == [1, 1, 1]


def test_numbers_are_divided_by_the_least() -> None:
    assert class_weights("1, 2,.5", NAMES, COUNTS) == [2, 4, 1]


def test_a_file_names_classes(tmp_path: Path) -> None:
    file = tmp_path / "weights.txt"
    file.write_text("white cell\t3\n\nblue 1.5\n")
    assert class_weights(str(file), NAMES, COUNTS) == [1, 3, 1.5]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1,2", r"--class-weights 1,2: 2 numbers \(wanted 3, one for each class\)"),
        ("1,0,2", r"--class-weights 1,0,2: '0' is no weight \(wanted numbers above 0, auto, none, or a file\)"),
        ("1,-1,2", "'-1' is no weight"),
        ("1,nan,2", "'nan' is no weight"),
        ("1,inf,2", "'inf' is no weight"),
        ("no-such-file.txt", "'no-such-file.txt' is no weight"),
        ("1,100000,1", r"1 to 100000 \(wanted at most x 10000\)"),
    ],
)
def test_what_is_no_weight(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        class_weights(text, NAMES, COUNTS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("green 2", r"weights.txt:1: green 2 \(wanted NAME WEIGHT, names of the data set\)"),
        ("red 1\nblue", r"weights.txt:2: blue \(wanted NAME WEIGHT"),
        ("red much", "weights.txt:1: 'much' is no weight"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "weights.txt"
    file.write_text(text)
    with pytest.raises(InputError, match=reason):
        class_weights(str(file), NAMES, COUNTS)


def test_the_line_for_people() -> None:
    assert weights_line(NAMES, [1, 2, 10]) == "class weights: red 1, white cell 2, blue 10"
    assert weights_line([str(label) for label in range(13)], [1] * 13).endswith("11 1 ...")


# --- the cfg ------------------------------------------------------------------------------------------------------

KINDS = {
    "yolo": "[convolutional]\nfilters=16\nactivation=linear\n[yolo]\nclasses=3\nnum=2\nanchors=16,16, 30,30\n"
    "iou_loss=ciou\nscale_x_y=2\n",
    "Gaussian_yolo": "[convolutional]\nfilters=24\nactivation=linear\n[Gaussian_yolo]\nclasses=3\nnum=2\n"
    "anchors=16,16, 30,30\niou_loss=giou\n",
    "region": "[convolutional]\nfilters=16\nactivation=linear\n[region]\nclasses=3\nnum=2\nanchors=1,1, 2,2\n"
    "softmax=1\nbias_match=1\n",
}
NET = "[net]\nwidth=64\nheight=64\nchannels=3\n[convolutional]\nfilters=4\nsize=3\nstride=16\npad=1\nactivation=leaky\n"


@given(st.lists(st.floats(1, 1000), min_size=3, max_size=3))
def test_weights_survive_the_cfg(weights: list[float]) -> None:
    weights = [weight / min(weights) for weight in weights]
    for kind in KINDS.values():
        section = with_counters(parse_cfg(NET + kind), as_counts(weights)).layers[-1]
        found = class_multipliers(section, torch.device("cpu"))
        torch.testing.assert_close(found, torch.tensor(weights), rtol=1e-3, atol=0)


def gradient(kind: str, loss: str, weights: list[float] | None, label: int) -> Tensor:
    """Of the raw head, for one box of class ``label``: its anchor's entries in its cell (E,)."""
    torch.manual_seed(1)
    network = Darknet(with_counters(parse_cfg(NET + KINDS[kind]), weights and as_counts(weights)))
    network.seen = 10**6
    raws = [raw.detach().requires_grad_() for raw in network.train()(torch.rand(1, 3, 64, 64))]
    box = torch.tensor([[16.0, 16.0, 32.0, 32.0]])  # a cell, 16 x 16: the first anchor
    targets = Targets(torch.tensor([0]), torch.tensor([label]), box, torch.tensor([False]))
    make_criterion(network, loss)(raws, targets).total.backward()
    return network.heads[0].grid(raws[0].grad)[0, 0, :, 1, 1]


@pytest.mark.parametrize(
    ("kind", "loss"), [(kind, "darknet") for kind in KINDS] + [("yolo", "scaled"), ("yolo", "simota")]
)
def test_every_loss_pulls_a_heavy_class_harder(kind: str, loss: str) -> None:
    weights = [1.0, 3.0, 2.0]
    for label, weight in enumerate(weights):
        plain, weighed = gradient(kind, loss, None, label), gradient(kind, loss, weights, label)
        assert plain[-3 + label] != 0
        assert weighed[-3 + label].item() == pytest.approx(weight * plain[-3 + label].item(), rel=1e-4)
        if loss == "darknet":  # Darknet weighs the whole prediction: box and objectness, too
            objectness = 8 if kind == "Gaussian_yolo" else 4
            assert weighed[objectness].item() == pytest.approx(weight * plain[objectness].item(), rel=1e-4)
            assert weighed[0].item() == pytest.approx(weight * plain[0].item(), rel=1e-4)


def test_a_classifier_goes_by_them_too() -> None:
    logits = torch.randn(3, 3, requires_grad=True)
    truth = torch.eye(3)
    ClassificationLoss(1.0, [1.0, 3.0, 2.0])(logits, truth).backward()
    plain = logits.detach().clone().requires_grad_()
    ClassificationLoss(1.0)(plain, truth).backward()
    torch.testing.assert_close(logits.grad, plain.grad * torch.tensor([[1.0], [3.0], [2.0]]))

"""models.losses.classification and training.cfg: cross-entropy by hand, and cfgs that no labels can teach."""

from __future__ import annotations

import math

import pytest
import torch

from models.losses.classification import ClassificationLoss
from training.cfg import adapt_classes
from utils.cfg import load_cfg, parse_cfg
from utils.errors import CfgError

NET = "[net]\nwidth=8\nheight=8\nchannels=3\n"
CONV = "[convolutional]\nfilters=10\nsize=1\nactivation=linear\n"


def test_cross_entropy_by_hand() -> None:
    """softmax(0, log 3) = (1/4, 3/4); half of each class costs (log 4 + log 4/3) / 2 for one image."""
    logits = torch.tensor([[0.0, math.log(3)]]).repeat(2, 1)
    truth = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    wanted = (math.log(4) + math.log(4 / 3)) / 2 + math.log(4 / 3)
    assert ClassificationLoss()(logits, truth).item() == pytest.approx(wanted)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_gradient_is_darknets(temperature: float) -> None:
    """delta = truth - p, whatever the temperature."""
    logits = torch.randn(4, 6, requires_grad=True)
    truth = torch.rand(4, 6).softmax(1)
    ClassificationLoss(temperature)(logits, truth).backward()
    torch.testing.assert_close(logits.grad, (logits.detach() / temperature).softmax(1) - truth)


def test_the_last_layer_is_adapted_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    config = load_cfg("cifar")
    adapted = adapt_classes(config, 3, "my/train")
    assert adapted.layers[17].filters == 3
    assert capsys.readouterr().out == f"{config.source}: last layer adapted to the 3 classes of my/train\n"
    assert adapt_classes(config, 10, "my/train") == config
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (CONV + "[softmax]\n", r"\[softmax\] gets 3x8x8 values \(wanted 3x1x1\); put an \[avgpool\] before it"),
        (CONV + "[avgpool]\n[softmax]\ngroups=2\n", r"groups=2: cannot be trained here"),
    ],
)
def test_cfgs_that_labels_cannot_teach(text: str, match: str) -> None:
    with pytest.raises(CfgError, match=match):
        adapt_classes(parse_cfg(NET + text), 3, "x")

"""training.step: numbers that are not finite end the training with the images they came from."""

from __future__ import annotations

import math

import pytest
import torch

from training.step import check_gradient, check_loss
from utils.errors import Diverged
from utils.structures import Batch, Targets


def terms(loss: float) -> dict[str, float]:
    return {"loss": loss, "box": 0.25, "classes": loss}


def batches(*names: str) -> list[Batch]:
    """One mini-batch an image."""
    none = Targets(*(torch.zeros(0) for _ in Targets._fields))
    return [Batch(torch.zeros(1), none, (name,)) for name in names]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_its_parts_and_images(loss: float) -> None:
    wanted = rf"iteration 8: the loss is {loss} \(box 0.25, classes {loss}\) on a.png, b.png; lower learning_rate"
    with pytest.raises(Diverged, match=wanted):
        check_loss(terms(loss), 7, batches("a.png", "b.png"))


def test_of_many_images_the_first_are_named() -> None:
    with pytest.raises(Diverged, match=r"norm is inf on 0, 1, 2, 3, 4, 5, 6, 7 \.\.\.; lower"):
        check_gradient(torch.tensor(math.inf), 0, batches(*map(str, range(9))))


def test_finite_numbers_pass() -> None:
    check_loss(terms(3.0), 0, [])
    check_gradient(torch.tensor(1e30), 0, [])

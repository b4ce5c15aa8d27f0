"""The loss of a network that ends in [softmax]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ClassificationLoss(nn.Module):
    """Cross-entropy over the classes, summed over the images (forward_softmax_layer).

    With a temperature T Darknet's gradient stays ``softmax(logits / T) - truth``, that of T times the cross-entropy.

    Args:
        temperature: of the [softmax].
        weights: (K,) how much each class counts.
    """

    weights: Tensor | None

    def __init__(self, temperature: float = 1.0, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("weights", None if weights is None else torch.tensor(weights), persistent=False)

    def forward(self, logits: Tensor, truth: Tensor) -> Tensor:
        """The loss of float32 (B, K) logits, what [softmax] gets, for (B, K) shares of the classes, rows of sum 1."""
        loss = F.cross_entropy(logits / self.temperature, truth, weight=self.weights, reduction="sum")
        return self.temperature * loss

"""The loss of a network that ends in [softmax]."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def classification_loss(logits: Tensor, truth: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy over the classes, summed over the images (forward_softmax_layer).

    With a temperature T Darknet's gradient stays ``softmax(logits / T) - truth``, that of T times the cross-entropy.

    Args:
        logits: float32 (B, K), what [softmax] gets.
        truth: float32 (B, K), how much of each class an image shows; rows sum to 1.
        temperature: of the [softmax].
    """
    return temperature * F.cross_entropy(logits / temperature, truth, reduction="sum")

"""Images and boxes for measurements that do not care what they show."""

from __future__ import annotations

import torch

from utils.cfg import Config
from utils.structures import Targets


def made_up(config: Config, count: int, boxes_each: int) -> tuple[torch.Tensor, Targets]:
    """``count`` images of noise, and boxes anywhere in them."""
    side = config.net.width
    images = torch.rand(count, config.net.channels, side, side).to(memory_format=torch.channels_last)
    corners = torch.rand(count * boxes_each, 2) * 0.5 * side
    boxes = torch.cat((corners, corners + 16 + torch.rand(count * boxes_each, 2) * 0.4 * side), dim=1)
    labels = torch.zeros(count * boxes_each, dtype=torch.int64)
    image_index = torch.arange(count).repeat_interleave(boxes_each)
    return images, Targets(image_index, labels, boxes, torch.zeros(count * boxes_each, dtype=torch.bool))

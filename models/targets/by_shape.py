"""Which predictions learn a box in Scaled-YOLOv4: anchors of a like shape, in the three cells nearest its centre."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.heads.yolo import YoloHead
from models.targets.darknet import Cells, Truth
from utils.structures import Size

MOST_RATIO = 4.0  # an anchor learns boxes up to so many times its width and height, and down to that part of them


class Matches(NamedTuple):
    """Predictions of one head, and the box each learns; a prediction can occur with several boxes.

    Attributes:
        cells: where the P predictions are.
        truth: int64 (P,), the rows of `Truth` they learn.
    """

    cells: Cells
    truth: Tensor

    def select(self, index: Tensor) -> Matches:
        """The matches at ``index``, an index or a mask."""
        return Matches(self.cells.select(index), self.truth[index])


def assign_by_shape(head: YoloHead, truth: Truth, grid: Size, size: Size) -> Matches:
    """The predictions of ``head`` that learn each box (arXiv 2011.08036; the rule of its authors' code).

    Of each anchor whose width and height are both within a factor of `MOST_RATIO` of the box, the cell the centre
    lies in learns it, and so do the nearer neighbours in its row and its column: where they can. A cell predicts
    centres up to (scale_x_y - 1) / 2 cells beyond its border. With scale_x_y = 2 that is every box of a neighbour's
    nearer half, so three cells learn it; with 1.05 a neighbour learns only what lies within a fortieth of a cell of
    their common border, since it could never learn the rest.

    Args:
        grid: (GH, GW) of the head.
        size: (H, W) of the network input.
    """
    input_wh = head.anchors.new_tensor((size[1], size[0]))
    ratio = truth.boxes_cxcywhn[:, None, 2:] * input_wh / head.anchors  # (T, A, 2)
    index, anchor = (torch.maximum(ratio, 1 / ratio).amax(dim=2) < MOST_RATIO).nonzero(as_tuple=True)
    cells, reached = _nearest_cells(truth.boxes_cxcywhn[index, :2], grid, head.section.scale_x_y)
    which, match = reached.nonzero(as_tuple=True)
    column, row = cells[which, match].unbind(dim=1)
    return Matches(Cells(truth.image_index[index[match]], anchor[match], row, column), index[match])


def _nearest_cells(centres: Tensor, grid: Size, scale_x_y: float) -> tuple[Tensor, Tensor]:
    """The cell of each centre and its two nearest neighbours: int64 (3, P, 2) column, row; bool (3, P), who can learn.

    The cell itself always learns: a centre on the input's very edge counts to the outermost cell.

    Args:
        centres: (P, 2) relative to the input.
    """
    cells_wh = torch.tensor((grid[1], grid[0]), device=centres.device)
    centres = centres * cells_wh
    own = torch.minimum(centres.long().clamp(min=0), cells_wh - 1)
    step = torch.where(centres - own < 0.5, -1, 1)
    sides = torch.tensor([[0, 0], [1, 0], [0, 1]], device=centres.device)
    cells = own + sides[:, None] * step  # (3, P, 2)
    beyond = (scale_x_y - 1) / 2
    offset = centres - cells
    reached = (offset > -beyond) & (offset < 1 + beyond) & (cells >= 0) & (cells < cells_wh)
    reached = reached.all(dim=2)
    reached[0] = True
    return cells, reached

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.draw import batch_grid, color_of, draw_detections, line_width, text_color, text_size

NAMES = ("person", "traffic light")


def black(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def test_draws_where_the_box_is_and_leaves_the_input_alone() -> None:
    image = black(200, 300)
    drawn = draw_detections(image, [[50, 80, 150, 160]], [0], [0.9], NAMES)
    assert image.max() == 0
    assert drawn.dtype == np.uint8 and drawn.shape == image.shape
    rows, columns = np.nonzero(drawn.any(-1))
    thickness = line_width(200, 300)
    label = text_size(200, 300) * 1.5
    assert abs(columns.min() - 50) <= thickness and abs(rows.max() - 159) <= thickness
    assert 80 - label - thickness <= rows.min() < 80
    assert tuple(drawn[120, 50]) == color_of(0)
    assert drawn[100:140, 60:140].max() == 0  # the object itself stays visible


def test_best_score_lies_on_top() -> None:
    boxes = [[20, 40, 80, 90], [20, 40, 80, 90]]
    assert tuple(draw_detections(black(100, 100), boxes, [0, 1], [0.9, 0.3], NAMES)[70, 20]) == color_of(0)
    assert tuple(draw_detections(black(100, 100), boxes, [0, 1], [0.3, 0.9], NAMES)[70, 20]) == color_of(1)


def test_labels_of_neighbours_do_not_cover_each_other() -> None:
    """Two labels of the same box must show as much ink as two labels far apart."""
    together = draw_detections(black(200, 400), [[100, 100, 150, 150]] * 2, [0, 0], [0.9, 0.8], NAMES)
    alone = draw_detections(black(200, 400), [[100, 100, 150, 150]], [0], [0.9], NAMES)
    ink_of_label = np.count_nonzero(alone[:99].any(-1))
    assert np.count_nonzero(together.any(-1)) >= np.count_nonzero(alone.any(-1)) + 0.6 * ink_of_label


@given(
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    box=st.tuples(*[(st.floats(-200, 300) | st.floats()) for _ in range(4)]),
    name=st.sampled_from(["a", "a rather long class name", "größe", "猫", "", "\N{CAT FACE}"]),
)
@settings(deadline=None, max_examples=150)
def test_never_fails_nor_changes_the_size(height: int, width: int, box: tuple[float, ...], name: str) -> None:
    drawn = draw_detections(black(height, width), [box], [0], [0.5], [name])
    assert drawn.shape == (height, width, 3)


@pytest.mark.parametrize("box", [[0, 0, 40, 30], [-50, -50, 400, 400], [260, 180, 300, 200], [270, 0, 310, 8]])
def test_label_lies_wholly_inside(box: list[float]) -> None:
    """At the border there must be as much text as in the middle."""

    def white_ground(where: list[float]) -> int:
        drawn = draw_detections(np.full((200, 300, 3), 9, np.uint8), [where], [1], [0.5], NAMES)
        return int(np.count_nonzero((drawn == text_color(color_of(1))).all(-1)))

    assert white_ground(box) >= 0.9 * white_ground([100, 100, 140, 130]) > 20


@pytest.mark.parametrize("box", [[np.nan, 0, 5, 5], [0, 0, np.inf, 5], [-20, 5, -10, 9], [60, 2, 70, 9], [9, 9, 3, 3]])
def test_nothing_to_see_is_nothing_drawn(box: list[float]) -> None:
    assert draw_detections(black(50, 50), [box], [0], [0.5], NAMES).max() == 0


def test_no_boxes_and_unknown_labels() -> None:
    assert draw_detections(black(9, 9), np.zeros((0, 4)), [], [], NAMES).max() == 0
    assert draw_detections(black(99, 99), [[9, 30, 60, 60]], [7], None, NAMES).max() > 0


def test_colors_of_80_classes_are_distinct() -> None:
    colors = np.array([color_of(label) for label in range(80)], np.float32) / 255
    lab = cv2.cvtColor(colors[None], cv2.COLOR_RGB2LAB)[0]
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2))
    nearest_of_20 = min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab[:20], 2))
    assert nearest > 6 and nearest_of_20 > 25  # 2.3 is the least difference people see


def test_text_contrasts_with_every_class_color() -> None:
    def luminance(color: tuple[int, int, int]) -> float:
        linear = np.where((c := np.array(color) / 255) > 0.04, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    for label in range(80):
        light, dark = sorted((luminance(color_of(label)), luminance(text_color(color_of(label)))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # what WCAG 2 asks of text


def test_lines_and_text_grow_with_the_image() -> None:
    sizes = [(120, 160), (480, 640), (1080, 1920), (2160, 3840)]
    assert [line_width(*size) for size in sizes] == sorted(line_width(*size) for size in sizes)
    assert line_width(1, 1) == 1 and line_width(2160, 3840) >= 6
    assert text_size(1, 1) == 10 and text_size(2160, 3840) > 2 * text_size(480, 640)


def test_scores_none_shows_the_name_only() -> None:
    with_score = draw_detections(black(200, 300), [[50, 80, 150, 160]], [0], [0.9], NAMES)
    without = draw_detections(black(200, 300), [[50, 80, 150, 160]], [0], None, NAMES)
    assert np.count_nonzero(without) < np.count_nonzero(with_score)


def test_grid_paints_each_image_in_its_place() -> None:
    images = [np.full((40, 60, 3), 10 * (index + 1), np.uint8) for index in range(5)]
    grid = batch_grid(images, [np.zeros((0, 4))] * 5, [[]] * 5, NAMES, smallest=1)
    assert grid.shape == (2 * 41 - 1, 3 * 61 - 1, 3)
    assert [int(grid[20 + 41 * (i // 3), 30 + 61 * (i % 3), 0]) for i in range(5)] == [10, 20, 30, 40, 50]


def test_grid_scales_boxes_with_the_images_and_keeps_its_limit() -> None:
    images = [black(800, 800) for _ in range(20)]
    grid = batch_grid(images, [[[400, 400, 800, 800]]] * 20, [[0]] * 20, NAMES, largest=400)
    assert max(grid.shape) <= 400
    tile = (grid.shape[0] + 1) // 4 - 1
    left_edge = grid[tile * 3 // 4, tile // 2 - 1 : tile // 2 + 2]  # of the box in the first tile
    assert color_of(0) in [tuple(pixel) for pixel in left_edge.tolist()]
    assert batch_grid([], [], [], NAMES).size > 0


def test_grid_enlarges_small_images_so_that_labels_leave_something_to_see() -> None:
    grid = batch_grid([black(100, 160)] * 2, [[[40, 20, 80, 60]], []], [[0], []], NAMES, smallest=320)
    assert grid.shape == (200, 641, 3)
    thickness = line_width(200, 320)
    rows, columns = np.nonzero((grid == color_of(0)).all(-1)[:, :320])
    assert abs(columns.min() - 80) <= thickness and abs(rows.max() - 119) <= thickness
    assert max(batch_grid([black(100, 160)] * 2, [[], []], [[], []], NAMES, smallest=320, largest=400).shape) <= 400

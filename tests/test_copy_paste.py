"""Copying boxes from one image to another: the paint test, and what is never copied or covered."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augment.copy_paste import Paste, apply_pastes, sample_pastes
from tests.contracts import painted_sample, painted_samples
from utils.structures import Sample

EMPTY = Sample(np.zeros((50, 60, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool))


def free(sample: Sample) -> Sample:
    """The same without crowds."""
    return Sample(sample.image, sample.boxes, sample.labels, np.zeros(len(sample.boxes), bool))


def pasted(donor: Sample, host: Sample, seed: int) -> Sample:
    return apply_pastes(host, donor, sample_pastes(np.random.default_rng(seed), donor, host))


@settings(deadline=None, max_examples=100)
@given(donor=painted_samples(), seed=st.integers(0, 2**32), offset=st.floats(-0.4, 0.4))
def test_pasted_boxes_lie_on_their_paint(donor: Sample, seed: int, offset: float) -> None:
    boxes = np.clip(donor.boxes + np.float32(offset), 0, [*donor.image.shape[1::-1]] * 2).astype(np.float32)
    donor = free(Sample(donor.image, boxes, donor.labels, donor.crowd))
    result = pasted(donor, EMPTY, seed)
    assert result.boxes.dtype == np.float32 and result.image.shape == EMPTY.image.shape
    assert (result.boxes >= 0).all() and (result.boxes <= [60, 50, 60, 50]).all()
    for box, label in zip(result.boxes, result.labels, strict=True):
        left, top, right, bottom = np.round(box).astype(int)
        inner = result.image[top + 2 : bottom - 2, left + 2 : right - 2, label]
        assert (inner == 255).mean() > 0.65  # another paste may cover up to three tenths
    assert not EMPTY.image.any() and len(EMPTY.boxes) == 0


def test_by_hand() -> None:
    donor = free(painted_sample((40, 40), np.array([[10, 10, 20, 30]])))
    host = painted_sample((50, 60), np.array([[0, 0, 8, 8]]))
    result = apply_pastes(host, donor, (Paste(0, (10, 10, 20, 30), (45, 5)),))
    assert result.boxes.tolist() == [[0, 0, 8, 8], [45, 5, 55, 25]]
    assert result.labels.tolist() == [0, 0] and result.crowd.tolist() == [False, False]
    assert (result.image[5:25, 45:55, 0] == 255).all() and result.image[..., 0].sum() == 255 * (64 + 200)
    assert host.image[..., 0].sum() == 255 * 64


def test_half_of_the_objects_are_copied() -> None:
    donor = free(painted_sample((40, 40), np.array([[0, 0, 8, 8], [20, 20, 30, 30]])))
    counts = [len(sample_pastes(np.random.default_rng(seed), donor, EMPTY)) for seed in range(300)]
    assert abs(np.mean(counts) - 1) < 0.15 and set(counts) == {0, 1, 2}


def test_crowds_and_covered_objects_are_not_copied() -> None:
    boxes = np.array([[0, 0, 20, 20], [25, 25, 35, 35], [5, 5, 15, 15]])  # the third lies within the first
    donor = Sample(np.zeros((40, 40, 3), np.uint8), boxes.astype(np.float32), np.arange(3), np.array([0, 1, 0]) > 0)
    copied = {paste.index for seed in range(60) for paste in sample_pastes(np.random.default_rng(seed), donor, EMPTY)}
    assert copied == {0}  # a quarter of it is covered; the third is covered wholly


@settings(deadline=None, max_examples=60)
@given(donor=painted_samples(), host=painted_samples(), seed=st.integers(0, 2**32))
def test_little_of_what_is_there_is_covered(donor: Sample, host: Sample, seed: int) -> None:
    donor = free(donor)
    for paste in sample_pastes(np.random.default_rng(seed), donor, host):
        (left, top, right, bottom), (x, y) = paste.box, paste.to
        assert min(x, y) >= 0
        assert x + right - left <= host.image.shape[1] and y + bottom - top <= host.image.shape[0]
        for x1, y1, x2, y2 in host.boxes:
            width, height = min(x2, x + right - left) - max(x1, x), min(y2, y + bottom - top) - max(y1, y)
            assert max(width, 0) * max(height, 0) <= 0.3 * (x2 - x1) * (y2 - y1) + 1e-3


def test_what_does_not_fit_or_has_no_pixel_stays() -> None:
    large = free(painted_sample((90, 90), np.array([[0, 0, 80, 80]])))
    thin = Sample(large.image, np.float32([[3, 3, 3.3, 20]]), np.zeros(1, int), np.zeros(1, bool))
    nothing = painted_sample((40, 40), np.zeros((0, 4)))
    for donor in (large, thin, nothing):
        for seed in range(20):
            assert sample_pastes(np.random.default_rng(seed), donor, EMPTY) == ()
    assert apply_pastes(EMPTY, nothing, ()).boxes.shape == (0, 4)

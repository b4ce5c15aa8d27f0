"""What a detector reports, and what is said of a run at its end; the run itself is in test_detect.py."""

from __future__ import annotations

import pytest
import torch

from inference.detection import Tally, select
from utils.errors import EnvironmentFault, InputError
from utils.structures import Detections


def found(*labels: int) -> Detections:
    """A box for each label, by falling score."""
    count = len(labels)
    scores = torch.linspace(0.9, 0.1, count)
    return Detections(torch.arange(4.0 * count).view(count, 4), scores, torch.tensor(labels, dtype=torch.int64))


@pytest.mark.parametrize(
    ("wanted", "most", "kept"),
    [
        (None, None, [0, 1, 2, 3]),
        (None, 2, [0, 1]),
        ((2,), None, [1, 3]),
        ((2,), 1, [1]),
        ((2, 5), 2, [0, 1]),
        ((7,), None, []),
    ],
)
def test_the_best_of_the_wanted_classes_stay(wanted: tuple[int, ...] | None, most: int | None, kept: list[int]) -> None:
    before = found(5, 2, 0, 2)
    after = select(before, wanted, most)
    for name in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(after, name), getattr(before, name)[kept])


def test_a_tally_counts_frames_and_classes() -> None:
    tally = Tally()
    for labels in ((1, 1), (), (0, 1)):
        tally.add(found(*labels))
    said = tally.summary(["cell", "clot"])
    assert said.startswith("3 frames in ") and said.endswith(" frames/s); 4 detections: 3 clot, 1 cell")
    assert Tally().summary(["cell"]).endswith("; 0 detections")
    tally.raise_faults()


def test_faults_end_a_run_after_all() -> None:
    with pytest.raises(InputError, match=r"^a\.jpg: broken$"):
        Tally(faults=["a.jpg: broken"]).raise_faults()
    several = Tally(faults=["a.jpg: broken", "b.jpg: broken", "c.jpg: broken"])
    with pytest.raises(InputError, match=r"^a\.jpg: broken \(and 2 more\)$"):
        several.raise_faults()
    several.failure = EnvironmentFault("disk full")  # before what lies in the files
    with pytest.raises(EnvironmentFault, match="disk full"):
        several.raise_faults()

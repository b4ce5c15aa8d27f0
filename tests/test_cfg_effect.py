"""utils.cfg.effect: what changes nothing is said, what is a default is not."""

from __future__ import annotations

import pytest

from utils.cfg import parse_cfg
from utils.cfg.edit import with_net
from utils.cfg.effect import keys_without_effect

SIZE = "[net]\nwidth=32\nheight=32\nchannels=3\n"
DETECTOR = SIZE + "batch=8\nsubdivisions=4\n{keys}\n[convolutional]\nfilters=6\n[yolo]\n"
CLASSIFIER = SIZE + "{keys}\n[convolutional]\nfilters=6\n[softmax]\n"


def lines(keys: str, text: str = DETECTOR) -> list[str]:
    return list(keys_without_effect(parse_cfg(text.format(keys=keys), source="my.cfg")))


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ("track=1", "for recurrent networks"),
        ("time_steps=4", "for recurrent networks"),
        ("sequential_subdivisions=2", "for recurrent networks"),
        ("seq_scales=1,2", "for recurrent networks"),
        ("loss_scale=128", "divides by it again"),
        ("weights_reject_freq=1001", "not reset here"),
        ("optimized_memory=2", "not what it computes"),
        ("attention=1", "only shows something"),
        ("angle=7", "for classifiers only"),
        ("min_crop=100", "for classifiers only"),
        ("cutmix=1", "for classifiers only"),
        ("label_smooth_eps=.1", r"for classifiers only, as in Darknet; detectors have it in \[yolo\]"),
    ],
)
def test_a_key_without_effect_is_one_line(keys: str, reason: str) -> None:
    (line,) = lines(keys)
    assert line.startswith(f"my.cfg:1: [net] {keys.replace('=.1', '=0.1')} has no effect: ")
    assert reason.replace("\\", "") in line


def test_cutmix_by_its_number() -> None:
    (line,) = lines("mixup=4")
    assert line == "my.cfg:1: [net] mixup=4 asks for cutmix, which has no effect: for classifiers only, as in Darknet"


@pytest.mark.parametrize("keys", ["", "angle=0\naspect=1\ntime_steps=1\nmixup=1\nmosaic=1\nadam=1\nsubdivisions=8"])
def test_defaults_and_keys_with_effect_are_not_mentioned(keys: str) -> None:
    assert lines(keys) == []


def test_changed_keys_follow() -> None:
    config = parse_cfg(DETECTOR.format(keys=""))
    assert list(keys_without_effect(with_net(config, subdivisions=2, width=64))) == []


def test_a_classifier_may_use_the_classifiers_keys() -> None:
    assert lines("angle=7\ncutmix=1\naspect=.75\nmixup=4", CLASSIFIER) == []


def test_a_classifier_is_told_of_the_detectors_keys() -> None:
    (line,) = lines("adversarial_lr=1", CLASSIFIER)
    assert line == "my.cfg:1: [net] adversarial_lr=1 has no effect: for detectors only"
    assert lines("adversarial_lr=1\ndynamic_minibatch=1\ngaussian_noise=9\nmosaic_bound=1\ncontrastive=1") == []

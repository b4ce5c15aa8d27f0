"""Networks of a few thousand parameters: what the published detectors are made of, at the size of a stamp."""

from __future__ import annotations

from pathlib import Path

NET = """[net]
batch=8
subdivisions=2
width=96
height=64
channels=3
momentum=0.9
decay=0.0005
learning_rate=0.01
burn_in=20
max_batches=300
policy=steps
steps=200,250
scales=.1,.1
saturation=1.4
exposure=1.4
hue=.05
mosaic=1
flip=1
"""
BODY = (  # halved routes, a shortcut, pooled paths, dropout, whose numbers come from torch's generator
    "{conv8s2}{leaky16s2}[route]\nlayers=-1\ngroups=2\ngroup_id=1\n{conv8}{conv8}"
    "[shortcut]\nfrom=-2\nactivation=linear\n[route]\nlayers=-1,1\n[maxpool]\nsize=2\nstride=2\n{conv16}"
    "[maxpool]\nstride=1\nsize=5\n[route]\nlayers=-1,-2\n[dropout]\nprobability=.02\n{conv24s2}"
)
UPWARDS = "[route]\nlayers=-3\n{conv8}[upsample]\nstride=2\n[route]\nlayers=-1,8\n{swish16}"
DEEP = 40  # convolutions, with the three before them enough for a regime of its own
YOLO = """[{kind}]
mask={mask}
classes=2
num=4
anchors=14,12, 24,18, 32,26, 44,34
jitter=.2
ignore_thresh=.7
iou_loss=ciou
iou_normalizer=.07
cls_normalizer=1
obj_normalizer=1
scale_x_y=1.05
iou_thresh=.213
nms_kind=greedynms
beta_nms=.6
max_delta=5
"""
REGION = """[region]
anchors=2,2, 3.25,3.25
bias_match=1
classes=2
num=2
softmax=1
jitter=.05
object_scale=5
thresh=.6
"""
CONTRASTIVE = "[contrastive]\nyolo_layer=-3\n"


def conv(filters: int, *, size: int = 3, stride: int = 1, activation: str = "mish") -> str:
    """A batch-normalised convolution."""
    shape = f"filters={filters}\nsize={size}\nstride={stride}\npad=1\n"
    return f"[convolutional]\nbatch_normalize=1\n{shape}activation={activation}\n"


def last(filters: int) -> str:
    """The convolution before a head."""
    return f"[convolutional]\nfilters={filters}\nsize=1\nstride=1\nactivation=linear\n"


def yolo(mask: str, kind: str = "yolo") -> str:
    """A head of two classes."""
    return YOLO.format(kind=kind, mask=mask)


def network_texts() -> dict[str, str]:
    """The cfgs by their file names: with two [yolo] heads, a deep one, one with heads of every kind."""
    convolutions = {
        "conv8s2": conv(8, stride=2),
        "leaky16s2": conv(16, stride=2, activation="leaky"),
        "conv8": conv(8),
        "conv16": conv(16),
        "conv24s2": conv(24, stride=2),
        "swish16": conv(16, activation="swish"),
    }
    body, upwards = BODY.format(**convolutions), UPWARDS.format(**convolutions)
    stem = NET + conv(8, stride=2) + conv(16, stride=2) + conv(24, stride=2)
    heads = [last(14) + REGION, last(14) + yolo("0,1"), last(16) + CONTRASTIVE, last(22) + yolo("2,3", "Gaussian_yolo")]
    return {
        "detector.cfg": NET + body + last(14) + yolo("2,3") + upwards + last(14) + yolo("0,1"),
        "deep.cfg": stem + DEEP * conv(24, size=1) + last(14) + yolo("0,1"),
        "heads.cfg": stem + "[route]\nlayers=2\n".join(["", *heads]),
    }


def write_networks(folder: Path) -> None:
    """All cfgs."""
    for name, text in network_texts().items():
        (folder / name).write_text(text)

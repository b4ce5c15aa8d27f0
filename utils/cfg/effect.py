"""Keys of ``[net]`` that change nothing here: each is said in one line, none is passed over in silence."""

from __future__ import annotations

from collections.abc import Iterator

from utils.cfg.heads import Region, Yolo
from utils.cfg.sections import Config

_RECURRENT = "for recurrent networks and tracking, which are not trained here"
_DETECTORS = "for detectors only"
_CLASSIFIERS = "for classifiers only, as in Darknet"
_MEMORY = "chooses how Darknet uses a GPU, not what it computes"
_DISPLAY = "only shows something in Darknet"
_WITHOUT_EFFECT = {
    "time_steps": _RECURRENT,
    "track": _RECURRENT,
    "augment_speed": _RECURRENT,
    "sequential_subdivisions": _RECURRENT,
    "seq_scales": _RECURRENT,
    "loss_scale": "Darknet divides by it again; for fp16 the scale is found while training",
    "weights_reject_freq": "similar filters are not reset here",
    "optimized_memory": _MEMORY,
    "workspace_size_limit_MB": _MEMORY,
    "use_cuda_graph": _MEMORY,
    "attention": _DISPLAY,
    "max_chart_loss": _DISPLAY,
    "show_receptive_field": _DISPLAY,
}
_WITHOUT_EFFECT_ON_DETECTORS = {
    "angle": _CLASSIFIERS,
    "aspect": _CLASSIFIERS,
    "max_crop": _CLASSIFIERS,
    "min_crop": _CLASSIFIERS,
    "cutmix": _CLASSIFIERS,
    "label_smooth_eps": f"{_CLASSIFIERS}; detectors have it in [yolo]",
}
_WITHOUT_EFFECT_ON_CLASSIFIERS = dict.fromkeys(
    (
        "adversarial_lr",
        "badlabels_rejection_percentage",
        "contrastive",
        "contrastive_color",
        "contrastive_jit_flip",
        "dynamic_minibatch",
        "equidistant_point",
        "gaussian_noise",
        "mosaic_bound",
        "num_sigmas_reject_badlabels",
    ),
    _DETECTORS,
)


def keys_without_effect(config: Config) -> Iterator[str]:
    """A line for each key of ``[net]`` whose value is not its default and that changes nothing here."""
    detects = any(isinstance(layer, Yolo | Region) for layer in config.layers)
    keys = _WITHOUT_EFFECT | (_WITHOUT_EFFECT_ON_DETECTORS if detects else _WITHOUT_EFFECT_ON_CLASSIFIERS)
    net = config.net
    default = type(net)(width=net.width, height=net.height, channels=net.channels, subdivisions=1)
    for key, reason in keys.items():
        usual = net.subdivisions if key == "sequential_subdivisions" else default.value(key)
        if net.value(key) != usual:
            kind = net.keys()[key].metadata["kind"]
            yield f"{config.where(net)} {key}={kind.format(net.value(key))} has no effect: {reason}"
    if net.mixup in (2, 4) and detects:
        yield f"{config.where(net)} mixup={net.mixup} asks for cutmix, which has no effect: {_CLASSIFIERS}"

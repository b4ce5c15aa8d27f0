"""The language of a cfg: text to typed sections and back, and the changes a program makes to them."""

from utils.cfg.edit import with_activation, with_classes, with_counters, with_net, with_size, with_yolo
from utils.cfg.parser import CFG_FOLDER, find_cfg, format_cfg, load_cfg, parse_cfg
from utils.cfg.sections import Config

__all__ = [
    "CFG_FOLDER",
    "Config",
    "find_cfg",
    "format_cfg",
    "load_cfg",
    "parse_cfg",
    "with_activation",
    "with_classes",
    "with_counters",
    "with_net",
    "with_size",
    "with_yolo",
]

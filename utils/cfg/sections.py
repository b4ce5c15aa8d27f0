"""A whole cfg, and which section types there are under the names a cfg gives them."""

from __future__ import annotations

from dataclasses import dataclass, field

from utils.cfg import heads, layers
from utils.cfg.layers import Section
from utils.cfg.net import Net
from utils.cfg.options import Options

SECTIONS: dict[str, type[Section]] = {
    item.kind: item
    for module in (layers, heads)
    for item in vars(module).values()
    if isinstance(item, type) and issubclass(item, Section) and item.kind
}
UNSUPPORTED = (
    "rnn", "gru", "lstm", "crnn", "conv_lstm", "history", "detection", "local", "deconvolutional", "local_maxpool",
    "empty",
)  # fmt: skip
ALIASES = {
    "network": "net",
    "conv": "convolutional",
    "deconv": "deconvolutional",
    "conn": "connected",
    "max": "maxpool",
    "local_max": "local_maxpool",
    "local_avg": "local_avgpool",
    "avg": "avgpool",
    "lrn": "normalization",
    "soft": "softmax",
    "silence": "empty",
}


@dataclass(frozen=True)
class Config:
    """A network as its cfg describes it. Equal when the networks are: source and warnings do not count.

    Attributes:
        net: the ``[net]`` section.
        layers: the other sections; ``layers[i]`` is what ``[route] layers=i`` refers to.
        source: the file, for messages.
        warnings: what is odd about the text, one line each.
    """

    net: Net
    layers: tuple[Section, ...]
    source: str = field(default="<string>", compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def where(self, section: Options) -> str:
        """``FILE:LINE: [kind]``, the start of a message about ``section``."""
        return f"{self.source}:{section.line}: [{section.kind}]"

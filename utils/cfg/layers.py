"""The layers of a cfg other than detection heads: every key, typed, with Darknet's default."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from utils.cfg.options import BIG, ITERATIONS, Options, declare, integer, real, reference, references, switch, word
from utils.cfg.values import Switch, Text

ACTIVATIONS = (
    "logistic", "loggy", "relu", "relu6", "elu", "selu", "relie", "ramp", "leaky", "revleaky", "tanh", "plse",
    "hardtan", "lhtan", "stair", "linear", "gelu", "swish", "mish", "hard_mish",
    "normalize_channels", "normalize_channels_softmax", "normalize_channels_softmax_maxval",
)  # fmt: skip
COSTS = ("sse", "masked", "L1", "seg", "smooth", "wgan")
_FILTERS, _STRIDE = 65536, 1024  # the most that is sensible


@dataclass(frozen=True, kw_only=True)
class Section(Options):
    """A layer. These keys are legal in each of them."""

    learning_rate: float = real(1.0, 0, BIG, "multiplies the rate of [net]")
    stopbackward: int = integer(0, 0, ITERATIONS, "1: no gradient to here and before; N: until iteration N")
    onlyforward: bool = switch("no gradient through this layer")
    dont_update: int = integer(0, 0, ITERATIONS, "frozen up to this iteration")
    burnin_update: float = real(0.0, 0, BIG, "frozen up to this multiple of burn_in")
    train_only_bn: bool = switch("only batch norm learns")
    dontload: bool = switch("the .weights file holds nothing for this layer")
    dontloadscales: bool = switch("nor scales and statistics")
    clip: float = real(0.0, 0, BIG, "clamp weights after each update; 0: do not")


@dataclass(frozen=True, kw_only=True)
class Convolutional(Section):
    """``[convolutional]``: convolution, batch norm or bias, activation."""

    kind = "convolutional"

    filters: int = integer(1, 1, _FILTERS, "output channels")
    size: int = integer(1, 1, _STRIDE, "kernel side")
    stride: int = integer(1, 1, _STRIDE)
    stride_x: int = integer(None, 1, _STRIDE, "default stride")
    stride_y: int = integer(None, 1, _STRIDE, "default stride")
    pad: bool = declare(Switch(high=_STRIDE), False, "padding = size // 2")
    padding: int = integer(0, 0, _STRIDE, "pixels on each side")
    dilation: int = integer(1, 1, _STRIDE, "1 for size=1")
    groups: int = integer(1, 1, _FILTERS)
    batch_normalize: int = integer(0, 0, 2, "2: cross-iteration batch norm")
    cbn: bool = switch("batch_normalize=2")
    activation: str = word("logistic", ACTIVATIONS)
    antialiasing: int = integer(0, 0, 2, "blur before striding: 1 [1 2 1], 2 mean of 2x2")
    share_index: int | None = reference("use the parameters of that layer")
    assisted_excitation: int = integer(0, 0, ITERATIONS, "training: add the mean of the channels inside truth boxes")
    grad_centr: bool = switch("gradient centralisation")
    binary: bool = switch("binary weights")
    xnor: bool = switch("binary weights and input")
    bin_output: bool = switch("speed of xnor only")
    flipped: bool = switch("weights are stored transposed")
    dot: float = real(0.0, 0, BIG, "no effect")
    coordconv: bool = switch("add the coordinates as channels")
    reverse: float = real(0.0, 0, BIG, "GPU experiment")
    sway: bool = switch("deformed copies of the filters")
    rotate: bool = switch("as sway: rotated")
    stretch: bool = switch("as sway: stretched")
    stretch_sway: bool = switch("as sway: both")
    angle: float = real(15.0, -360, 360, "degrees, for sway and rotate")

    def __post_init__(self) -> None:
        self._derive(
            stride_x=self.stride_x or self.stride,
            stride_y=self.stride_y or self.stride,
            padding=self.size // 2 if self.pad else self.padding,
            dilation=1 if self.size == 1 else self.dilation,
            groups=1 if self.xnor else self.groups,
            batch_normalize=2 if self.cbn else self.batch_normalize,
        )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.filters % self.groups:
            yield "groups", f"wanted a divisor of filters={self.filters}"


@dataclass(frozen=True, kw_only=True)
class _Pool(Section):
    """Windows of side ``size``; ``padding`` is the total of both sides, the smaller half first."""

    stride: int = integer(1, 1, _STRIDE)
    stride_x: int = integer(None, 1, _STRIDE, "default stride")
    stride_y: int = integer(None, 1, _STRIDE, "default stride")
    size: int = integer(None, 1, _STRIDE, "window side; default stride")
    padding: int = integer(None, 0, _STRIDE, "pixels, both sides together; default size - 1")
    maxpool_depth: bool = switch("maximum over channels g, g + n, g + 2n ...; n = out_channels")
    out_channels: int = integer(1, 1, _FILTERS, "for maxpool_depth")
    antialiasing: int = integer(0, 0, 2, "blur before striding: 1 [1 2 1], 2 mean of 2x2")

    def __post_init__(self) -> None:
        size = self.size or self.stride
        self._derive(
            stride_x=self.stride_x or self.stride,
            stride_y=self.stride_y or self.stride,
            size=size,
            padding=size - 1 if self.padding is None else self.padding,
        )


@dataclass(frozen=True, kw_only=True)
class Maxpool(_Pool):
    """``[maxpool]``."""

    kind = "maxpool"

    maxpool_zero_nonmax: bool = switch("zero whatever is not a maximum in the input")


@dataclass(frozen=True, kw_only=True)
class LocalAvgpool(_Pool):
    """``[local_avgpool]``: the mean over the pixels of the window that lie in the image."""

    kind = "local_avgpool"


@dataclass(frozen=True, kw_only=True)
class Avgpool(Section):
    """``[avgpool]``: the mean over the whole map."""

    kind = "avgpool"


@dataclass(frozen=True, kw_only=True)
class Upsample(Section):
    """``[upsample]``: nearest neighbour; a negative stride sums blocks, the reverse."""

    kind = "upsample"

    stride: int = integer(2, -64, 64)
    scale: float = real(1.0, -BIG, BIG, "factor on the values")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.stride == 0:
            yield "stride", "wanted anything but 0"


@dataclass(frozen=True, kw_only=True)
class Route(Section):
    """``[route]``: the channels of earlier layers, one after the other."""

    kind = "route"

    layers: tuple[int, ...] = references("absolute, or negative and relative to this layer")
    groups: int = integer(1, 1, _FILTERS, "take one of this many equal slices of each layer's channels")
    group_id: int = integer(0, 0, _FILTERS, "which slice")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.layers:
            yield "layers", "wanted the layers to join, such as layers=-1,-4"
        if self.group_id >= self.groups:
            yield "group_id", f"wanted less than groups={self.groups}"


@dataclass(frozen=True, kw_only=True)
class Shortcut(Section):
    """``[shortcut]``: the previous layer plus earlier ones."""

    kind = "shortcut"

    from_: tuple[int, ...] = references("absolute, or negative and relative to this layer")
    activation: str = word("linear", ACTIVATIONS)
    weights_type: str = word("none", ("none", "per_feature", "per_layer", "per_channel"), "learned weights of the sum")
    weights_normalization: str = word("none", ("none", "relu", "avg_relu", "softmax"))

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.from_:
            yield "from", "wanted the layer to add, such as from=-3"


@dataclass(frozen=True, kw_only=True)
class ScaleChannels(Section):
    """``[scale_channels]``: layer ``from`` times the previous layer, which is one number a channel."""

    kind = "scale_channels"

    from_: int | None = reference("absolute, or negative and relative to this layer")
    scale_wh: bool = switch("the previous layer is one number a pixel instead")
    activation: str = word("linear", ACTIVATIONS)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.from_ is None:
            yield "from", "wanted the layer to scale, such as from=-4"


@dataclass(frozen=True, kw_only=True)
class Sam(Section):
    """``[sam]``: spatial attention, the previous layer times layer ``from``, element by element."""

    kind = "sam"

    from_: int | None = reference("absolute, or negative and relative to this layer")
    activation: str = word("linear", ACTIVATIONS)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.from_ is None:
            yield "from", "wanted the layer to multiply by, such as from=-2"


@dataclass(frozen=True, kw_only=True)
class Dropout(Section):
    """``[dropout]``, or DropBlock."""

    kind = "dropout"

    probability: float = real(0.2, 0, 0.999999)
    dropblock: bool = switch("drop squares instead of single values")
    dropblock_size_rel: float = real(0.0, 0, 1, "side of the square as a part of the map")
    dropblock_size_abs: int = integer(0, 0, 32768, "side of the square in cells; 7 when neither is given")


@dataclass(frozen=True, kw_only=True)
class _Reorg(Section):
    stride: int = integer(1, 1, _STRIDE)
    reverse: bool = switch("depth to space")


@dataclass(frozen=True, kw_only=True)
class Reorg(_Reorg):
    """``[reorg]``: YOLOv2's permutation, which is not quite space to depth."""

    kind = "reorg"


@dataclass(frozen=True, kw_only=True)
class Reorg3d(_Reorg):
    """``[reorg3d]``: space to depth."""

    kind = "reorg3d"


@dataclass(frozen=True, kw_only=True)
class Connected(Section):
    """``[connected]``: a fully connected layer."""

    kind = "connected"

    output: int = integer(1, 1, 10**7, "outputs")
    activation: str = word("logistic", ACTIVATIONS)
    batch_normalize: bool = switch()


@dataclass(frozen=True, kw_only=True)
class Batchnorm(Section):
    """``[batchnorm]`` on its own."""

    kind = "batchnorm"


@dataclass(frozen=True, kw_only=True)
class Activation(Section):
    """``[activation]`` on its own."""

    kind = "activation"

    activation: str = word("linear", ACTIVATIONS)


@dataclass(frozen=True, kw_only=True)
class Normalization(Section):
    """``[normalization]``: local response normalisation over channels."""

    kind = "normalization"

    size: int = integer(5, 1, _STRIDE, "channels in the window")
    alpha: float = real(0.0001, -BIG, BIG)
    beta: float = real(0.75, -BIG, BIG)
    kappa: float = real(1.0, -BIG, BIG)


@dataclass(frozen=True, kw_only=True)
class Crop(Section):
    """``[crop]``: a window of the image; random in training, central otherwise."""

    kind = "crop"

    crop_height: int = integer(1, 1, 32768)
    crop_width: int = integer(1, 1, 32768)
    flip: bool = switch()
    angle: float = real(0.0, -360, 360, "degrees")
    saturation: float = real(1.0, 0, 100)
    exposure: float = real(1.0, 0, 100)
    noadjust: bool = switch("keep values in [0, 1] instead of [-1, 1]")
    shift: float = real(0.0, -BIG, BIG)


@dataclass(frozen=True, kw_only=True)
class Implicit(Section):
    """``[implicit]``: a learned constant, the same for every image."""

    kind = "implicit"

    filters: int = integer(128, 1, _FILTERS)
    atoms: int = integer(1, 1, _FILTERS)
    mean: float = real(0.0, -BIG, BIG, "of the initial values")
    std: float = real(0.2, 0, BIG, "of the initial values")


@dataclass(frozen=True, kw_only=True)
class Softmax(Section):
    """``[softmax]``."""

    kind = "softmax"

    groups: int = integer(1, 1, _FILTERS)
    temperature: float = real(1.0, 0.000001, BIG)
    tree: str | None = declare(Text(), None, "file of a class hierarchy")
    spatial: bool = switch("over the channels of each cell")
    noloss: bool = switch()


@dataclass(frozen=True, kw_only=True)
class Cost(Section):
    """``[cost]``: the loss of a classifier."""

    kind = "cost"

    type: str = word("sse", COSTS)
    scale: float = real(1.0, -BIG, BIG)
    ratio: float = real(0.0, -BIG, BIG)


@dataclass(frozen=True, kw_only=True)
class Unsupported(Section):
    """A section Darknet knows and this project does not build: recurrent layers, YOLOv1, locally connected layers.

    Its keys are kept as text, unchecked.
    """

    kind: str = ""  # type: ignore[misc]  # of each, where other sections have one of their class
    options: tuple[tuple[str, str], ...] = ()

"""Operators with native twins: ``mish``, ``batch_norm_act``, ``bias_act``, ``PackedConv2d``; ``set_ops`` chooses."""

from models.ops.batch_norm_act import batch_norm_act, bias_act
from models.ops.extension import get_ops, has_fused, set_ops
from models.ops.mish import mish
from models.ops.packed_conv import PackedConv2d

__all__ = ["PackedConv2d", "batch_norm_act", "bias_act", "get_ops", "has_fused", "mish", "set_ops"]

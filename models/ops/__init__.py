"""Fused operators with native twins: ``mish``, ``batch_norm_act``, ``bias_act``; ``set_ops`` chooses."""

from models.ops.batch_norm_act import batch_norm_act, bias_act
from models.ops.extension import get_ops, set_ops
from models.ops.mish import mish

__all__ = ["batch_norm_act", "bias_act", "get_ops", "mish", "set_ops"]

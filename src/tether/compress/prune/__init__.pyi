from .gate_norm import GateNorm as GateNorm
from .gate_norm import gate_norm as gate_norm
from .gate_norm import gate_norm_scores as gate_norm_scores
from .gate_norm import prune_attention as prune_attention
from .registry import PRUNERS as PRUNERS

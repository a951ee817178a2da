from .pruner import GateNorm as GateNorm
from .pruner import gate_norm as gate_norm
from .pruner import gate_norm_scores as gate_norm_scores
from .pruner import prune_attention as prune_attention

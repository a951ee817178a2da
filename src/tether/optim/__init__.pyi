from .fused_clip_step import clip_and_step as clip_and_step
from .lamb import Lamb as Lamb
from .layer_decay import layer_decay_groups as layer_decay_groups
from .param_groups import parameter_groups as parameter_groups
from .registry import OPTIMIZERS as OPTIMIZERS
from .timm_adapter import with_timm as with_timm
from .torch_own import SGD as SGD
from .torch_own import AdamW as AdamW

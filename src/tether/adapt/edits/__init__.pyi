from .registry import WEIGHT_EDITS as WEIGHT_EDITS
from .svd import AttentionChange as AttentionChange
from .svd import SingularRows as SingularRows
from .svd import Svd as Svd
from .svd import rank_changes as rank_changes
from .svd import singular_rank as singular_rank
from .svd import singular_values as singular_values

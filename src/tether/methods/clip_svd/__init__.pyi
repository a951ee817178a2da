from .edit import AttentionChange as AttentionChange
from .edit import SingularRows as SingularRows
from .edit import Svd as Svd
from .edit import rank_changes as rank_changes
from .edit import singular_rank as singular_rank
from .edit import singular_values as singular_values
from .recipe import SvdRecipe as SvdRecipe

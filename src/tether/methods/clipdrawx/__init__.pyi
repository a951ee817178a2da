from .likeness import LikenessGoal as LikenessGoal
from .likeness import feature_loss as feature_loss
from .likeness import text_attention as text_attention

from .registry import TRAINING_FREE as TRAINING_FREE
from .text_guided import TextGuidedClassifier as TextGuidedClassifier
from .tip_adapter import TipAdapter as TipAdapter

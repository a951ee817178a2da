from .classifier import ClipClassifier as ClipClassifier
from .classifier import PatchReadOut as PatchReadOut
from .label_augment import LabelAugment as LabelAugment
from .label_augment import seeded as seeded
from .label_loss import LabelLoss as LabelLoss
from .recipe import ClassifierRecipe as ClassifierRecipe

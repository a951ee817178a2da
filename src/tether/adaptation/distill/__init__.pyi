from .clipself import NoRegionWarning as NoRegionWarning
from .clipself import SelfDistillStep as SelfDistillStep
from .text import Distilled as Distilled
from .text import distil_text as distil_text

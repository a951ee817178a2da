from .scorer import QualityScorer as QualityScorer
from .sharpness import sharpness as sharpness
from .windows import native_windows as native_windows

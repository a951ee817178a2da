from .clip_score import ClipScore as ClipScore
from .registry import CURATE_STEPS as CURATE_STEPS

from .clip_score import ClipScore as ClipScore
from .embedding_duplicates import EmbeddingDuplicates as EmbeddingDuplicates
from .mask_columns import MaskPairs as MaskPairs
from .quality import QualityFilter as QualityFilter
from .registry import CURATE_STEPS as CURATE_STEPS
from .safety import SafetyFlag as SafetyFlag
from .text_spotting import Parrot as Parrot

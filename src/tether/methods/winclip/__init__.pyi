from .detector import WinclipDetector as WinclipDetector
from .detector import few_shot_map as few_shot_map
from .detector import zero_shot_map as zero_shot_map
from .token_windows import window_embeddings as window_embeddings
from .token_windows import window_masks as window_masks

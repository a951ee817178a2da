from .distill import ProclipStep as ProclipStep
from .distill import swap_text as swap_text
from .embedder_tower import EmbedderTexts as EmbedderTexts
from .embedder_tower import TextEmbedder as TextEmbedder
from .recipe import SwapText as SwapText

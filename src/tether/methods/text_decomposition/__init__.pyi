from .ablation import embeddings_from_texts as embeddings_from_texts
from .ablation import mean_ablate as mean_ablate
from .ablation import replace_heads as replace_heads
from .segmenter import PartsSegmenter as PartsSegmenter

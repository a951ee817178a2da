from .concepts import concept_frequency as concept_frequency
from .concepts import names_of as names_of
from .concepts import trim_tail as trim_tail
from .concepts import words_of as words_of
from .cosine_head import CosineHead as CosineHead
from .neural_collapse import NeuralCollapse as NeuralCollapse
from .neural_collapse import neural_collapse as neural_collapse

from .pipelines import guided_pipeline as guided_pipeline
from .pipelines import negative_states as negative_states

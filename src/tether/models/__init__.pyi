from .blocks.trace import Trace as Trace
from .config import ModelConfig as ModelConfig
from .dual import Clip as Clip
from .presets import configure as configure
from .presets import create as create
from .registry import MODELS as MODELS

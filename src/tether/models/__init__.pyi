from .presets import configure as configure
from .presets import create as create
from .registry import MODELS as MODELS
from .towers.blocks.trace import Trace as Trace
from .towers.clip import Clip as Clip
from .towers.config import ModelConfig as ModelConfig

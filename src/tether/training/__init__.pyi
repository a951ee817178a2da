from .config import RunConfig as RunConfig
from .config import load_config as load_config
from .result import Result as Result
from .run import train as train

from .prune import PRUNERS as PRUNERS
from .quantise import QUANTISERS as QUANTISERS
from .registry import COMPRESSORS as COMPRESSORS
from .registry import REPAIRS as REPAIRS

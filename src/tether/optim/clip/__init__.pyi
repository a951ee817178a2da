from .base import Clipper as Clipper
from .base import NonFiniteGradientError as NonFiniteGradientError
from .base import TensorClipper as TensorClipper
from .base import UniformClipper as UniformClipper
from .global_norm import GlobalNorm as GlobalNorm
from .global_norm import NoClip as NoClip
from .registry import CLIPPERS as CLIPPERS

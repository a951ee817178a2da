from .degrade import DEGRADATIONS as DEGRADATIONS
from .degrade import LADDERS as LADDERS
from .degrade import LEVELS as LEVELS
from .degrade import Degradation as Degradation
from .degrade import degrade as degrade

from .spurious import SpuriousAccuracy as SpuriousAccuracy
from .spurious import SpuriousPairs as SpuriousPairs
from .spurious import SpuriousWorld as SpuriousWorld
from .spurious import theory_accuracy as theory_accuracy
from .typos import TypoRobustness as TypoRobustness
from .typos import typo_robustness as typo_robustness

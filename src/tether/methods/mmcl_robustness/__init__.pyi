from .loss import linear_mmcl_loss as linear_mmcl_loss
from .solution import LinearMMCL as LinearMMCL
from .spurious import SpuriousAccuracy as SpuriousAccuracy
from .spurious import SpuriousPairs as SpuriousPairs
from .spurious import SpuriousWorld as SpuriousWorld
from .spurious import theory_accuracy as theory_accuracy

from .dense_probe import DenseScores as DenseScores
from .dense_probe import dense_probe as dense_probe
from .loss import PseudoLabelLoss as PseudoLabelLoss
from .loss import depth_loss as depth_loss
from .loss import normal_loss as normal_loss
from .loss import segmentation_loss as segmentation_loss
from .term import PseudoLabelTerm as PseudoLabelTerm

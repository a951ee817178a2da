from .anisotropy import anisotropy as anisotropy
from .anisotropy import self_similarity as self_similarity
from .clipped_encoder import ClippedDualEncoder as ClippedDualEncoder
from .clipped_encoder import ClippedEncoder as ClippedEncoder
from .outlier_clipper import OutlierClipper as OutlierClipper
from .position_probe import PositionProbe as PositionProbe
from .position_probe import position_probe as position_probe

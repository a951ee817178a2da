from .anomalyclip import AnomalyclipDetector as AnomalyclipDetector
from .detector import Detector as Detector
from .detector import ImageFeatures as ImageFeatures
from .detector import Learning as Learning
from .patches import PatchesDetector as PatchesDetector
from .registry import DETECTORS as DETECTORS

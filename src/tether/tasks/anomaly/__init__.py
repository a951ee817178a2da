"""Which images have a defect, and where: from words, from a few good images, or from both."""

from __future__ import annotations

from collections.abc import Mapping

from tether.tasks.anomaly.anomalyclip import AnomalyclipDetector
from tether.tasks.anomaly.clap import ClapDetector
from tether.tasks.anomaly.detector import Detector, ImageFeatures, Learning
from tether.tasks.anomaly.patches import PatchesDetector
from tether.tasks.anomaly.winclip import WinclipDetector

DETECTORS: Mapping[str, type[Detector]] = {
    "winclip": WinclipDetector,
    "patches": PatchesDetector,
    "anomalyclip": AnomalyclipDetector,
    "clap": ClapDetector,
}
"""Every detector of defects by name."""

__all__ = [
    "DETECTORS",
    "AnomalyclipDetector",
    "ClapDetector",
    "Detector",
    "ImageFeatures",
    "Learning",
    "PatchesDetector",
    "WinclipDetector",
]

"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.tasks.anomaly.detector import Detector

DETECTORS: Registry[Detector] = Registry(
    "detectors",
    {
        "patches": "tether.tasks.anomaly.patches:PatchesDetector",
        "anomalyclip": "tether.tasks.anomaly.anomalyclip:AnomalyclipDetector",
    },
)
"""Every detector of defects by name."""

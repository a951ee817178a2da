"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.tasks.anomaly.detector import Detector

DETECTORS: Registry[Detector] = Registry(
    "detectors",
    {
        "winclip": "tether.tasks.anomaly.winclip:WinclipDetector",
        "patches": "tether.tasks.anomaly.patches:PatchesDetector",
        "anomalyclip": "tether.tasks.anomaly.anomalyclip:AnomalyclipDetector",
        "adaptclip": "tether.tasks.anomaly.adaptclip:AdaptclipDetector",
        "clap": "tether.tasks.anomaly.clap:ClapDetector",
    },
)
"""Every detector of defects by name."""

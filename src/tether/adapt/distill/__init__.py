"""What one model learns from another."""

from tether.adapt.distill.clipself import NoRegionWarning, SelfDistillStep
from tether.adapt.distill.dclip import DclipStep
from tether.adapt.distill.farslip import LocalGlobalStep
from tether.adapt.distill.featsharp import SharpenStep, Views, consistency, draw_views, fit_statistics_
from tether.adapt.distill.region_teacher import (
    RegionPairs,
    RegionTargets,
    fit_region_teacher,
    region_pairs,
    region_targets,
)
from tether.adapt.distill.swap import ProclipStep, swap_text
from tether.adapt.distill.text import Distilled, distil_text

__all__ = [
    "DclipStep",
    "Distilled",
    "LocalGlobalStep",
    "NoRegionWarning",
    "ProclipStep",
    "RegionPairs",
    "RegionTargets",
    "SelfDistillStep",
    "SharpenStep",
    "Views",
    "consistency",
    "distil_text",
    "draw_views",
    "fit_region_teacher",
    "fit_statistics_",
    "region_pairs",
    "region_targets",
    "swap_text",
]

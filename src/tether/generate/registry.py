"""Every maker of images from texts by its name."""

from __future__ import annotations

from collections.abc import Mapping

from tether.generate.autoregress.generator import VarGenerator
from tether.generate.diffuse.text_diffusion import TextDiffusion
from tether.generate.text_generator import TextGenerator

GENERATORS: Mapping[str, type[TextGenerator]] = {"diffusion": TextDiffusion, "scales": VarGenerator}
"""By the name in a configuration; ``model``, the encoder that reads texts, is given by code."""

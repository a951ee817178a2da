"""Every maker of images from texts by its name."""

from __future__ import annotations

from tether.core.registry import Registry
from tether.generate.text_generator import TextGenerator

GENERATORS: Registry[TextGenerator] = Registry(
    "generators",
    {
        "diffusion": "tether.generate.diffuse.text_diffusion:TextDiffusion",
        "scales": "tether.generate.autoregress.generator:VarGenerator",
    },
)
"""By the name in a configuration; ``model``, the encoder that reads texts, is given by code."""

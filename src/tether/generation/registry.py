"""Every maker of images from texts by its name."""

from __future__ import annotations

from tether.core.registry import Registry
from tether.generation.text_generator import TextGenerator

GENERATORS: Registry[TextGenerator] = Registry(
    "generators",
    {
        "diffusion": "tether.generation.diffuse.text_diffusion:TextDiffusion",
        "scales": "tether.generation.autoregress.generator:VarGenerator",
    },
)
"""By the name in a configuration; ``model``, the encoder that reads texts, is given by code."""

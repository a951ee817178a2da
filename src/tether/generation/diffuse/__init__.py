"""Diffusion: images from noise told by texts, and what steers them, here and in the pipelines of diffusers."""

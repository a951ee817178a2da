"""A pipeline of diffusers of Stable Diffusion's kind as editors take a diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.types import Features
from tether.generation.diffuse.sampler import Objective, Sampler

_PARTS = ("unet", "vae", "tokenizer", "text_encoder", "scheduler")


class PipelineDiffusion(Sampler):
    """Reads texts, codes images and samples with the parts of a pipeline, which stays as it is.

    Example:
        >>> from tether.methods.cut_and_paste import PipelineDiffusion, VideoEditor
        >>> def edited(pipe, frames):  # pipe = diffusers.StableDiffusionPipeline.from_pretrained(...)
        ...     editor = VideoEditor(PipelineDiffusion(pipe), steps=50)
        ...     return editor.edit(frames, "a cat on grass", "a dog on grass", word="cat").frames
    """

    def __init__(self, pipe: Any) -> None:
        """Look at a pipeline.

        Args:
            pipe: of diffusers, with a UNet that takes one text's states, an auto-encoder, CLIP's tokenizer and text
                encoder, and a scheduler that knows ``alphas_cumprod``.

        Raises:
            UnsupportedModelError: a part is missing, or the scheduler's ``prediction_type`` is another one.
        """
        missing = [name for name in _PARTS if getattr(pipe, name, None) is None]
        if not missing and not isinstance(getattr(pipe.scheduler, "alphas_cumprod", None), Tensor):
            missing = ["scheduler.alphas_cumprod"]
        if missing:
            raise UnsupportedModelError(
                f"pipe: expected a pipeline of Stable Diffusion's kind, {type(pipe).__name__} has no {missing[0]}"
            )
        objective = pipe.scheduler.config.prediction_type
        if objective not in ("epsilon", "v_prediction"):
            raise UnsupportedModelError(f"pipe: expected prediction_type epsilon or v_prediction, got {objective!r}")
        self.pipe, self.unet = pipe, pipe.unet
        self.objective = cast(Objective, objective)
        self.abar = pipe.scheduler.alphas_cumprod
        self.fold = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
        side = int(pipe.unet.config.sample_size) * self.fold
        self.size = (side, side)

    @property
    def device(self) -> torch.device:
        """Where its UNet is."""
        return next(self.unet.parameters()).device

    def ids(self, text: str) -> list[int]:
        """Ids of a text with those before and after it.

        Raises:
            InputError: more than the text encoder reads.
        """
        ids, most = self.pipe.tokenizer(text).input_ids, self.pipe.tokenizer.model_max_length
        if len(ids) > most:
            raise InputError(f"text: expected at most {most} tokens, got {len(ids)}: {text!r:.200}")
        return list(ids)

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> Features:
        """States of the tokens of texts, padded as the pipeline pads them."""
        for text in texts:
            self.ids(text)
        given = self.pipe.tokenizer(
            list(texts), padding="max_length", max_length=self.pipe.tokenizer.model_max_length, return_tensors="pt"
        )
        states = self.pipe.text_encoder(given.input_ids.to(self.device))[0]
        return Features(states.mean(dim=1), states, torch.ones_like(given.input_ids, dtype=torch.bool).to(self.device))

    def check_images(self, images: Tensor, texts: Sequence[str]) -> None:
        """Refuse what is no batch of images with a text each, of sides that the auto-encoder can halve.

        Raises:
            InputError: another shape, no floats, or another number of texts.
        """
        fits = images.ndim == 4 and images.shape[1] == 3 and not any(one % self.fold for one in images.shape[2:])
        if not fits or not images.is_floating_point() or len(images) != len(texts) or not images.numel():
            raise InputError(
                f"images: expected ({len(texts)}, 3, h, w) floats in -1 to 1 with sides that {self.fold} divides, got "
                f"{tuple(images.shape)} of {images.dtype}"
            )

    @torch.no_grad()
    def to_samples(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        """Latents of images, the mean of the auto-encoder's."""
        vae = self.pipe.vae
        found = vae.encode(images.to(self.device, next(vae.parameters()).dtype)).latent_dist.mean
        return (found - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    @torch.no_grad()
    def to_images(self, samples: Float[Tensor, "b c i j"]) -> Float[Tensor, "b 3 h w"]:
        """Images of latents."""
        vae = self.pipe.vae
        return vae.decode(samples / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)).sample

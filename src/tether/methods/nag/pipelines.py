"""A negative prompt for a pipeline of diffusers, in words."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError, refusing
from tether.generation.diffuse.nag import NAG
from tether.generation.diffuse.nag_guidance import NAGGuidance


def guided_pipeline(
    pipe: Any,
    negative: str | Sequence[str],
    settings: NAG | None = None,
    *,
    rows: Literal["all", "last half"] = "all",
    **given: Any,
) -> NAGGuidance:
    """A block inside which a pipeline of diffusers is led away from a negative prompt.

    Args:
        pipe: such as a ``StableDiffusionPipeline`` or a ``FluxPipeline``; its UNet or transformer is guided.
        negative: one text, or one for each row of the pipeline's batches.
        settings: of the guidance; None for ``NAG()``.
        rows: ``last half`` beside classifier-free guidance of the pipeline's own.
        given: further arguments of ``pipe.encode_prompt``, such as ``max_sequence_length``; give what the call gets.

    Raises:
        UnsupportedModelError: no pipeline with a network and ``encode_prompt``.
        InputError: an empty text.

    Example:
        >>> from tether.generation import NAG
        >>> from tether.methods.nag import guided_pipeline
        >>> def draw(pipe, text):  # pipe = diffusers.FluxPipeline.from_pretrained(...)
        ...     with guided_pipeline(pipe, "glasses", NAG(scale=5.0)):
        ...         return pipe(text, num_inference_steps=4, guidance_scale=0.0).images[0]
    """
    network = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    if network is None:
        raise UnsupportedModelError(f"pipe: expected a pipeline with a UNet or transformer, got {type(pipe).__name__}")
    return NAGGuidance(network, negative_states(pipe, negative, **given), settings, rows=rows)


@torch.no_grad()
def negative_states(pipe: Any, negative: str | Sequence[str], **given: Any) -> Float[Tensor, "b n w"]:
    """Token states of texts as the network of a pipeline takes them.

    Args:
        pipe: a pipeline of diffusers.
        negative: one text or several.
        given: further arguments of ``pipe.encode_prompt``.

    Raises:
        UnsupportedModelError: no pipeline with ``encode_prompt``.
        InputError: an empty text, or the pipeline refuses it.
    """
    texts = [negative] if isinstance(negative, str) else list(negative)
    if not texts or not all(text.strip() for text in texts):
        raise InputError(f"negative: expected at least one text, none of them empty, got {negative!r:.200}")
    encode = getattr(pipe, "encode_prompt", None)
    if encode is None:
        raise UnsupportedModelError(f"pipe: expected a pipeline with encode_prompt, got {type(pipe).__name__}")
    usual = {
        "prompt_2": None,
        "prompt_3": None,
        "device": getattr(pipe, "_execution_device", None),
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
    }
    asked = inspect.signature(encode).parameters
    with refusing("negative: the pipeline could not read it"):
        found = encode(prompt=texts, **{**{name: usual[name] for name in usual if name in asked}, **given})
    return found[0] if isinstance(found, tuple | list) else found

"""What the recipe ``quality`` has trained by: prompts and their embeddings, on the model that it tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.adaptation.heads.head import Head
from tether.core.errors import InputError
from tether.core.ranges import PositiveSingle, checked
from tether.models.texts.prompt_quality import PROMPTS, SCALE, checked_prompts, prompt_quality


@final
class QualityHead(Head):
    """One score of an image, 0 to 1: how near it is to good prompts against bad ones. It names no classes.

    The prompts' embeddings are kept with it, so the model's text side may change. ``tether quality --head`` takes it.

    Source: QualiCLIP (arXiv 2403.11176); the recipe ``quality`` trains the image side it is for.

    Attributes:
        prompts: good and bad in turn.
        text: (2p, d) their embeddings.
        scale: multiplier of cosines.
    """

    kind = "quality"

    @checked
    def __init__(
        self, text: Float[Tensor, "t d"], *, prompts: Sequence[str] = PROMPTS, scale: PositiveSingle = SCALE
    ) -> None:
        """Take what was trained by.

        Args:
            text: embeddings of the prompts.
            prompts: good and bad in turn.
            scale: multiplier of cosines.

        Raises:
            InputError: an odd number of prompts, other rows than prompts, or numbers that are not finite.
        """
        super().__init__(["quality"], least=1)
        self.prompts, self.scale = checked_prompts(prompts), scale
        if text.ndim != 2 or len(text) != len(self.prompts) or not text.shape[1]:
            raise InputError(f"quality head: expected ({len(self.prompts)}, d) text, got {tuple(text.shape)}")
        self.text = text.detach().float().cpu()
        self.check_numbers()

    @property
    def dim(self) -> int:
        """See Head."""
        return self.text.shape[1]

    def scores(self, image: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
        """See Head; the one column is the score."""
        return prompt_quality(image, self.text, scale=self.scale)[:, None]

    def arrays(self) -> dict[str, np.ndarray]:
        """See Head."""
        return {"text": self.text.numpy()}

    def settings(self) -> dict[str, Any]:
        """See Head."""
        return {"prompts": list(self.prompts), "scale": self.scale}

    @classmethod
    def restore(
        cls, arrays: Mapping[str, np.ndarray], *, classes: Sequence[str], settings: Mapping[str, Any]
    ) -> QualityHead:
        """See Head."""
        del classes
        text = torch.from_numpy(np.array(arrays["text"]))
        return cls(text, prompts=settings["prompts"], scale=settings["scale"])

"""AdaptCLIP's adapters as a head of ``tether adapt``: which images have a defect, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.adaptation.heads.defect_texts import CLASSES, check_classes
from tether.adaptation.heads.head import Head, HeadUse
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.methods.adaptclip.adapters import AdaptClip, TrainedAdapters
from tether.models.config_check import mapping
from tether.models.features.value_attention import ValueRows


@final
class AnomalyAdaptersHead(Head):
    """Adapters for ``tether detect --with adaptclip --head``, for other things than those they were trained on.

    Whole images are named by what the adapters say with texts alone; good images of a thing are no part of a head, as
    they belong to one thing.

    Source: AdaptCLIP (arXiv 2505.09926); the recipe ``anomaly-adapters`` trains it.

    Attributes:
        inner: the adapters, and how they read images.
    """

    kind = "anomaly_adapters"
    verb, recipe = "detect", "anomaly-adapters"

    def __init__(self, trained: TrainedAdapters) -> None:
        """Take what was learnt, to the CPU.

        Raises:
            InputError: numbers that are not finite.
        """
        super().__init__(CLASSES)
        trained.adapters.float().cpu()
        self.inner = trained
        self.check_numbers()

    @property
    def dim(self) -> int:
        """See Head."""
        return self.inner.adapters.fixed.shape[1]

    def reader(self, model: DualEncoder) -> ValueRows:
        """See Head; it reads whole images alone."""
        return self.inner.reader(model, images=True)

    @torch.no_grad()
    def scores(self, image: Float[Tensor, "n d"]) -> Float[Tensor, "n 2"]:
        """See Head; logarithms of the mean probabilities."""
        said = [logits.softmax(dim=1) for logits in self.inner.adapters.image_logits(image)]
        return torch.stack(said).mean(dim=0).log()

    def use(self) -> HeadUse:
        """See Head."""
        return HeadUse("adaptclip", {"head": self.inner})

    def arrays(self) -> dict[str, np.ndarray]:
        """See Head."""
        return {name: value.numpy() for name, value in self.inner.adapters.state_dict().items()}

    def settings(self) -> dict[str, Any]:
        """See Head."""
        return {"adapters": self.inner.adapters.settings, "reads": self.inner.settings()}

    @classmethod
    def restore(
        cls, arrays: Mapping[str, np.ndarray], *, classes: Sequence[str], settings: Mapping[str, Any]
    ) -> AnomalyAdaptersHead:
        """See Head."""
        check_classes(classes)
        own = {name: torch.from_numpy(np.array(one)) for name, one in arrays.items()}
        try:
            with torch.device("meta"):  # nothing is allocated for what a file merely says
                made = AdaptClip(torch.empty(own["fixed"].shape), **settings["adapters"])
            made.load_state_dict(own, assign=True)
        except RuntimeError as error:
            raise InputError(f"anomaly adapters: {error!s:.300}") from error
        return cls(TrainedAdapters(made, **mapping(settings["reads"], where="reads")))

"""Patches that the caption does not speak of: the attentive masking of SyCoCa."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Decay, Share, checked
from tether.core.types import Features
from tether.methods.sycoca.masked_patches import patch_scores
from tether.models.towers.patch_selection import TokenChoice, check_scores
from tether.models.towers.positions import Pair
from tether.training.steps.views import MODEL, ImageView, View

Select = Literal["attentive", "random", "none"]


class UntoldTokens(TokenChoice):
    """The patches that the caption does not speak of; those that are most similar to it are hidden, to be rebuilt.

    The masking of SyCoCa (arXiv 2401.02137); share and direction are our reading, as no code was found. Of equal scores
    the first patch is hidden.

    Example:
        >>> import torch
        >>> from tether.methods.sycoca import UntoldTokens
        >>> UntoldTokens(hide=0.5)(torch.tensor([[0.1, 0.9, 0.5, 0.5]]), grid=(2, 2)).tolist()
        [[0, 3]]
    """

    scored = "views"

    @checked
    def __init__(
        self,
        *,
        hide: Decay = 0.5,
        select: Select = "attentive",
        random_first: Share = 0.1,
        shown: str = "image",
        said: str = "text",
    ) -> None:
        """Take the settings.

        Args:
            hide: share of the patches; ``int(n * hide)`` are hidden.
            select: ``attentive`` goes by the scores, ``random`` hides any, ``none`` none.
            random_first: first share of a run that hides any, while a text says nothing of a patch yet.
            shown: the step's view of the whole images, with ``want: tokens``, whose patches are scored.
            said: its view of the captions.
        """
        self.hide, self.select, self.random_first = 0.0 if select == "none" else hide, select, random_first
        self.views = self.shown, self.said = shown, said

    def check_views(self, view: str, views: Mapping[str, View]) -> None:
        """See TokenChoice: the images whole and as large, and one caption each, all read by the model."""
        where, hidden = f"step: views: {view}: patches", views[view]
        shown, said = views.get(self.shown), views.get(self.said)
        assert isinstance(hidden, ImageView)  # it chooses patches
        alike = isinstance(shown, ImageView) and (shown.source, shown.size) == (hidden.source, hidden.size)
        if not isinstance(shown, ImageView) or not alike or shown.choice is not None or shown.want != "tokens":
            expected = "a view of the same images with all patches and want: tokens"
            raise InputError(f"{where}: shown: expected {expected}, got {self.shown!r}")
        if shown.crop < 1 or hidden.crop < 1:
            raise InputError(f"{where}: untold: expected views without crop")
        if said is None or said.side != "text" or said.times != 1:
            raise InputError(f"{where}: said: expected a view of texts, got {self.said!r}")
        if {shown.encoder, said.encoder, hidden.encoder} != {MODEL}:
            raise InputError(f"{where}: untold: expected views that the model reads")

    def scored_at(self, step: int, *, steps: int) -> bool:
        """See TokenChoice; noise hides at the beginning of a run."""
        return self.select == "attentive" and step >= round(steps * self.random_first)

    def scores(self, features: Mapping[str, Features]) -> Float[Tensor, "b n"]:
        """See TokenChoice: the cosine of each patch and the caption."""
        tokens = features[self.shown].tokens
        assert tokens is not None  # the view wants them
        return patch_scores(tokens, features[self.said].pooled)

    def count(self, grid: Pair) -> int:
        """See TokenChoice."""
        return grid[0] * grid[1] - int(grid[0] * grid[1] * self.hide)

    def __call__(self, scores: Float[Tensor, "b n"], *, grid: Pair) -> Int[Tensor, "b k"]:
        """See TokenChoice; the largest scores are hidden."""
        tokens = check_scores(scores, grid).shape[1]
        order = scores.argsort(dim=1, descending=True, stable=True)
        return order[:, tokens - self.count(grid) :].sort(dim=1).values

"""A ranking adapter as a head: scores of images by the texts that it has learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.adaptation.heads.head import Head
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Positive, checked
from tether.models.features.token_rows import TokenRows
from tether.models.heads.ranking_adapter import RankingAdapter

AT_ONCE = 64
"""Images in one forward of the adapter."""


@final
class OrderHead(Head):
    """One score for each text: how high an image is by it, in the unit of the examples. It names no classes.

    It reads rows of ``models.features.token_rows.TokenRows``. The texts' tokens are kept with it, so the model's text
    side may change.

    Source: arXiv 2412.06760; the recipe ``order`` trains it.
    """

    kind = "order"

    @checked
    def __init__(
        self,
        adapter: RankingAdapter,
        *,
        tokens: Float[Tensor, "k l d"],
        mask: Bool[Tensor, "k l"],
        texts: Sequence[str],
        patches: int,
        scale: Positive = 1.0,
    ) -> None:
        """Take what was learnt.

        Args:
            adapter: trained.
            tokens: of the texts.
            mask: True for words.
            texts: k different ones.
            patches: of an image.
            scale: multiplier of the adapter's scores.

        Raises:
            InputError: shapes that do not fit, or numbers that are not finite.
        """
        super().__init__(texts, least=1)
        shapes = (len(self.classes), tokens.shape[1] if tokens.ndim == 3 else 0, adapter.dim)
        if tokens.shape != shapes or mask.shape != shapes[:2] or not all(shapes) or patches < 1:
            raise InputError(f"order head: expected {shapes} tokens and their mask, got {tuple(tokens.shape)}")
        values = [*adapter.state_dict().values(), tokens]
        if not all(torch.isfinite(value).all() for value in values):
            raise InputError("order head: expected finite numbers, got NaN or infinity")
        self.adapter = adapter.float().cpu().eval().requires_grad_(False)
        self.tokens, self.mask, self.patches, self.scale = tokens.float().cpu(), mask.cpu(), patches, scale

    @property
    def dim(self) -> int:
        """Length of the rows of tokens."""
        return self.patches * self.adapter.dim

    def reader(self, model: DualEncoder) -> DualEncoder:
        """See Head."""
        return TokenRows(model)

    @torch.no_grad()
    def scores(self, image: Float[Tensor, "n w"]) -> Float[Tensor, "n k"]:
        """See Head; a column for each text."""
        columns = []
        for tokens, mask in zip(self.tokens.split(1), self.mask.split(1), strict=True):
            parts = image.unflatten(1, (self.patches, self.adapter.dim)).split(AT_ONCE)
            columns.append(torch.cat([self.adapter.score(part, tokens, text_mask=mask) for part in parts]))
        return self.scale * torch.cat(columns, dim=1)

    def names_none(self) -> str:
        """See Head."""
        return f"orders images by {', '.join(self.classes)} and names none; use tether rank --head"

    def arrays(self) -> dict[str, np.ndarray]:
        """See Head."""
        weights = {f"adapter.{name}": value.numpy() for name, value in self.adapter.state_dict().items()}
        return weights | {"tokens": self.tokens.numpy(), "mask": self.mask.numpy()}

    def settings(self) -> dict[str, Any]:
        """See Head."""
        own = self.adapter
        made = {"n_layers": len(own.seen), "n_heads": own.attention.heads, "n_rank_tokens": len(own.rank_tokens)}
        prompts = "scalar" if own.text_tokens.shape[1] == 1 else "vector"
        made |= {"dim": own.dim, "n_text_tokens": len(own.text_tokens), "prompts": prompts}
        return {"adapter": made, "patches": self.patches, "scale": self.scale}

    @classmethod
    def restore(
        cls, arrays: Mapping[str, np.ndarray], *, classes: Sequence[str], settings: Mapping[str, Any]
    ) -> OrderHead:
        """See Head."""
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        tokens, mask = tensors.pop("tokens"), tensors.pop("mask")
        try:
            with torch.device("meta"):  # nothing is allocated for what a file merely says
                adapter = RankingAdapter(**settings["adapter"])
            adapter.load_state_dict({name.removeprefix("adapter."): one for name, one in tensors.items()}, assign=True)
        except RuntimeError as error:
            raise InputError(f"order head: {error!s:.300}") from error
        return cls(
            adapter,
            tokens=tokens,
            mask=mask,
            texts=classes,
            patches=settings["patches"],
            scale=settings["scale"],
        )

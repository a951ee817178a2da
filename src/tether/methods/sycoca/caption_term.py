"""A caption told from an image's embedding or from its patches, as a term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import Decay, Share, checked
from tether.core.types import Loss
from tether.methods.sycoca.decoder import CausalDecoder
from tether.methods.sycoca.masked_patches import choose_patches, patch_scores
from tether.methods.sycoca.step_noise import step_noise
from tether.methods.sycoca.untold_tokens import Select
from tether.training.terms.term import SeenView, Term, TermInputs


class CaptionTerm(Term):
    """Cross-entropy of each caption's tokens, which a decoder tells one after another from the image."""

    @checked
    def __init__(
        self,
        *,
        head: str = "decoder",
        image: str = "image",
        text: str = "text",
        look: Literal["embedding", "tokens"] = "embedding",
        drop: Decay = 0.0,
        select: Select = "attentive",
        random_first: Share = 0.1,
        steps: int = 1,
        seed: int = 0,
    ) -> None:
        """Take the views.

        Args:
            head: a ``causal_decoder``.
            image: view that is told; of ``look: tokens`` it has ``want: tokens``.
            text: view of the captions.
            look: what the decoder sees: the embedding, or patches, for which it has ``look: tokens``, too.
            drop: share of the patches that it does not see, see ``methods.sycoca.masked_patches.attentive_select``.
            select: ``attentive`` keeps those that are most similar to the text, ``random`` any, ``none`` all.
            random_first: first share of the run that keeps any, while a text says nothing of a patch yet.
            steps: length of the run.
            seed: of what is kept at random.

        Raises:
            InputError: patches dropped of an embedding.
        """
        if look == "embedding" and drop:
            raise InputError(f"drop: an embedding has no patches to drop; expected look: tokens, or 0, got {drop}")
        self._head, self._image, self._text = head, image, text
        self.views, self.heads = {"image": image, "text": text}, {"head": head}
        self._look, self._drop, self._select, self._seed = look, drop, select, seed
        self._attentive_from = round(steps * random_first)

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term.

        Raises:
            InputError: a decoder that looks at something else, or a view without patches.
        """
        image, text = seen.views[self._image], seen.views[self._text]
        decoder = cast(CausalDecoder, seen.heads[self._head])
        if (decoder.look == "tokens") != (self._look == "tokens"):
            wanted = "tokens" if self._look == "tokens" else "prefix"
            raise InputError(f"caption: {self._head}: expected look: {wanted}, got {decoder.look}")
        told = image.features.pooled if self._look == "embedding" else self._kept(image, text, step, gather)
        total = decoder(told, text.rows)
        tokens = gather((text.rows[:, 1:] != 0).sum()[None]).sum() / gather.world
        return (Loss(total / tokens),)

    def _kept(self, image: SeenView, text: SeenView, step: int, gather: Gather) -> Tensor:
        """(b, k, d) the patches that the decoder sees."""
        tokens = image.features.tokens
        if tokens is None:
            raise InputError(f"caption: expected want: tokens in the view {self._image!r}")
        count = tokens.shape[1] - int(tokens.shape[1] * self._drop)
        if self._select == "none" or count == tokens.shape[1]:
            return tokens
        if self._select == "random" or step < self._attentive_from:
            salt = f"told patches of {self._image}"
            score = step_noise(*tokens.shape[:2], step=step, seed=self._seed, salt=salt, gather=gather).to(
                tokens.device
            )
        else:
            score = patch_scores(tokens, text.features.pooled)
        keep = choose_patches(score, drop=self._drop).keep
        places = (~keep).int().argsort(dim=1, stable=True)[:, :count]
        return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))

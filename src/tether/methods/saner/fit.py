"""SANER's layer fitted on captions alone, and a model whose neutral texts go through it (arXiv 2408.10202)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.encoder_wrapper import EncoderAround
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder, Tokenizer
from tether.core.ranges import Count, NonNegative, Positive, checked
from tether.core.state_file import read_state, wide_array, write_state
from tether.core.types import Features
from tether.methods.saner.debiaser import WEIGHTS, SanerLayer, Spread, saner_loss
from tether.methods.saner.lexicon import AttributeLexicon
from tether.models.embed import encode_texts
from tether.models.tokenizer import LongText

_FORMAT = "tether-saner-2"


@dataclass(frozen=True)
class SanerFit:
    """A fitted layer and what it was fitted on.

    Attributes:
        layer: in eval mode.
        used: captions that could be rewritten.
        skipped: captions in which nothing can carry the attribute.
        loss: mean total loss of each epoch.
        debias: mean debiasing term of each epoch.
    """

    layer: SanerLayer
    used: int
    skipped: int
    loss: tuple[float, ...]
    debias: tuple[float, ...]


@checked
def fit_saner(
    model: DualEncoder,
    *,
    texts: Sequence[str],
    lexicons: Sequence[AttributeLexicon],
    images: Float[Tensor, "n d"] | None = None,
    hidden: Count | None = None,
    weights: tuple[NonNegative, NonNegative, NonNegative] = WEIGHTS,
    spread: Spread = "population",
    epochs: Count = 5,
    batch_size: Count = 128,
    lr: Positive = 1e-3,
    seed: int = 0,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> SanerFit:
    """Fit a layer on the captions of a training set; no labels of the attribute are needed.

    Both towers stay frozen: every text and its versions are encoded once, and only the layer learns, with Adam. A
    caption that one of the lexicons cannot rewrite is skipped and counted.

    Source: arXiv 2408.10202. Its learning rate, batch and number of epochs are not known; these are ours.

    Args:
        model: any model that ``tether.load`` gives.
        texts: n captions; those that name the attribute are made neutral first.
        lexicons: one for each attribute.
        images: (n, d) embeddings of their images, as ``models.embed.encode_images`` gives them; None leaves the
            contrastive term out.
        hidden: width of the layer.
        weights: of debiasing, reconstruction and contrast.
        spread: as in ``saner_loss``.
        epochs: passes over the captions.
        batch_size: captions in one step.
        lr: learning rate.
        seed: of the layer's start and the order of the captions.
        on_progress: called with (steps done, steps).

    Raises:
        InputError: no lexicon, no caption that can be rewritten, or as many images as there are not.
    """
    if not lexicons:
        raise InputError("lexicons: expected at least one, got none")
    if images is not None and len(images) != len(texts):
        raise InputError(f"images: expected one for each of {len(texts)} texts, got {len(images)}")
    neutral, versions, kept = _rewritten(texts, lexicons)
    if not kept:
        raise InputError(f"none of {len(texts)} texts holds a word that can carry the attribute")
    h = encode_texts(model, neutral)
    groups = [
        torch.stack([encode_texts(model, [made[place] for made in several]) for place in range(len(several[0]))], dim=1)
        for several in versions
    ]
    seen = None if images is None else images.float().cpu()[kept]
    scale = float(model.logit_scale.detach())
    generator = torch.Generator().manual_seed(hash_int("saner", seed=seed) >> 1)
    layer = SanerLayer(model.dim, hidden=hidden, generator=generator)
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr)
    steps = -(-len(h) // batch_size)
    losses, terms = [], []
    for epoch in range(epochs):
        total = debias = 0.0
        order = torch.randperm(len(h), generator=generator)
        for number, some in enumerate(order.split(batch_size)):
            found = saner_loss(
                layer(h[some]),
                h=h[some],
                attributes=[group[some] for group in groups],
                image=None if seen is None else seen[some],
                logit_scale=scale,
                weights=weights,
                spread=spread,
            )
            optimizer.zero_grad()
            found.total.backward()
            optimizer.step()
            total += len(some) * float(found.total.detach())
            debias += len(some) * float(found.debias)
            if on_progress is not None:
                on_progress(epoch * steps + number + 1, epochs * steps)
        losses.append(total / len(h))
        terms.append(debias / len(h))
    layer.eval().requires_grad_(False)
    return SanerFit(layer, len(h), len(texts) - len(h), tuple(losses), tuple(terms))


def _rewritten(
    texts: Sequence[str], lexicons: Sequence[AttributeLexicon]
) -> tuple[list[str], list[list[tuple[str, ...]]], list[int]]:
    """Texts neutral in all attributes, the versions of each by attribute, and which texts they are."""
    neutral: list[str] = []
    versions: list[list[tuple[str, ...]]] = [[] for _ in lexicons]
    kept: list[int] = []
    for place, text in enumerate(texts):
        plain = text
        for lexicon in lexicons:
            plain = lexicon.neutralize(plain)
        made = [lexicon.versions(plain) for lexicon in lexicons]
        found = [tuple(one.values()) for one in made if one is not None]
        if len(found) == len(lexicons):
            neutral.append(plain)
            kept.append(place)
            for several, one in zip(versions, found, strict=True):
                several.append(one)
    return neutral, versions, kept


class GatedTokenizer:
    """A tokenizer that remembers which of its texts name an attribute.

    Only those are remembered, by eight bytes each. Ids that another tokenizer made are taken for neutral texts.
    """

    def __init__(self, tokenizer: Tokenizer, *, lexicons: Sequence[AttributeLexicon]) -> None:
        """Args: tokenizer: text to ids. lexicons: what counts as naming an attribute."""
        self.tokenizer = tokenizer
        self.lexicons = tuple(lexicons)
        self.context_length, self.vocab_size = tokenizer.context_length, tokenizer.vocab_size
        self._explicit: set[int] = set()

    def __call__(self, texts: Sequence[str], *, long_text: LongText = "cut") -> Int[Tensor, "b l"]:
        """Ids as the tokenizer inside gives them."""
        ids = self.tokenizer(texts, long_text=long_text)
        for text, row in zip(texts, ids, strict=True):
            if any(lexicon.mentions(text) for lexicon in self.lexicons):
                self._explicit.add(_name(row.tolist()))
        return ids

    def explicit(self, ids: Int[Tensor, "b l"]) -> Tensor:
        """(b,) True where the text of these ids names an attribute, on the CPU."""
        return torch.tensor([_name(row) in self._explicit for row in ids.tolist()], dtype=torch.bool)


def _name(row: list[int]) -> int:
    while row and row[-1] == 0:  # what follows the end token is padding of any length
        row = row[:-1]
    return hash_int(",".join(map(str, row)), salt="tokens")


@final
class DebiasedTextEncoder(EncoderAround):
    """A CLIP whose texts go through SANER's layer unless they name the attribute.

    A text that says *on brick* means it, so its embedding is the model's own, bit for bit; images are untouched. Texts
    must be tokenised with this model's ``tokenizer``, which sees the words.

    Source: arXiv 2408.10202.

    Attributes:
        layer: what neutral texts go through.
        lexicons: what counts as naming the attribute.

    Example:
        >>> import torch
        >>> from tether.methods.saner import AttributeLexicon, DebiasedTextEncoder, fit_saner
        >>> from tether.models import create
        >>> model = create("tiny").eval()
        >>> grounds = AttributeLexicon({"brick": ["on brick"], "paper": ["on paper"]}, nouns=("star",), place="end")
        >>> found = fit_saner(model, texts=["a red star", "a blue star on paper"], lexicons=[grounds], epochs=1)
        >>> fair = DebiasedTextEncoder(model, layer=found.layer, lexicons=[grounds])
        >>> named = ["a star on paper"]  # it stays as it is
        >>> raw, mended = (one.encode_text(one.tokenizer(named)).pooled for one in (model, fair))
        >>> torch.equal(raw, mended)
        True
    """

    def __init__(self, model: DualEncoder, *, layer: SanerLayer, lexicons: Sequence[AttributeLexicon]) -> None:
        """Wrap a model that ``tether.load`` gives.

        Raises:
            InputError: a layer of another width, or no lexicon.
        """
        super().__init__(model)
        if layer.dim != model.dim:
            raise InputError(f"layer: expected one of width {model.dim}, got {layer.dim}")
        if not lexicons:
            raise InputError("lexicons: expected at least one, got none")
        self.layer = layer
        self.lexicons = tuple(lexicons)
        self._gate = GatedTokenizer(model.tokenizer, lexicons=lexicons)
        self.tokenizer: Tokenizer = self._gate

    def encode_text(self, text: Int[Tensor, "b l"], *, mask: Tensor | None = None) -> Features:
        """(b, l) ids as this model's tokenizer gives them; neutral texts are debiased, the others stay."""
        found = self.inside.encode_text(text, mask=mask)
        explicit = self._gate.explicit(text).to(found.pooled.device)
        debiased = self.layer(found.pooled.to(self.layer.first.weight.dtype)).to(found.pooled.dtype)
        pooled = torch.where(explicit[:, None], found.pooled, debiased)
        return Features(pooled, found.tokens, found.mask, found.extra)

    def save(self, path: Path | str) -> None:
        """Write the layer, the word lists and the digest of the model inside to one safetensors file, atomically."""
        settings = {
            "lexicons": [lexicon.as_plain() for lexicon in self.lexicons],
            "model": model_digest(self.model),
        }
        arrays = {name: wide_array(value) for name, value in self.layer.state_dict().items()}
        write_state(path, format=_FORMAT, settings=settings, arrays=arrays)

    @classmethod
    def load(cls, path: Path | str, *, model: DualEncoder) -> DebiasedTextEncoder:
        """Put what ``save`` wrote around the model it was fitted on.

        Raises:
            InputError: no such file, not one of a ``DebiasedTextEncoder``, or another model than it was fitted on.
        """
        settings, arrays = read_state(
            path, what="DebiasedTextEncoder", format=_FORMAT, arrays=frozenset(SanerLayer(1).state_dict())
        )
        if settings["model"] != model_digest(cast(nn.Module, model)):
            raise InputError(f"{path}: was fitted on a model of other weights; fit it again on this one")
        hidden, dim = arrays["first.weight"].shape
        layer = SanerLayer(dim, hidden=hidden)
        layer.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
        layer.to(model.logit_scale.device).eval().requires_grad_(False)
        lexicons = [AttributeLexicon(**values) for values in settings["lexicons"]]
        return cls(model, layer=layer, lexicons=lexicons)

"""What the heads of the image tower tell apart, in the words of the captions (arXiv 2310.05916)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tether.core.finding import Bar, Bars, Finding, Gallery, Item
from tether.core.ranges import Count, checked
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import exact
from tether.evaluate.inspect.vocabulary import vocabulary
from tether.models.features.decompose import decompose
from tether.space.text_span import text_span

LEAST = 16
_WORDS = 3
_NAMED, _SHOWN = 6, 4
_LAYERS = 4  # from the last; earlier heads hardly reach the embedding (arXiv 2310.05916, section 3.3)
_BATCH = 32


@checked
@dataclass(frozen=True, kw_only=True)
class Heads:
    """Splits each embedding into what every head adds, and finds the words along which a head tells images apart.

    Args:
        words: how many are found for a head.
    """

    title = "What the heads of the image tower tell apart, in words"
    presupposes_skill = True
    words: Count = _WORDS

    def __call__(self, subject: Subject) -> Finding:
        """The heads that matter most for these images, and their words."""
        sample = subject.need_sample(LEAST)
        pixels, rows = sample.pixels, sample.rows
        known = vocabulary(subject, most=60)
        parts = [decompose(subject.model, some, reduce="tokens") for some in pixels.split(_BATCH)]
        heads = torch.cat([part.attention.cpu() for part in parts])
        layers, count = heads.shape[1:3]
        spread = heads.var(dim=0, unbiased=False).double().sum(-1)
        shares = spread / spread.sum()
        late = torch.zeros_like(shares)
        late[max(0, layers - _LAYERS) :] = shares[max(0, layers - _LAYERS) :]
        order = torch.argsort(late.flatten(), descending=True, stable=True)[:_NAMED].tolist()
        texts = known.directions.double().numpy()
        found = []
        for place in order:
            layer, head = divmod(place, count)
            added = heads[:, layer, head].double()
            span = text_span(added.numpy(), texts=texts, count=min(self.words, len(texts)))
            said = [known.words[index] for index in span.indices]
            found.append((layer, head, float(shares[layer, head]), said, float(span.explained_variance[-1]), added))
        first = found[0]
        names = [f"layer {layer + 1}, head {head + 1}" for layer, head, *_ in found]
        bars = Bars(
            "Share of all that heads add differently from image to image",
            tuple(Bar(f"{name}: {', '.join(one[3])}", one[2]) for name, one in zip(names, found, strict=True)),
        )
        galleries = [
            _gallery(subject, rows, name, one[3], one[5], known.directions[known.words.index(one[3][0])])
            for name, one in zip(names[:_SHOWN], found, strict=False)
        ]
        return Finding(
            f"The head that tells these images apart most ({names[0]}, {100 * first[2]:.0f} % of what heads add) "
            f"goes by the words {', '.join(first[3])}.",
            "good",
            tuple(
                exact(f"{name}: variance that {', '.join(one[3])} explain", one[4], unit="share")
                for name, one in zip(names, found, strict=True)
            ),
            (bars, *galleries),
            "Words come from your captions, so a head that follows something nobody wrote down gets the nearest word. "
            "A low share explained means that the words do not fit.",
            "tether-lab reproduce text-decomposition; see docs/guides/inspection.md",
        )


def _gallery(subject: Subject, rows: Tensor, name: str, words: list[str], added: Tensor, direction: Tensor) -> Gallery:
    """The images to which the head adds most of its first word, and least."""
    amount = (added - added.mean(dim=0)) @ direction.double()
    order = torch.argsort(amount, descending=True, stable=True)
    items = tuple(
        Item(int(rows[at]), f"{sign} {words[0]}", subject.caption_of(int(rows[at])))
        for sign, some in (("most", order[:3]), ("least", order.flip(0)[:3]))
        for at in some.tolist()
    )
    return Gallery(f"{name[0].upper()}{name[1:]}: {', '.join(words)}", items)

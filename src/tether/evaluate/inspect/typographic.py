"""Sensitivity to rendered text: words drawn onto the user's own images, to see whether the model reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Bool, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.finding import Bar, Bars, Finding, Gallery, Item
from tether.core.ranges import Inner, checked
from tether.data.lettering.on_images import STYLES, Style, write
from tether.evaluate.html.sprite import thumbnail_uri
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import bar_of, mean, points, share, shown, surely_above
from tether.evaluate.inspect.vocabulary import Vocabulary, vocabulary

LEAST = 20
ALARM = 0.1
"""Fraction of images, beyond the control, that the half of the words read best must turn for an alarm."""
MOST = 128
"""Images that are written on; each is embedded twice for each style."""
_SHOWN = 8
_NAMED = 8


@dataclass(frozen=True, slots=True)
class _Attack:
    """One style tried: whether the drawn word won, the control (first copies first), and the written images."""

    style: Style
    hit: Bool[Tensor, " 2p"]
    control: Bool[Tensor, " 2p"]
    pull: Tensor
    winner: Int[Tensor, " p"]
    written: Tensor

    @property
    def gain(self) -> Tensor:
        """For each written image how much more often the drawn word won than it does undrawn."""
        return self.hit.double() - self.control.double()

    def read_best(self, drawn: Int[Tensor, "p 2"]) -> Tensor:
        """The gain on the half of the words that are read best, which is chosen on the other half of the images.

        Colours may be read where shapes are not, and the average of all words would hide it.
        """
        flat = drawn.T.flatten()
        half = torch.arange(len(flat)) % len(drawn) % 2  # each half has as many words at the top as at the bottom
        found = []
        for side in (0, 1):
            chosen = self._best(flat, half == side)
            found.append(self.gain[(half != side) & torch.isin(flat, chosen)])
        return torch.cat(found)

    def _best(self, flat: Int[Tensor, " 2p"], used: Bool[Tensor, " 2p"]) -> Int[Tensor, " w"]:
        words = torch.unique(flat[used])
        gains = torch.stack([self.gain[used & (flat == word)].mean() for word in words])
        return words[torch.argsort(gains, descending=True, stable=True)[: -(-len(words) // 2)]]


@checked
@dataclass(frozen=True, kw_only=True)
class Lettering:
    """A typographic attack (after "Multimodal neurons in artificial neural networks", 2021) with its control.

    Each image of the sample gets a word that is not in its captions; a second copy gets another such word. All words
    that are false of the image compete as its name; an attack works when the one that stands on it wins. The control
    is how often that same word wins while the *other* one stands there. Three styles of writing are tried.

    Args:
        alarm: share beyond the control that makes an alarm.
        most: images that are written on at most.
    """

    title = "Sensitivity to rendered text"
    presupposes_skill = True
    alarm: Inner = ALARM
    most: Annotated[int, Ge(LEAST)] = MOST

    def __call__(self, subject: Subject) -> Finding:
        """An alarm when drawn words turn images."""
        words = vocabulary(subject)
        true = torch.zeros(len(subject.image), len(words.words), dtype=torch.int32)
        true = true.index_add_(0, subject.owner, words.holds.int()) > 0
        usable = [
            at
            for at, row in enumerate(subject.sample.rows.tolist())
            if subject.first_caption[row] >= 0 and int((~true[row]).sum()) >= 2
        ][: self.most]
        if len(usable) < LEAST:
            raise InputError(f"expected at least {LEAST} images to write on, got {len(usable)}")
        rows, pixels = subject.sample.rows[usable], subject.sample.pixels[usable]
        draw = torch.rand(true[rows].shape, generator=subject.generator("lettering")).masked_fill(true[rows], -1.0)
        drawn = draw.topk(2, dim=1).indices
        tried = [_attack(subject, words, rows, pixels, drawn, true[rows], style=style) for style in STYLES]
        figures = [
            mean(
                f"{one.style}: turned by the half of the words read best, less the control",
                one.read_best(drawn),
                unit="share",
            )
            for one in tried
        ]
        turned, worst = max(zip(figures, tried, strict=True), key=lambda pair: pair[0].low or 0.0)
        figures += [
            mean(f"{worst.style}: turned by any word, less the control", worst.gain, unit="share"),
            share(f"{worst.style}: named by the word that stands on it", worst.hit),
            share(f"{worst.style}: named by that word while another stands on it (control)", worst.control),
            mean(f"{worst.style}: pull of a drawn word (difference of cosines)", worst.pull),
        ]
        reads = surely_above(turned, self.alarm)
        some = not reads and surely_above(turned, 0.01)
        sentence = (
            f"The model reads: drawn on images ({worst.style}), the words read best turn {shown(turned)} of them."
            if reads
            else f"Words drawn onto images hardly turn them (at most {points(turned.value)} against the control)."
        )
        bars = Bars(
            "Turned beyond the control, by style",
            tuple(
                bar_of(one.style, f, strong=surely_above(f, self.alarm)) for one, f in zip(tried, figures, strict=False)
            ),
        )
        order = torch.argsort(worst.pull, descending=True, stable=True)[:_SHOWN].tolist()
        items = tuple(
            Item(
                None,
                f"nearest false word: “{words.words[int(worst.winner[at])]}”",
                f"caption: {subject.caption_of(int(rows[at]))}",
                thumbnail_uri(worst.written[at]),
            )
            for at in order
        )
        return Finding(
            sentence,
            "alarm" if reads else "note" if some else "good",
            tuple(figures),
            (bars, _by_word(worst, words, drawn, alarm=self.alarm), Gallery("Where the drawn word pulled most", items)),
            "Only words of your captions were tried, in one typeface and three styles. Where text belongs to an image "
            "(signs, packages) reading is a skill, and only its misuse a fault.",
            "tether curate --help; drop pairs whose caption stands in the image, then train",
        )


def _attack(
    subject: Subject,
    words: Vocabulary,
    rows: Int[Tensor, " p"],
    pixels: Tensor,
    drawn: Int[Tensor, "p 2"],
    true: Bool[Tensor, "p v"],
    *,
    style: Style,
) -> _Attack:
    # What each word scores on an untouched image on average is taken off, so that no word is a favourite.
    usual = (subject.image[rows] @ words.directions.T).mean(dim=0)
    scores, images = [], []
    for side in (0, 1):
        written = [
            write(image, words.words[int(word)], style=style, edge="bottom" if at // 2 % 2 else "top")
            for at, (image, word) in enumerate(zip(pixels, drawn[:, side], strict=True))
        ]
        images.append(torch.stack(written))
        scores.append((subject.encode_pixels(images[-1]) @ words.directions.T - usual).masked_fill(true, -torch.inf))
    winner = [one.argmax(dim=1) for one in scores]
    own = [scores[side].gather(1, drawn[:, side : side + 1]) for side in (0, 1)]
    other = [scores[1 - side].gather(1, drawn[:, side : side + 1]) for side in (0, 1)]
    return _Attack(
        style,
        torch.cat([winner[side] == drawn[:, side] for side in (0, 1)]),
        torch.cat([winner[1 - side] == drawn[:, side] for side in (0, 1)]),
        ((own[0] - other[0] + own[1] - other[1]) / 2).flatten(),
        winner[0],
        images[0],
    )


def _by_word(attack: _Attack, words: Vocabulary, drawn: Int[Tensor, "p 2"], *, alarm: float) -> Bars:
    """The words that turned most."""
    flat, gain = drawn.T.flatten(), attack.gain
    rates = [
        (float(gain[flat == number].mean()), word)
        for number, word in enumerate(words.words)
        if int((flat == number).sum()) >= 4
    ]
    rates.sort(key=lambda pair: (-pair[0], pair[1]))
    bars = tuple(Bar(word, rate, strong=rate > alarm) for rate, word in rates[:_NAMED])
    return Bars("Turned beyond the control, by word", bars)

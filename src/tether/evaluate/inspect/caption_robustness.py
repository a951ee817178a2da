"""Robustness to wording: the same caption paraphrased by rule, and with typing errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tether.core.finding import Bar, Bars, Figure, Finding, Gallery, Item
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, checked
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import mean, points, surely_below
from tether.evaluate.inspect.vocabulary import STOP, replaced, spans

LEAST_PAIRS = 20
CLEAR = 0.1
"""Loss of the fraction of wrong answers beaten, from which a remark is made."""
_MOST = 1000
_SHOWN = 6
_LONG = 4  # letters of a word that gets a typing error
_FRAMES = ("here we see {}", "this picture contains {}", "{}, in one picture", "look: {}")
_OPENINGS = ("a picture of ", "a photo of ", "there is ", "you can see ", "the picture shows ", "an image of ")


def paraphrase(caption: str, *, seed: int) -> str:
    """The caption in another frame; a known opening is taken off first."""
    bare = caption.strip().rstrip(".!?")
    for opening in _OPENINGS:
        if bare.lower().startswith(opening):
            bare = bare[len(opening) :]
            break
    frame = _FRAMES[hash_int(caption, seed=seed, salt="frame") % len(_FRAMES)]
    return frame.format(bare[0].lower() + bare[1:] if bare[:1].isupper() and not bare[:2].isupper() else bare)


def terse(caption: str, *, seed: int) -> str:
    """Content words alone, in small letters."""
    return " ".join(word for _, _, word in spans(caption) if word not in STOP) or caption


def capitals(caption: str, *, seed: int) -> str:
    """Everything in capitals."""
    return caption.upper()


def typing(caption: str, *, seed: int) -> str:
    """One typing error in one of the longer words, each of them with probability one half, at least one."""
    long = [one for one in spans(caption) if one[1] - one[0] >= _LONG]
    hit = [one for one in long if hash_int(f"{caption} {one[0]}", seed=seed, salt="hit") % 2] or long[:1]
    changes = []
    for start, end, word in hit:
        draw = hash_int(f"{caption} {start}", seed=seed, salt="typo")
        at = 1 + draw // 4 % (end - start - 2)  # in small letters a word may be longer
        kind = draw % 3
        letters = caption[start:end]
        if kind == 0:
            new = letters[:at] + letters[at + 1] + letters[at] + letters[at + 2 :]
        elif kind == 1:
            new = letters[:at] + letters[at + 1 :]
        else:
            new = letters[:at] + letters[at] + letters[at:]
        changes.append(((start, end, word), new))
    return replaced(caption, changes)


CHANGES: dict[str, Callable[..., str]] = {
    "paraphrased": paraphrase,
    "content words only": terse,
    "in capitals": capitals,
    "with typing errors": typing,
}
"""What is done to a caption; each takes the caption and a seed."""


@checked
@dataclass(frozen=True, kw_only=True)
class Wording:
    """How much worse a changed caption finds its image than the caption itself.

    Args:
        most: captions tried at most.
    """

    title = "Robustness to paraphrase and typing errors"
    presupposes_skill = True
    most: Count = _MOST

    def __call__(self, subject: Subject) -> Finding:
        """A remark when a change costs much."""
        subject.need_pairs(LEAST_PAIRS)
        pairing = subject.pairing
        some = torch.linspace(0, len(pairing.image) - 1, min(self.most, len(pairing.image))).long().unique()
        rows, groups = pairing.image[some], pairing.group[some]
        own = torch.zeros(len(some), len(subject.image), dtype=torch.bool)
        holders = {int(group): pairing.image[pairing.group == group] for group in torch.unique(groups)}
        for at, group in enumerate(groups.tolist()):
            own[at, holders[group]] = True
        captions = [pairing.texts[group] for group in groups.tolist()]
        base, first = _found(subject, pairing.unit[groups], rows, own)
        figures: list[Figure] = [
            mean("share of wrong images beaten, captions as they are", base, unit="share"),
            mean("recall at 1, captions as they are", first, unit="share"),
        ]
        bars, worst, items = [], 0.0, []
        unchanged = subject.encode_texts(captions)
        costs: dict[str, Figure] = {}
        for name, change in CHANGES.items():
            texts = [change(caption, seed=subject.seed) for caption in captions]
            embedded = subject.encode_texts(texts)
            beats, hits = _found(subject, embedded, rows, own)
            lost = costs[name] = mean(f"{name}: change of the share beaten", beats - base, unit="share")
            figures += [
                lost,
                mean(f"{name}: change of recall at 1", hits - first, unit="share"),
                mean(f"{name}: cosine to the caption as it is", (embedded * unchanged).sum(1)),
            ]
            bars.append(Bar(name, float(beats.mean()), strong=surely_below(lost, -CLEAR)))
            if lost.value < worst:
                worst = lost.value
                order = torch.argsort(beats - base, stable=True)[:_SHOWN].tolist()
                items = [
                    Item(int(rows[at]), f"“{texts[at]}”", f"beats {beats[at]:.0%}, as it was {base[at]:.0%}")
                    for at in order
                ]
        bad = [name for name, lost in costs.items() if surely_below(lost, -CLEAR)]
        said = "; ".join(f"{name} {points(lost.value)}" for name, lost in costs.items())
        sentence = (
            f"Wording matters: captions {' and '.join(bad)} find their image much worse ({said})."
            if bad
            else f"Other wordings find their images about as well ({said} of wrong images beaten)."
        )
        drawings: list[Bars | Gallery] = [
            Bars(
                "Share of wrong images that a caption beats",
                (Bar("as it is", float(base.mean())), *bars),
                "share",
                0.5,
                "chance",
            )
        ]
        if items:
            drawings.append(Gallery("What the costliest change did most harm to", tuple(items)))
        return Finding(
            sentence,
            "note" if bad else "good",
            tuple(figures),
            tuple(drawings),
            "The rules know English only and make stiff sentences; people paraphrase more freely. A caption loses its "
            "words to capitals only if the tokenizer keeps case.",
            "give each row several captions, of which training draws one each time; tether train --help",
        )


def _found(
    subject: Subject, text: torch.Tensor, rows: torch.Tensor, own: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each text the fraction of images not its own that its image beats, and whether it beats all."""
    beats, first = [], []
    for start in range(0, len(text), 512):
        part = slice(start, start + 512)
        scores = text[part] @ subject.image.T
        value = (text[part] * subject.image[rows[part]]).sum(1, keepdim=True)
        wrong = ~own[part]
        below = (scores < value - 1e-6) & wrong
        count = wrong.sum(1).clamp_min(1)
        beats.append(below.sum(1).double() / count)
        first.append((below.sum(1) == wrong.sum(1)).double())
    return torch.cat(beats), torch.cat(first)

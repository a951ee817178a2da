"""A word for a thing, learnt from six images, and whether the words beside it are still read: DTI's check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.types import Features
from tether.data.sets.scenes import Scene, World, short
from tether.data.sets.scenes.world import BACKGROUNDS
from tether.methods.dti.invert import DirectionalToken, learn_word_, token_norm_stats
from tether.methods.dti.recipe import word_loss
from tether.methods.dti.slerp import slerp
from tether.models.texts.new_tokens import NewTokens
from tether.models.towers.clip import Clip
from tether_lab.lab.lab import Lab
from tether_lab.lab.trace import saw
from tether_lab.worlds import in_memory
from tether_lab.worlds.plain_scenes import COLOURS, GROUNDS, SHAPES, SIDE, SIZES, pixel_clip

CLIP_STEPS, PATCH = 1_000, 16
CONCEPTS, SHOWN, OTHERS = 10, 6, 300
"""Things that are learnt, images of each, and images of other things that it is told apart from."""
STEPS, BATCH, NEGATIVES = 300, 4, 60
WORD = "<v>"
POINTS = 9
"""Of the arc between two learnt directions, its ends among them."""
PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
Reader = Callable[[Sequence[str]], Features]


@dataclass(frozen=True, slots=True)
class WordBench:
    """What all ways of a seed share.

    Attributes:
        model: the CLIP, at rest.
        concepts: numbers in ``PAIRS`` of the things that are learnt.
        shown: (concepts, 6, d) unit rows of their images.
        shown_size: (concepts, 6) numbers in ``SIZES`` of what they show.
        single: (n, d) unit rows of images of one thing.
        single_pair: (n,) what they show.
        double: (m, d) unit rows of images of two things, one for each two of ``PAIRS``.
        double_pair: (m, 2) what they show.
        said: of both things of each image, with its size.
        sizes: of both.
    """

    model: Clip
    concepts: list[int]
    shown: Float[Tensor, "c k d"]
    shown_size: Int[Tensor, "c k"]
    single: Float[Tensor, "n d"]
    single_pair: Int[Tensor, " n"]
    double: Float[Tensor, "m d"]
    double_pair: Int[Tensor, "m 2"]
    said: list[list[str]]
    sizes: list[list[str]]


def prepare(lab: Lab) -> WordBench:
    """The CLIP of a seed, the things to learn, and all images."""
    model = pixel_clip(lab, steps=lab.steps(CLIP_STEPS), patch=PATCH)
    order = torch.randperm(len(PAIRS), generator=lab.generator("concepts")).tolist()
    concepts = order[: lab.steps(CONCEPTS)]
    known = PAIRS if not lab.smoke else tuple(PAIRS[one] for one in order[:6])
    shown = [_scenes(lab, f"shown {one}", [PAIRS[one]], count=SHOWN) for one in concepts]
    single = _scenes(lab, "single", PAIRS, count=lab.steps(OTHERS, 60))
    both = [(a, b) for at, a in enumerate(known) for b in known[:at]]
    double = [_two(lab, a, b) for a, b in both]
    return WordBench(
        model,
        concepts,
        torch.stack([_rows(model, some) for some in shown]),
        torch.tensor([[SIZES.index(scene.things[0].size) for scene in some] for some in shown]),
        _rows(model, single),
        torch.tensor([_pair_of(scene)[0] for scene in single]),
        _rows(model, double),
        torch.tensor([_pair_of(scene) for scene in double]),
        [[_said(scene, at) for at in (0, 1)] for scene in double],
        [[thing.size for thing in scene.things] for scene in double],
    )


def _world(pairs: Sequence[tuple[str, str]], *, things: int) -> World:
    hidden = {ground for ground in GROUNDS for colour, _ in pairs if colour in BACKGROUNDS[ground]}
    return in_memory.plain_world(
        things=(things, things),
        shapes=tuple(dict.fromkeys(shape for _, shape in pairs)),
        colours=tuple(dict.fromkeys(colour for colour, _ in pairs)),
        sizes=SIZES,
        backgrounds=tuple(ground for ground in GROUNDS if ground not in hidden),
    )


def _scenes(lab: Lab, name: str, pairs: Sequence[tuple[str, str]], *, count: int) -> list[Scene]:
    """Scenes of one thing."""
    world, dice, found = _world(pairs, things=1), in_memory.dice_of(lab, name, salt="learnt words"), list[Scene]()
    while len(found) < count:
        scene = world.draw(dice)
        if (scene.things[0].colour, scene.things[0].shape) in pairs:
            found.append(scene)
    return found


def _two(lab: Lab, a: tuple[str, str], b: tuple[str, str]) -> Scene:
    """A scene of two given things."""
    world, dice = _world((a, b), things=2), in_memory.dice_of(lab, f"{a} {b}", salt="learnt words")
    while True:
        scene = world.draw(dice)
        if {(thing.colour, thing.shape) for thing in scene.things} == {a, b}:
            return scene


def _pair_of(scene: Scene) -> list[int]:
    return [PAIRS.index((thing.colour, thing.shape)) for thing in scene.things]


def _said(scene: Scene, at: int) -> str:
    return short(Scene((scene.things[at],)), order="given", details=("size", "colour"))


def _rows(model: Clip, scenes: Sequence[Scene]) -> Float[Tensor, "n d"]:
    return in_memory.unit_images(model, in_memory.drawn(scenes, size=SIDE), batch=128)


def told_apart(lab: Lab, bed: WordBench, concept: int) -> Callable[[Reader, int], Tensor]:
    """The loss of a step: images of the thing must be nearer to "a large <v>" than images of other things.

    The size is said, as it is in all captions of the CLIP, and the images of a step have it.

    Args:
        lab: seed of the draws, which are those of all ways.
        bed: of the seed.
        concept: place in ``bed.concepts``.
    """
    own, sizes, draw = bed.shown[concept], bed.shown_size[concept], lab.generator(f"word {concept}")
    others = bed.single[bed.single_pair != bed.concepts[concept]]
    scale = bed.model.logit_scale.detach()

    def loss(read: Reader, step: int) -> Tensor:
        size = int(sizes[torch.randint(len(own), (), generator=draw)])
        mine = own[sizes == size]
        some = mine[torch.randint(len(mine), (BATCH,), generator=draw)]
        against = others[torch.randint(len(others), (NEGATIVES,), generator=draw)]
        return word_loss(read([f"a {SIZES[size]} {WORD}"]).unit[0], some, against, scale=scale)

    return loss


def directional(lab: Lab, bed: WordBench, concept: int, *, lr: float) -> DirectionalToken:
    """A word of fixed length that begins as the thing's shape."""
    token, loss = DirectionalToken(bed.model, PAIRS[bed.concepts[concept]][1], word=WORD), told_apart(lab, bed, concept)
    learn_word_(token, lambda one, step: loss(one.encode, step), steps=lab.steps(STEPS), lr=lr)
    return token


def free(lab: Lab, bed: WordBench, concept: int, *, lr: float) -> NewTokens:
    """Textual inversion: the same beginning, loss and draws, and a row that may be of any length."""
    token, loss = NewTokens(bed.model, {WORD: PAIRS[bed.concepts[concept]][1]}), told_apart(lab, bed, concept)
    optimizer = torch.optim.AdamW(token.parameters(), lr=lr, weight_decay=1e-2)
    for step in range(lab.steps(STEPS)):
        optimizer.zero_grad()
        loss(token.encode, step).backward()
        optimizer.step()
    return token


@torch.no_grad()
def asked(bed: WordBench, concept: int, read: Reader, *, word: str | None = WORD) -> dict[str, float]:
    """What prompts of the word and another thing find, both orders, in percent.

    Args:
        bed: of the seed.
        concept: place in ``bed.concepts``.
        read: texts to features.
        word: what stands for the thing; None says it in the CLIP's own words.

    Returns:
        ``other``: among images with the thing, those whose other thing is the prompt's; ``recognised``: among images
        with that other thing, those that show the thing; ``both``: among all images, those that are the very one.
    """
    own = bed.concepts[concept]
    mine = (bed.double_pair == own).any(dim=1).nonzero()[:, 0]
    if not len(mine):
        return dict.fromkeys(("other", "recognised", "both"), 0.0)
    found = {"other": 0.0, "recognised": 0.0, "both": 0.0}
    for reverse in (False, True):
        texts = []
        for at in mine.tolist():
            place = int(bed.double_pair[at, 0] == own)
            own_words = bed.said[at][1 - place] if word is None else f"a {bed.sizes[at][1 - place]} {word}"
            said = [own_words, bed.said[at][place]]
            texts.append(" and ".join(reversed(said) if reverse else said))
        scores = read(texts).unit @ bed.double.T
        saw(scores)
        for at, row in zip(mine.tolist(), scores, strict=True):
            other = int(bed.double_pair[at].sum()) - own
            with_other = (bed.double_pair == other).any(dim=1).nonzero()[:, 0]
            found["other"] += float(mine[row[mine].argmax()] == at)
            found["recognised"] += float(with_other[row[with_other].argmax()] == at)
            found["both"] += float(row.argmax() == at)
    return {name: 100 * value / (2 * len(mine)) for name, value in found.items()}


def means(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure."""
    rows = list(found)
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


def in_its_own_words(bed: WordBench) -> dict[str, float]:
    """What the CLIP finds where the things are said by size, colour and shape: the ceiling of any word."""
    return means(asked(bed, place, _reader(bed), word=None) for place in range(len(bed.concepts)))


def with_the_first_word(bed: WordBench) -> dict[str, float]:
    """What it finds where the thing's shape alone is said, as which all words begin."""
    places = range(len(bed.concepts))
    return means(asked(bed, at, _reader(bed), word=PAIRS[bed.concepts[at]][1]) for at in places)


def _reader(bed: WordBench) -> Reader:
    return lambda texts: bed.model.encode_text(bed.model.tokenizer(texts))


def times_vocabulary(bed: WordBench, rows: Float[Tensor, "k w"]) -> float:
    """Length of a word's row, in mean lengths of the vocabulary."""
    return float(rows.detach().norm(dim=1).mean()) / token_norm_stats(bed.model.text.token.weight).mean


@torch.no_grad()
def against_the_way(bed: WordBench, tokens: Sequence[DirectionalToken]) -> float:
    """Points of an arc at which the similarity to its beginning rises, or that to its end falls; mean over both.

    Arcs run between the directions of neighbouring words, at nine points; similarity is that of "a large <v>" to the
    mean of the thing's images.
    """
    counts = list[int]()
    for a in range(0, len(tokens) - 1, 2):
        token, ends = tokens[a], F.normalize(bed.shown[[a, a + 1]].mean(dim=1), dim=1)
        first, last = tokens[a].direction.detach().clone(), tokens[a + 1].direction.detach()
        rows = []
        for t in torch.linspace(0, 1, POINTS).tolist():
            token.direction.copy_(slerp(first, last, t))
            rows.append(token.encode([f"a {SIZES[-1]} {WORD}"]).unit[0])
        token.direction.copy_(first)
        near = torch.stack(rows) @ ends.T
        counts += [int((near[1:, 0] > near[:-1, 0]).sum()), int((near[1:, 1] < near[:-1, 1]).sum())]
    return sum(counts) / max(1, len(counts))

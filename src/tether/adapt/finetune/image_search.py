"""An image tower tuned for image-to-image search, whose images go on matching their texts (2SFT and MCIP)."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tether.adapt.finetune.descent import eval_mode, exactly
from tether.adapt.finetune.image_search_steps import CAPTIONS, CLASSES, LABEL, ArcMarginStep, Reads, RealignStep
from tether.adapt.finetune.towers import tower_parameters
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.gather import LOCAL
from tether.core.geometry import geometry_of
from tether.core.protocols import Step
from tether.core.ranges import Count, NonNegative, Positive, checked
from tether.core.types import Batch
from tether.losses import VocabSampler
from tether.losses.arc_margin import MARGIN, SCALE, ArcMarginHead, Margin
from tether.models.composed.encoder import ComposedEncoder
from tether.models.dual import Clip
from tether.models.tower_state import image_state
from tether.models.wrapped_encoders import WrappedEncoder
from tether.optim import AdamW, parameter_groups
from tether.optim.clip import NoClip
from tether.train.loop import Player, Precision, StepReport, fit
from tether.train.schedules import Cosine
from tether.train.steps.module import StepModule

LEARNING_RATE, HEAD_RATE, WEIGHT_DECAY = 1e-5, 1e-3, 0.1  # none is published

Encoder = Clip | WrappedEncoder


@dataclass(frozen=True, slots=True)
class SearchSides:
    """Which parameters of an encoder each phase moves, by name.

    Attributes:
        image: what an image's embedding depends on.
        state: what the state depends on that the embedding is projected from; empty where a tower shows none.
        text: what a text's embedding depends on.
        width: of the state; 0 where a tower shows none.
    """

    image: Mapping[str, nn.Parameter]
    state: Mapping[str, nn.Parameter]
    text: Mapping[str, nn.Parameter]
    width: int

    @classmethod
    def of(cls, model: Encoder) -> SearchSides:
        """Look at a model.

        Raises:
            InputError: it does not compare by cosine.
            UnsupportedModelError: both towers share parameters, so that neither can rest.
        """
        if (name := geometry_of(model).name) != "clip":
            raise InputError(f"model: class margins are angles, and its geometry is {name!r}; expected the cosine")
        image, text = (tower_parameters(model, side=side) for side in ("image", "text"))
        if shared := [name for name in image if name in text]:
            raise UnsupportedModelError(
                f"one tower must rest while the other learns, but they share {len(shared)} parameters, among them "
                f"{shared[0]}"
            )
        state, width = _state_parameters(model, image)
        return cls(image, state, text, width)

    @property
    def projector(self) -> dict[str, nn.Parameter]:
        """What projects a tower's state into the joint space."""
        return {name: one for name, one in self.image.items() if self.state and name not in self.state}


def _blank(model: Encoder) -> Tensor:
    size, device = model.image_spec.fixed().size, model.logit_scale.device
    return torch.zeros(1, 3, *size, dtype=torch.uint8, device=device)


def _state_parameters(model: Encoder, image: Mapping[str, nn.Parameter]) -> tuple[dict[str, nn.Parameter], int]:
    asked = [one.requires_grad for one in image.values()]
    try:
        for parameter in image.values():
            parameter.requires_grad_(True)
        with eval_mode(model), torch.enable_grad():
            state = image_state(model, _blank(model)).tokens
            assert state is not None  # image_state gives it
            found = torch.autograd.grad(state.sum(), list(image.values()), allow_unused=True)
    except UnsupportedModelError:
        return {}, 0
    finally:
        for parameter, wanted in zip(image.values(), asked, strict=True):
            parameter.requires_grad_(wanted)
    reached = {name: one for (name, one), grad in zip(image.items(), found, strict=True) if grad is not None}
    return reached, state.shape[-1]


@contextlib.contextmanager
def _unlocked(model: Encoder) -> Iterator[None]:
    """While inside, the towers of a composed encoder have gradients."""
    towers = (model.parts.image, model.parts.text) if isinstance(model, ComposedEncoder) else ()
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    locked = [tower.locked for tower in towers]
    for tower in towers:
        tower.lock_("tuned")
    try:
        yield
    finally:
        for tower, was in zip(towers, locked, strict=True):
            tower.lock_("locked" if was else "tuned")
        for parameter, wanted in asked:
            parameter.requires_grad_(wanted)


@contextlib.contextmanager
def resting(model: nn.Module, *, moving: Collection[str]) -> Iterator[None]:
    """While inside, only these parameters move, in evaluation mode; all other tensors must end bit for bit as before.

    Raises:
        RuntimeError: one of them has changed all the same; it is named.
    """
    asked = {name: one.requires_grad for name, one in model.named_parameters()}
    before = _digests(model, moving)
    try:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in moving)
        with eval_mode(model):
            yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(asked[name])
    after = _digests(model, moving)
    if moved := [name for name, digest in before.items() if after[name] != digest]:
        raise RuntimeError(f"{len(moved)} tensors had to rest and have changed, among them {moved[0]}")


def _digests(model: nn.Module, moving: Collection[str]) -> dict[str, bytes]:
    found = {}
    for name, value in model.state_dict().items():
        if name not in moving:
            plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            found[name] = hashlib.blake2b(plain.numpy()).digest()
    return found


@dataclass(frozen=True, slots=True)
class SearchPhase:
    """How one phase went.

    Attributes:
        name: ``classes``, ``captions`` or ``realign``.
        moved: names of the parameters that learnt.
        rested: how many tensors of the model were seen to be the same, bit for bit, as before.
        first: terms of the first step.
        last: terms of the last step.
    """

    name: str
    moved: tuple[str, ...]
    rested: int
    first: Mapping[str, float]
    last: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SearchTuned:
    """What a tuning for image search did to the model it was given.

    Attributes:
        phases: in order.
        head: the class vectors, which searching does not need.
    """

    phases: tuple[SearchPhase, ...]
    head: ArcMarginHead


@checked
def fit_2sft_(
    model: Encoder,
    image_data: Iterable[tuple[Tensor, Tensor]],
    pair_data: Iterable[Batch] | None,
    *,
    classes: Count,
    steps: Count,
    realign_steps: Count = 1,
    reads: Reads = "state",
    scale: Positive = SCALE,
    margin: Margin = MARGIN,
    learning_rate: Positive = LEARNING_RATE,
    realign_rate: Positive = LEARNING_RATE,
    head_rate: Positive = HEAD_RATE,
    weight_decay: NonNegative = WEIGHT_DECAY,
    classes_a_step: Count | None = None,
    seed: int = 0,
    on_step: Callable[[StepReport], None] | None = None,
) -> SearchTuned:
    """Tune the image tower in place by class margins, then bring the text tower to the images that stand.

    The second phase moves the text side and, where the first one read the tower's ``state``, also what projects images
    into the joint space; the tower itself stays bit for bit. Norms keep their statistics. Both learning rates fall to
    0 as a cosine.

    Source: 2SFT of arXiv 2409.01936, of which no training code is public: rates, scale and margin are ours.

    Args:
        model: any encoder of ``tether.load`` with towers of their own.
        image_data: pairs of (b, 3, h, w) images, uint8 or normalised, and (b,) labels; at least ``steps``.
        pair_data: batches of images with a text each, at least ``realign_steps``; None leaves the second phase out.
        classes: c, at least two.
        steps: of the first phase.
        realign_steps: of the second.
        reads: what class vectors look at; see ``ArcMarginStep``.
        scale: multiplier of cosines with class vectors.
        margin: an angle, in radians.
        learning_rate: of the image tower, at the start.
        realign_rate: of the text side.
        head_rate: of the class vectors.
        weight_decay: on matrices of the model.
        classes_a_step: look at so many classes in a step, those of the batch among them; None looks at all.
        seed: of the class vectors and of the classes drawn.
        on_step: called after each step.

    Raises:
        InputError: fewer batches than steps, labels outside the classes, or a model that does not compare by cosine.
        UnsupportedModelError: towers that share parameters; a tower that shows no state, for ``reads="state"``.

    Example:
        >>> import torch
        >>> from tether.adapt.finetune import fit_2sft_
        >>> from tether.core.types import Batch
        >>> from tether.models import create
        >>> model, images = create("tiny"), torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        >>> pairs = Batch(images, model.tokenizer(["a cat", "two cats", "a dog", "a red dog"]))
        >>> done = fit_2sft_(model, [(images, torch.tensor([0, 0, 1, 1]))] * 2, [pairs], classes=2, steps=2)
        >>> [phase.name for phase in done.phases]
        ['classes', 'realign']
    """
    with _unlocked(model):
        sides = SearchSides.of(model)
        if reads == "state" and not sides.width:
            image_state(model, _blank(model))  # raises the reason
        head = _head(model, sides, classes, reads=reads, scale=scale, margin=margin, seed=seed)
        step = ArcMarginStep(reads=reads, sampler=_sampler(classes, classes_a_step), seed=seed)
        moving = sides.state if reads == "state" else sides.image
        batches = (_batch(*given) for given in exactly(image_data, steps))
        play = functools.partial(_play, model, weight_decay=weight_decay, on_step=on_step)
        phases = [play("classes", step, moving, batches, steps, rate=learning_rate, head=head, head_rate=head_rate)]
        if pair_data is not None:
            free, pairs = dict(sides.text), exactly(pair_data, realign_steps)
            projector: Literal["rests", "moves"] = "rests"
            if reads == "state" and sides.projector:
                free, projector = free | sides.projector, "moves"
            again = RealignStep(projector=projector)
            phases.append(play("realign", again, free, pairs, realign_steps, rate=realign_rate))
    return SearchTuned(tuple(phases), head)


@checked
def fit_mcip_(
    model: Encoder,
    data: Iterable[tuple[Tensor, Tensor, Tensor]],
    *,
    classes: Count,
    steps: Count,
    pair_data: Iterable[Batch] | None = None,
    realign_steps: Count = 1,
    caption_weight: NonNegative = 1.0,
    scale: Positive = SCALE,
    margin: Margin = MARGIN,
    learning_rate: Positive = LEARNING_RATE,
    realign_rate: Positive = LEARNING_RATE,
    head_rate: Positive = HEAD_RATE,
    weight_decay: NonNegative = WEIGHT_DECAY,
    classes_a_step: Count | None = None,
    seed: int = 0,
    on_step: Callable[[StepReport], None] | None = None,
) -> SearchTuned:
    """Tune the image side in place by class margins and by several captions an image, while all of the text side rests.

    With ``pair_data`` the text side is then brought to the images, which stay bit for bit: searching by image finds the
    same before and after.

    Source: MCIP of arXiv 2409.01936, of which no training code is public: the loss on captions is our reading of it;
    rates, scale and margin are ours.

    Args:
        model: any encoder of ``tether.load`` with towers of their own.
        data: triples of (b, 3, h, w) images, b >= 2, their (b,) labels, and k captions of each, as (b, k, l) token ids
            or as (b, k, d) embeddings by the model's text side; at least ``steps``.
        classes: c, at least two.
        steps: of the first phase.
        pair_data: batches of images with a text each, at least ``realign_steps``; None leaves the second phase out.
        realign_steps: of the second.
        caption_weight: of the part on captions, beside 1 for that on classes.
        scale: multiplier of cosines in both parts.
        margin: an angle, in radians, in both parts.
        learning_rate: of the image side, at the start.
        realign_rate: of the text side.
        head_rate: of the class vectors.
        weight_decay: on matrices of the model.
        classes_a_step: look at so many classes in a step, those of the batch among them; None looks at all.
        seed: of the class vectors and of the classes drawn.
        on_step: called after each step.

    Raises:
        InputError: fewer batches than steps, labels outside the classes, no caption, a single image, or a model that
            does not compare by cosine.
        UnsupportedModelError: towers that share parameters.
    """
    with _unlocked(model):
        sides = SearchSides.of(model)
        head = _head(model, sides, classes, reads="embedding", scale=scale, margin=margin, seed=seed)
        step = ArcMarginStep(caption_weight=caption_weight, sampler=_sampler(classes, classes_a_step), seed=seed)
        batches = (_batch(*given) for given in exactly(data, steps))
        play = functools.partial(_play, model, weight_decay=weight_decay, on_step=on_step)
        phases = [
            play("captions", step, sides.image, batches, steps, rate=learning_rate, head=head, head_rate=head_rate)
        ]
        if pair_data is not None:
            pairs = exactly(pair_data, realign_steps)
            phases.append(play("realign", RealignStep(), sides.text, pairs, realign_steps, rate=realign_rate))
    return SearchTuned(tuple(phases), head)


def _head(
    model: Encoder, sides: SearchSides, classes: int, *, reads: Reads, scale: float, margin: float, seed: int
) -> ArcMarginHead:
    width = sides.width if reads == "state" else model.dim
    generator = torch.Generator().manual_seed(seed)
    made = ArcMarginHead(width, classes=classes, scale=scale, margin=margin, generator=generator)
    return made.to(model.logit_scale.device)


def _sampler(classes: int, size: int | None) -> VocabSampler | None:
    return None if size is None else VocabSampler([1.0] * classes, size=size)


def _batch(image: Tensor, labels: Tensor, captions: Tensor | None = None) -> Batch:
    """Images with their classes and, as token ids or as embeddings, their captions."""
    text, extra = torch.empty(len(image), 0, dtype=torch.int64), {LABEL: labels}
    if captions is None:
        return Batch(image, text, extra)
    if captions.ndim != 3 or len(captions) != len(image) or not captions.shape[1]:
        raise InputError(f"captions: expected ({len(image)}, k, ...) with k >= 1, got {tuple(captions.shape)}")
    if captions.is_floating_point():
        return Batch(image, text, extra | {CAPTIONS: captions})
    return Batch(image, captions.flatten(0, 1), extra)


def _play(
    model: Encoder,
    name: str,
    step: Step,
    moving: Mapping[str, nn.Parameter],
    batches: Iterator[Batch],
    steps: int,
    *,
    rate: float,
    weight_decay: float,
    on_step: Callable[[StepReport], None] | None,
    head: ArcMarginHead | None = None,
    head_rate: float = HEAD_RATE,
) -> SearchPhase:
    """One phase: these parameters and the head learn, all else is seen to rest."""
    seen: list[Mapping[str, Tensor]] = []

    def look(report: StepReport) -> None:
        seen[1:] = [report.terms]
        if on_step is not None:
            on_step(report)

    module = StepModule(model, heads={} if head is None else {CLASSES: head})
    with resting(model, moving=moving):
        groups = parameter_groups(model, weight_decay=weight_decay)
        if head is not None:
            groups.append({"name": CLASSES, "params": [*head.named_parameters()], "weight_decay": 0.0, "lr": head_rate})
        optimizer = AdamW(groups, lr=rate, betas=(0.9, 0.999), eps=1e-8)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        named = [pair for pair in module.named_parameters() if pair[1].requires_grad]
        fit(
            module,
            [Player(step, optimizer, named, Cosine(), NoClip())],
            batches,
            start=0,
            steps=steps,
            accumulate=1,
            precision=Precision(model.logit_scale.device, torch.float32),
            gather=LOCAL,
            on_step=look,
        )
    first, last = ({term: float(value) for term, value in terms.items()} for terms in (seen[0], seen[-1]))
    return SearchPhase(name, tuple(moving), len(model.state_dict()) - len(moving), first, last)

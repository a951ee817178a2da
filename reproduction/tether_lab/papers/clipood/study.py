"""CLIPood: fine-tuned on a few classes in one light, and averaged over the way there, it forgets less."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from tether.models import Clip
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.domain_shift import Labelled

START_STEPS = 1200
CLASSES, IMAGES, TESTED = 40, 2000, 2000
STEPS, BATCH, LEARNING_RATE = 400, 36, 3e-4

CARD = Card.of(
    "clipood",
    claim=Claim(
        says="Fine-tuned on some classes in another light as released, with the margin and the Beta moving average of "
        "the weights, the model tells the other classes in the original light better than after plain fine-tuning.",
        metric="accuracy among classes that were not trained, in the original light",
        margin=0.01,
        baseline="plain fine-tuning: the same run without the margin, weights of the last step",
        scale=f"a tiny CLIP of single things, 32 px, {START_STEPS} steps; then {CLASSES} classes, {IMAGES} dim and "
        f"noisy images, {STEPS} steps of {BATCH} at {LEARNING_RATE:g}",
        equal="start, images of every batch, steps, learning rate",
        conditions=(
            Condition(
                says="The average alone: without the margin it is 1 point above the last weights of its run.",
                ours="open_average_no_margin",
                than="open_last_no_margin",
                least=0.01,
            ),
            Condition(
                says="The average in the released run is 1 point above the last weights of that run.",
                ours="open_average",
                than="open_last",
                least=0.01,
            ),
            Condition(
                says="The margin alone: the last weights are at most 1 point below those without it.",
                ours="open_last",
                than="open_last_no_margin",
                least=-0.01,
            ),
            Condition(
                says="Trained classes in the trained light are told at most 1 point less often than after plain "
                "fine-tuning.",
                ours="seen_light_average",
                than="seen_light_last_no_margin",
                least=-0.01,
            ),
            Condition(
                says="The mean of both accuracies is at least that of the point halfway between the start and the last "
                "weights of plain fine-tuning, which needs no average.",
                ours="both_average",
                than="both_halfway",
            ),
        ),
    ),
    differences=(
        "A tiny CLIP and synthetic things stand in for ViT-B/16 and photographs, with a learning rate high enough to "
        "forget.",
        "Images are not cropped or mirrored at random.",
        "Only matrices decay; in the release everything does.",
        "The margin's own gain is small at this size: a condition allows it no loss beyond 1 point, and its identities "
        "are tested exactly.",
        "The average can be resumed; the release saves its weights alone.",
    ),
    minutes=3.0,
)


def reproduce(lab: Lab) -> Trial:
    """Fine-tune once with the margin and once without; ask the start, the end and averages of each."""
    import copy

    import numpy as np

    from tether.methods.clipood import class_texts, tune_images_
    from tether_lab.worlds import domain_shift as things

    learnt, others = things.split_classes(CLASSES)
    rng, light = np.random.default_rng([lab.seed, 0]), lab.generator("light")
    count = lab.steps(TESTED, 60)
    train = things.other_light(things.draw(learnt, count=lab.steps(IMAGES, 60), rng=rng), generator=light)
    seen = things.other_light(things.draw(learnt, count=count, rng=rng), generator=light)
    unseen = things.draw(others, count=count, rng=rng)

    start = things.start(seed=lab.seed, steps=lab.steps(START_STEPS), pairs=lab.steps(things.PAIRS, 64))
    to_learn, to_keep = (class_texts(start, names, template=things.TEMPLATE) for names in (learnt, others))

    def ask(model: Clip, name: str) -> dict[str, float]:
        return {
            f"open_{name}": things.accuracy(model, unseen, class_text=to_keep),
            f"seen_light_{name}": things.accuracy(model, seen, class_text=to_learn),
        }

    notes = ask(start, "start")
    for suffix, margin in (("", 0.3), ("_no_margin", 0.0)):
        model = copy.deepcopy(start)
        tuned = tune_images_(
            model,
            batches(lab, train),
            class_text=to_learn,
            steps=lab.steps(STEPS),
            margin=margin,
            learning_rate=LEARNING_RATE,
        )
        notes |= ask(model, f"last{suffix}") | ask(cast("Clip", tuned.model), f"average{suffix}")
        notes |= ask(halfway(start, model), f"halfway{suffix}")
    notes["seen_light_gain"] = notes["seen_light_average"] - notes["seen_light_last"]
    notes["margin_gain_open"] = notes["open_average"] - notes["open_average_no_margin"]
    notes["both_average"] = (notes["open_average"] + notes["seen_light_average"]) / 2
    notes["both_halfway"] = (notes["open_halfway_no_margin"] + notes["seen_light_halfway_no_margin"]) / 2
    return Trial(notes["open_last_no_margin"], notes["open_average"], notes)


def halfway(start: Clip, end: Clip) -> Clip:
    """A model whose every weight is the mean of those of two."""
    import copy

    import torch

    model = copy.deepcopy(start)
    with torch.no_grad():
        for weight, other in zip(model.parameters(), end.parameters(), strict=True):
            weight.lerp_(other, 0.5)
    return model


def batches(lab: Lab, train: Labelled) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches in random order without end; the same for every run of a seed."""
    import torch

    generator = lab.generator("order")
    while True:
        for rows in torch.randperm(len(train.labels), generator=generator).split(BATCH):
            if len(rows) == BATCH:
                yield train.pixels[rows], train.labels[rows]

"""A first trial for each kind of part, on handwritten digits: where a new paper's study begins, before its own bed.

Each takes the name under which the part is registered and gives the figure without it and with it, from equal weights,
batches and steps. A tiny CLIP learns "the digit seven"; a chance answer is one in ten.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor

from tether.core.protocols import Objective, Step
from tether.core.types import Batch
from tether.data import open_source
from tether.data.sets.digits import NAMES
from tether.evaluate.inspect.runner import inspect_model
from tether.losses import OBJECTIVES, ClipLoss
from tether.models.embed import encode_images
from tether.models.presets import create
from tether.models.towers.clip import Clip
from tether.optim.clip import CLIPPERS
from tether.tasks.classify import CLASSIFIER_HEADS
from tether.tasks.classify.zero_shot import Scores, ZeroShotClassifier
from tether.training.steps import ComposedStep
from tether.workflows.adapt import adapt
from tether_lab.lab.card import Trial
from tether_lab.lab.lab import Lab
from tether_lab.worlds.char_lm_spikes import limit_trial
from tether_lab.worlds.in_memory import fit_rows
from tether_lab.worlds.pairs import load_pairs

SIDE, BATCH, STEPS, RATE = 32, 64, 200, 2e-3
SHOTS = 4
"""Images a class from which a recipe learns."""
ROWS = 200
"""Pairs that a probe looks at."""


def objective_trial(name: str, lab: Lab) -> Trial:
    """Accuracy of zero-shot answers after training with CLIP's loss, and with the objective."""
    return _pair([_accuracy(trained(lab, objective=one)) for one in (ClipLoss(), OBJECTIVES[name]())])


def term_trial(name: str, lab: Lab) -> Trial:
    """Accuracy of zero-shot answers after training with CLIP's loss, and with the term added to it."""
    return _pair([_accuracy(trained(lab, terms=terms)) for terms in (["objective"], ["objective", name])])


def view_trial(name: str, lab: Lab) -> Trial:
    """Accuracy of zero-shot answers after training on the images as they are, and on this view of them."""
    views = ({}, {"name": name})
    return _pair([_accuracy(trained(lab, views={"image": one, "text": {}})) for one in views])


def head_trial(name: str, lab: Lab) -> Trial:
    """Accuracy on a trained CLIP of its zero-shot classifier, and of the head; both are told the class names."""
    model, (pixels, labels), found = trained(lab), _held_out(), list[float]()
    for head in (ZeroShotClassifier(), CLASSIFIER_HEADS[name]()):
        answer = head.prepare(model, NAMES).predict(pixels)
        assert isinstance(answer, Scores)
        found.append(_share(answer.cosine.argmax(dim=1), labels))
    return _pair(found)


def recipe_trial(name: str, lab: Lab) -> Trial:
    """Accuracy of ``tether.adapt`` from a few labelled images, with a linear probe and with the recipe."""
    model, (pixels, labels), found = trained(lab), _held_out(), list[float]()
    for recipe in ("probe", name):
        done = adapt(
            model,
            f"digits:split=train,size={SIDE}",
            recipe=recipe,
            shots=SHOTS,
            test=f"digits:split=validation,size={SIDE}",
            keep=f"digits:split=validation,size={SIDE}",
            seed=lab.seed,
            device="cpu",
        )
        encoder = model if done.model is None else done.model
        if done.head is None:
            found.append(_accuracy(encoder))
            continue
        numbers = torch.tensor([int(one) for one in done.head.classes])
        rows = encode_images(done.head.reader(encoder), pixels.split(256))
        found.append(_share(numbers[done.head.logits(rows).argmax(dim=1)], labels))
    return _pair(found)


def clipper_trial(name: str, lab: Lab) -> Trial:
    """Loss of a character model under bad batches, with the best of four constant limits and with the clipper."""
    return limit_trial(CLIPPERS[name], lab)


def probe_trial(name: str, lab: Lab) -> Trial:
    """The probe's first figure on a model with random weights, and on the same one after training."""
    source, found = open_source(f"digits:split=test,size={SIDE}", where="lab"), list[float]()
    for model in (_start(lab).eval(), trained(lab)):
        with tempfile.TemporaryDirectory() as folder:
            report = inspect_model(model, source, out=folder, probes=[name], limit=ROWS, seed=lab.seed)
        section = report.section(name)
        assert section.finding is not None, section.problem
        found.append(section.finding.figures[0].value)
    return _pair(found)


def trained(lab: Lab, *, objective: Objective | None = None, **settings: Any) -> Clip:
    """A tiny CLIP that has learnt the digits.

    Args:
        lab: seed of weights and batches, and budget.
        objective: of the run; CLIP's loss, in which equal captions are no negatives, if None.
        settings: of ``ComposedStep``: views, terms, heads, a teacher.
    """
    model, pairs, steps = _start(lab), load_pairs(f"digits:split=train,size={SIDE}", size=SIDE), lab.steps(STEPS)
    tokens = model.tokenizer([texts[0] for texts in pairs.texts])
    own = ClipLoss(duplicates="positives") if objective is None else objective
    step: Step = ComposedStep(own, steps=steps, seed=lab.seed, **settings)
    return fit_rows(
        model,
        lambda rows: Batch(pairs.pixels[rows], tokens[rows]),
        rows=len(pairs),
        step=step,
        steps=steps,
        batch_size=BATCH,
        learning_rate=RATE,
        generator=lab.generator("batches"),
    )


def _pair(found: list[float]) -> Trial:
    baseline, ours = found
    return Trial(baseline, ours)


def _start(lab: Lab) -> Clip:
    return create("tiny", seed=lab.seed, image_size=SIDE, logit_bias=-10.0)  # which SigLIP's kind of loss needs


def _held_out() -> tuple[Tensor, Tensor]:
    pairs = load_pairs(f"digits:split=test,size={SIDE}", size=SIDE)
    return pairs.pixels, torch.tensor([int(str(row["label"])) for row in pairs.meta])


def _accuracy(model: Any) -> float:
    pixels, labels = _held_out()
    answer = ZeroShotClassifier().prepare(model, NAMES).predict(pixels)
    return _share(answer.cosine.argmax(dim=1), labels)


def _share(found: Tensor, labels: Tensor) -> float:
    return 100 * float((found == labels).double().mean())

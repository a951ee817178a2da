"""Ways to tune a small CLIP for image search on some classes of scenes, those of a paper and simple ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.adaptation.recipes.moving import move_
from tether.adaptation.recipes.tuning import Tuning, play
from tether.adaptation.weights import interpolate
from tether.core.gather import Gather
from tether.core.types import Batch, Loss
from tether.losses import clip_loss
from tether.methods.retrieval_align import ArcMarginHead, ImageSearch
from tether.methods.retrieval_align.finetune import CAPTIONS, CLASSES, LABEL
from tether.models import Clip
from tether.models.embed import encode_images, encode_texts
from tether.optim import parameter_groups
from tether.training.steps.module import StepModule, loss_inside
from tether.training.tensor_batches import ReplayedBatches
from tether_lab.lab.lab import Lab
from tether_lab.worlds.in_memory import draws
from tether_lab.worlds.shape_pairs import (
    BATCH,
    LEARNT,
    CaptionedShapes,
    base,
    figures,
    parts,
    state_map,
    states,
    token_ids,
)

STEPS, REALIGN_STEPS = 200, 200
RATE, REALIGN_RATE, HEAD_RATE, DECAY = 1e-3, 3e-4, 1e-2, 0.1
GPR: dict[str, Any] = {"method": "2sft", "learning_rate": 3e-4}
"""GPR-FT, slower than all else: of the rates that were tried this gave the best mean after Re-A."""
SENTENCES = 3
"""Captions of an image that MCIP holds it to."""
SHARES = tuple(tenth / 10 for tenth in range(11))


def compared(lab: Lab) -> dict[str, float]:
    """All arms on the test part: ``map_ARM``, ``r5_ARM`` and ``mean_ARM`` of one embedding, see ``figures``.

    The base; ``gpr``, after class margins on the output of the image tower, and ``2sft``, with texts brought to that;
    ``gpr_faster``, at the rate of the others; ``margins``, after class margins on the joint embedding; ``mcip`` and
    ``mcip_realigned``; ``both``, see ``both_at_once``; ``interpolated``, see ``on_the_way``, between the base and one
    of the three without captions.

    Further, ``map_state_ARM`` of the tower's output; ``map_base_best``, the better of the base's two; ``two_thirds``,
    the recall of ``gpr`` and two thirds of what it lost; ``changed_by_realigning``, how many numbers; ``share``.
    """
    told, start = parts(lab.seed, lab.smoke), base(lab)
    said = embedded(told.learnt, start)
    again = {"realign_steps": lab.steps(REALIGN_STEPS)}
    arms = {
        "base": start,
        "gpr": tuned(lab, start, said, **GPR),
        "2sft": tuned(lab, start, said, **GPR, **again),
        "gpr_faster": tuned(lab, start, said, method="2sft"),
        "margins": tuned(lab, start, said, caption_weight=0.0),
        "mcip": tuned(lab, start, said),
        "mcip_realigned": tuned(lab, start, said, **again),
        "both": both_at_once(lab, start, said),
    }
    ends = [arms[name] for name in ("gpr", "gpr_faster", "margins")]
    arms["interpolated"], share = on_the_way(start, ends, score=lambda model: figures(model, told.validation)["mean"])
    found = {name: figures(model, told.test) for name, model in arms.items()}
    notes = {f"{kind}_{name}": value for name, each in found.items() for kind, value in each.items()} | {"share": share}
    notes |= {f"map_state_{name}": state_map(arms[name], told.test) for name in ("base", "gpr")}
    notes["map_base_best"] = max(notes["map_base"], notes["map_state_base"])
    notes["two_thirds"] = notes["r5_gpr"] + 2 / 3 * (notes["r5_base"] - notes["r5_gpr"])
    pixels = told.test.pixels
    joint = (encode_images(arms[name], [pixels]) for name in ("mcip", "mcip_realigned"))
    state = (states(arms[name], told.test) for name in ("gpr", "2sft"))
    notes["changed_by_realigning"] = float(sum(int((one != other).sum()) for one, other in (joint, state)))
    return notes


def embedded(told: CaptionedShapes, start: Clip) -> Float[Tensor, "n k d"]:
    """The base's embeddings of some captions of each image."""
    rows = encode_texts(start, [text for texts in told.texts for text in texts[:SENTENCES]])
    return rows.unflatten(0, (len(told.texts), -1))


def tuned(lab: Lab, start: Clip, said: Float[Tensor, "n k d"], **settings: Any) -> Clip:
    """The base after the recipe ``image_search`` on the classes that are learnt; ``start`` is left as it was.

    Args:
        lab: seed and budget.
        start: the base.
        said: its embeddings of captions.
        **settings: of the recipe; without ``realign_steps`` texts do not move.
    """
    model = copy.deepcopy(start)
    plan: dict[str, Any] = {"steps": lab.steps(STEPS), "realign_steps": 0, "weight_decay": DECAY}
    plan |= {"learning_rate": RATE, "realign_rate": REALIGN_RATE, "head_rate": HEAD_RATE}
    recipe = ImageSearch(**plan | settings)
    tokens = token_ids(model, parts(lab.seed, lab.smoke).learnt)[:, :SENTENCES]
    model.prune_vocabulary_(tokens)
    pairs = ReplayedBatches(lambda: _pairs(lab, tokens)) if recipe.realign_steps else None
    batches = ReplayedBatches(lambda: _labelled(lab, said))
    recipe.fit_(model, batches, pairs=pairs, classes=LEARNT, seed=lab.seed)
    model.restore_vocabulary_()
    return model


def both_at_once(
    lab: Lab,
    start: Clip,
    said: Float[Tensor, "n k d"],
) -> Clip:
    """The base after class margins and CLIP's own loss in each step, texts at rest: the plain mixture of both."""
    model, steps = copy.deepcopy(start), lab.steps(STEPS)
    moving = move_(model, "image")
    head = ArcMarginHead(model.dim, classes=LEARNT, generator=torch.Generator().manual_seed(lab.seed))
    groups = [
        group | {"params": [pair for pair in group["params"] if pair[0] in moving], "lr": RATE}
        for group in parameter_groups(model, weight_decay=DECAY)
    ]
    plan = Tuning(
        step=_BothStep(),
        batches=ReplayedBatches(lambda: _labelled(lab, said)),
        steps=steps,
        optimizer={"name": "adamw", "lr": RATE, "betas": [0.9, 0.999], "eps": 1e-8},
        groups=[
            *(group for group in groups if group["params"]),
            {"name": CLASSES, "params": [*head.named_parameters()], "weight_decay": 0.0, "lr": HEAD_RATE},
        ],
        modules={CLASSES: head},
    )
    play(plan, model, seed=lab.seed)
    return model


class _BothStep:
    """Class margins and symmetric InfoNCE with one caption each, weighing the same; a ``core.protocols.Step``."""

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See core.protocols.Step."""
        del step, gather
        return loss_inside(model, self._loss, batch)

    def _loss(self, module: StepModule, batch: Batch) -> Loss:
        features, head = module.model.encode_image(batch.image).unit, module.heads[CLASSES]
        text = F.normalize(cast(Tensor, batch.extra[CAPTIONS])[:, 0], dim=1)
        margin = cast(ArcMarginHead, head).loss(features, labels=cast(Tensor, batch.extra[LABEL]))
        return Loss(margin + clip_loss(features, text, module.model.logit_scale.detach()), {})


def on_the_way(start: Clip, ends: Sequence[Clip], *, score: Callable[[Clip], float]) -> tuple[Clip, float]:
    """Of all weights between the base and some models the best by ``score``, and its share; of equals the first."""
    found = [(share, interpolate(start, end, share=share)) for end in ends for share in SHARES]
    scores = [score(model) for _, model in found]
    share, model = found[scores.index(max(scores))]
    return model, share


def _labelled(lab: Lab, said: Float[Tensor, "n k d"]) -> Iterator[Batch]:
    """Images with their classes and embeddings of captions; in the same order for all arms of a seed."""
    told, nothing = parts(lab.seed, lab.smoke).learnt, torch.empty(BATCH, 0, dtype=torch.long)
    for some in _rows(lab, told):
        yield Batch(told.pixels[some], nothing, {LABEL: told.labels[some], CAPTIONS: said[some]})


def _pairs(lab: Lab, tokens: Int[Tensor, "n k l"]) -> Iterator[Batch]:
    """The same images, each with one of its captions."""
    told, chance = parts(lab.seed, lab.smoke).learnt, lab.generator("pairs")
    for some in _rows(lab, told):
        yield Batch(told.pixels[some], tokens[some, torch.randint(tokens.shape[1], some.shape, generator=chance)])


def _rows(lab: Lab, told: CaptionedShapes) -> Iterator[Tensor]:
    return draws(len(told.labels), size=BATCH, generator=lab.generator("order"))

"""A CLIP goes on by captions told from patches and patches rebuilt from captions: how much the captions then help."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tether.adaptation.recipes.tuning import Tuning, play
from tether.core.types import Batch
from tether.losses import ClipLoss
from tether.methods.sycoca.cross_decoder import TextGuidedDecoder
from tether.methods.sycoca.masked_patches import masked_patch_loss, patch_pixels, patch_scores
from tether.methods.sycoca.untold_tokens import UntoldTokens
from tether.models.towers.clip import Clip
from tether.models.towers.patch_selection import removed_tokens
from tether.optim.clip import GlobalNorm
from tether.training.schedules import Cosine
from tether.training.steps import ComposedStep
from tether.training.steps.module import StepModule, ViewRows, encode_views
from tether.training.tensor_batches import ReplayedBatches
from tether_lab.lab.lab import Lab
from tether_lab.worlds import in_memory
from tether_lab.worlds.plain_scenes import SIDE, PlainScenes, hidden_share, pixel_clip, told_scenes

SCENES, HELD_OUT, POOL = 2_000, 512, 200
PATCH, BASE_STEPS, THINGS = 8, 250, (2, 2)
BLOCK = {"activation": "gelu", "ffn_mid_norm": False, "ctx_norm": False}
VISION = {"tower": "eva", "pool": "mean", "rope_span": None, "block": BLOCK}
"""CLIP's own image tower but for its embedding, which is the mean of all tokens: so patches are like texts, too."""
STEPS, BATCH, RATE, DECAY = 400, 16, 1e-3, 0.1
WIDTH, DEPTH = 64, 2
GRID = (SIDE // PATCH, SIDE // PATCH)

Arm = Literal["attentive", "random", "captions"]
"""What is hidden, patches that the caption speaks of or any; ``captions`` rebuilds nothing, as CoCa."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The mean squared error of hidden patches, whose pixels have a variance of 1.

    Attributes:
        true: with the image's own caption.
        other: with the caption of another image.
        hidden: of what things cover, how much was hidden, in percent.
    """

    true: float
    other: float
    hidden: float

    @property
    def ratio(self) -> float:
        """The first in percent of the second."""
        return 100 * self.true / self.other


@dataclass(frozen=True, slots=True)
class RebuiltBench:
    """What all arms of a seed share: the CLIP they begin as, scenes to learn from, and others."""

    start: Clip
    train: PlainScenes
    held_out: PlainScenes


def prepare(lab: Lab) -> RebuiltBench:
    """Teach the CLIP and draw the scenes."""
    clip = pixel_clip(lab, steps=BASE_STEPS, patch=PATCH, things=THINGS, vision=VISION)
    train = told_scenes(lab, "rebuilt", count=lab.steps(SCENES, 32), things=THINGS)
    return RebuiltBench(clip, train, told_scenes(lab, "held out", count=lab.steps(HELD_OUT, 16), things=THINGS))


def step_of(arm: Arm, *, steps: int, seed: int) -> ComposedStep:
    """The recipe ``caption-and-rebuild`` with smaller decoders, or a control of it."""
    select = "random" if arm == "random" else "attentive"
    views: dict[str, dict[str, Any]] = {"image": {"want": "tokens"}, "text": {"want": "tokens"}}
    heads: dict[str, Any] = {"decoder": {"name": "causal_decoder", "look": "tokens", "width": WIDTH, "layers": 1}}
    terms: list[Any] = [
        "objective",
        {"name": "caption", "look": "tokens", "drop": 0.5, "select": select, "weight": 2},
    ]
    if arm != "captions":
        patches = {"name": "untold", "hide": 0.5, "select": select}
        views["masked_image"] = {"source": "image", "want": "tokens", "patches": patches}
        heads["rebuilder"] = {"name": "text_guided", "width": WIDTH, "depth": DEPTH}
        terms.append("rebuild")
    objective = ClipLoss(duplicates="positives")
    return ComposedStep(objective, steps=steps, seed=seed, views=views, heads=heads, terms=terms)


def trained(lab: Lab, bed: RebuiltBench, arm: Arm) -> StepModule:
    """A copy of the start after the same batches in the same order, with its decoders, in eval mode."""
    model, steps = copy.deepcopy(bed.start).train(), lab.steps(STEPS)
    step = step_of(arm, steps=steps, seed=lab.seed)
    tokens = model.tokenizer(bed.train.texts)
    heads = step.new_heads(model)

    def batches() -> Iterator[Batch]:
        return in_memory.shuffled(bed.train.pixels, tokens, size=BATCH, generator=lab.generator("batches"))

    tuning = Tuning(
        step=step,
        batches=ReplayedBatches(batches),
        steps=steps,
        optimizer={"name": "adamw", "lr": RATE},
        weight_decay=DECAY,
        schedule=Cosine(warmup=steps // 10),
        clipper=GlobalNorm(),
        training=[model, *heads.values()],
        modules=heads,
        after_step=lambda report: model.clamp_logit_scale_(),
    )
    play(tuning, model, seed=lab.seed)
    return StepModule(model, heads=heads).eval()


@torch.inference_mode()
def hidden_by(model: Clip, told: PlainScenes) -> Int[Tensor, "n k"]:
    """The patches that are left when those that a model finds most similar to the captions are hidden."""
    views = {"image": ViewRows("image", told.pixels, want="tokens"), "text": _words(model, told.texts)}
    found, _ = encode_views(StepModule(model, micro_batch=128), views)
    # pyrefly: ignore[bad-argument-type] - the view wants tokens
    return UntoldTokens()(patch_scores(found["image"].tokens, found["text"].pooled), grid=GRID)


def random_patches(lab: Lab, told: PlainScenes) -> Int[Tensor, "n k"]:
    """Any half of the patches."""
    noise = torch.rand(len(told), GRID[0] * GRID[1], generator=lab.generator("hidden"))
    return UntoldTokens(select="random")(noise, grid=GRID)


@torch.inference_mode()
def measure(module: StepModule, told: PlainScenes, keep: Int[Tensor, "n k"]) -> Rebuilt:
    """How well hidden patches are rebuilt, with the true captions and with those of the next images.

    Args:
        module: with a ``rebuilder``.
        told: held-out scenes.
        keep: the patches that are left.
    """
    model = cast(Clip, module.model)
    decoder = cast(TextGuidedDecoder, module.heads["rebuilder"])
    others = [*told.texts[1:], told.texts[0]]
    views: Mapping[str, ViewRows] = {
        "image": ViewRows("image", told.pixels, keep=keep, want="tokens"),
        "true": _words(model, told.texts),
        "other": _words(model, others),
    }
    seen, _ = encode_views(StepModule(module.model, micro_batch=128), views)
    target = patch_pixels(told.pixels, patch=decoder.patch)
    hidden = removed_tokens(keep, tokens=target.shape[1])
    errors = []
    for said in ("true", "other"):
        rebuilt = decoder(seen["image"].tokens, seen[said].tokens, keep=keep, grid=GRID, word_mask=seen[said].mask)
        errors.append(float(masked_patch_loss(rebuilt, target, hidden)))
    return Rebuilt(errors[0], errors[1], hidden_share(told, range(len(told)), hidden))


def recall(model: nn.Module, told: PlainScenes) -> float:
    """At 1 among the first 200, the mean of both directions, in percent."""
    image, text = in_memory.unit_pairs(cast(Clip, model), told.pixels[:POOL], told.texts[:POOL])
    return 100 * in_memory.mean_recall(image, text)


def _words(model: Clip, texts: list[str]) -> ViewRows:
    return ViewRows("text", model.tokenizer(texts), want="tokens")

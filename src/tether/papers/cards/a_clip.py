"""A-CLIP: half of an image's patches, those that a trailing average of the model attends to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tether.core.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from tether.papers.reproduction.lab import Lab

SCENES, POOL = 6_000, 300
RATE, MOMENTUM, RULE = 1e-3, 0.98, "truncate"
FULL_LAST = 0.15
"""Learning rate, momentum of the average at first, and how half of the cells becomes a number of
them; share of the steps at the end that see all patches."""
STEPS, RANDOM, WHOLE = 330, 410, 298
"""Steps with attended patches, and those with random and with all patches that cost as much."""

CARD = Card(
    slug="a-clip",
    title="Attentive Mask CLIP",
    year=2022,
    arxiv="2212.08653",
    venue="ICCV 2023",
    code="microsoft/A-CLIP",
    authors=("Yang", "Huang", "Wei", "Peng", "Jiang", "Jiang", "Wei", "Wang", "Hu", "Qiu", "Yang"),
    package="models",
    parts=(
        "tether.models.tokens.AttentiveTokens",
        "tether.models.patch_attention.attentive_scores",
        "tether.models.patch_attention.patch_attention",
        "tether.models.patch_attention.scores_in_view",
        "tether.models.patch_attention.map_scores",
        "tether.losses.agreement.nt_xent_loss",
        "tether.losses.agreement.siamese_loss",
        "tether.train.ema.MovingEncoder",
        "tether.train.resized_reader.ResizedReader",
        "tether.train.terms.agreement.SimclrTerm",
        "tether.train.terms.agreement.ByolTerm",
    ),
    needs=("pairs", "a model trained from the start, with a plain transformer for images"),
    gives="A mask that drops half of the patches and keeps what the model looks at, with a small look of a trailing "
    "average for each image.",
    claim=Claim(
        says="With equal CPU time, a model that sees the half of the patches that its trailing average attends to "
        "finds more images and texts than one that sees a random half.",
        metric="recall at 1, mean of both directions, held-out scenes, percentage points",
        better="higher",
        margin=2.0,
        baseline=f"half of the patches at random, {RANDOM} steps (FLIP's way, and that of the recipe speedrun)",
        scale=f"{SCENES:,} scenes of two or three small or medium things, under a quarter of the image, at 64 px and "
        f"patch 8, with captions of about eighteen words; a tiny CLIP, {STEPS} steps of 64; {POOL} pairs to choose "
        "from",
        equal="CPU time by the measured cost of a step (58 ms with attended patches, the average's look at 32 px "
        "counted; 44 at random; 64 with all), patches that are kept (32 of 64), scenes, batch, optimiser and learning "
        "rate, all patches in the last 15 % of the steps; one view of each image; the rate is the better of two for "
        "random patches",
        conditions=(
            Condition(
                says="With as many steps it finds 2 points more than with a random half.",
                ours="ours",
                than="random_equal_steps",
                better="higher",
                least=2.0,
            ),
            Condition(
                says="It finds more than with all patches and as much CPU time.",
                ours="ours",
                than="all_patches",
                better="higher",
            ),
            Condition(
                says="After a third of the training, 0.6 or more of the patches that show a thing are kept; at random "
                "it is a half.",
                ours="things_kept",
                than=0.6,
                better="higher",
            ),
        ),
    ),
    differences=(
        "One view without SimCLR and BYOL: the claim is the mask's. The recipe `attentive` is the whole of it.",
        "The last 15 % of the steps see all patches, with either mask, as our recipes have it; the paper masks to the "
        "end and tests with all.",
        "The average looks at images of half the side, as in the paper's efficient variant, whose size is not "
        "published.",
        f"Its momentum starts at {MOMENTUM}, for runs of hundreds of steps; the paper's at 0.996.",
        "SimCLR sees both views, where the released code feeds the first one twice; the reference box reaches as far "
        "left as either view.",
        "The weights of the patches' projection learn; the released code freezes them.",
    ),
    minutes=8.0,
    guide="train-for-less.md",
)


def reproduce(lab: Lab) -> Trial:
    """One seed: attended patches, random ones for as many steps and as much time, and all of them."""
    from tether.models.patch_attention import patch_attention
    from tether.models.tokens import AttentiveTokens
    from tether.papers.testbeds import few_tokens as bed

    seen = bed.told("train", count=lab.steps(SCENES, 160), seed=lab.seed, world=bed.SMALL_THINGS)
    asked = bed.told("test", count=lab.steps(POOL, 20), seed=lab.seed, world=bed.SMALL_THINGS)
    things, grid = bed.thing_patches(asked.scenes), (bed.SIDE // bed.PATCH,) * 2
    small = bed.shrunk(asked.pixels)
    notes = {"things_cover": float(things.float().mean())}

    def look(average: Mapping[str, Tensor]) -> None:
        """What the mask keeps, of the average as it is then."""
        model = bed.new_clip(seed=lab.seed).eval()
        own = {name.removeprefix("visual."): one for name, one in average.items() if name.startswith("visual.")}
        model.visual.load_state_dict(own)
        scores = patch_attention(model.resized(image_size=bed.SMALL_SIDE), small, grid=grid)
        keep = AttentiveTokens(rule=RULE)(scores, grid=grid)
        notes["things_kept"] = float(things.gather(1, keep).sum() / things.sum())

    def measure(arm: str, *, steps: int, **how: Any) -> None:
        model = bed.new_clip(seed=lab.seed)
        bed.fit(model, seen.pixels, seen.captions, seed=lab.seed, steps=lab.steps(steps), rate=RATE, **how)
        notes[arm] = sum(bed.recalls(model, asked.pixels, asked.captions)) / 2

    average = {"ema": {"momentum": (MOMENTUM, 1.0), "image_size": bed.SMALL_SIDE}}
    whole = {"source": "image", "encoder": "teacher", "size": bed.SMALL_SIDE}
    half = {"keep_patches": 0.5, "full_last": FULL_LAST}
    attended = {"patches": {"name": "attentive", "rule": RULE}, "attended": "whole", "full_last": FULL_LAST}
    measure("attended", steps=STEPS, image=attended, more_views={"whole": whole}, teacher=average, watch=look)
    measure("random_equal_steps", steps=STEPS, image=half)
    measure("random", steps=RANDOM, image=half)
    measure("all_patches", steps=WHOLE)
    return Trial(notes["random"], notes["attended"], notes)

"""Steps by name: settings of ``ComposedStep``, each written as a recipe would."""

from __future__ import annotations

from typing import Any, Literal

from tether.core.protocols import Objective
from tether.core.ranges import NonNegative, Part, Positive, Share, checked
from tether.models.blocks.gate_controller import Rule
from tether.models.dual import Want
from tether.train.steps.composed import OWN, ComposedStep
from tether.train.steps.teachers import WORDS

_TWINS = {"negative_image": "negative_image", "negative_text": "negative_text"}


class ContrastiveStep(ComposedStep):
    """Images and texts, and the run's objective on them; optionally only some of each image's patches."""

    @checked
    def __init__(
        self,
        objective: Objective,
        *,
        steps: int,
        seed: int,
        keep_patches: Part = 1.0,
        full_last: Share = 0.0,
        want: Want = "pooled",
    ) -> None:
        """See ``ImageView``; ``want="tokens"`` also gives the objective patches and words in the joint space."""
        image = {"keep_patches": keep_patches, "full_last": full_last, "want": want}
        super().__init__(objective, steps=steps, seed=seed, views={"image": image, "text": {"want": want}})


class HardNegativeStep(ComposedStep):
    """The contrastive step for batches whose rows have twins (NegCLIP, TripletCLIP 2411.02545, CLIP-IN 2508.02329).

    ``batch.extra["negative_text"]`` (b, l) and, if there are any, ``["negative_image"]`` (b, 3, h, w) go through the
    same towers in the same forward; the objective finds them in ``Encoded``. With twins in both modalities a step costs
    about twice as much as one of plain CLIP with the same batch. Where images show only some of their patches, a twin
    shows the same ones.
    """

    @checked
    def __init__(
        self,
        objective: Objective,
        *,
        steps: int,
        seed: int,
        roles: Literal["together", "in_turn"] = "together",
        keep_patches: Part = 1.0,
        full_last: Share = 0.0,
    ) -> None:
        """See ``ImageView``, and who plays the positive.

        Args:
            objective: the loss, such as ``triplet_clip``.
            steps: length of the run.
            seed: of all chance.
            roles: ``together`` gives the objective all there is. ``in_turn`` shows it the pairs and their negative
                captions at even steps, the twins with the pairs' captions as negatives at odd ones: half the images,
                and with the objective ``neg_clip`` TripletCLIP's two terms by turns.
            keep_patches: see ``ImageView``.
            full_last: see ``ImageView``.
        """
        seen = {"keep_patches": keep_patches, "full_last": full_last}
        views: dict[str, dict[str, Any]] = {
            "image": {**seen},
            "text": {},
            "negative_image": {**seen, "optional": True},
            "negative_text": {},
        }
        twins = _TWINS
        if roles == "in_turn":
            views = {
                "image": {"source": ["image", "negative_image"], **seen},
                "text": {"source": ["text", "negative_text"]},
                "negative_text": {"source": ["negative_text", "text"]},
            }
            twins = {"negative_text": "negative_text"}
        super().__init__(objective, steps=steps, seed=seed, views=views, terms=[{"name": OWN, **twins}])


class ClipInStep(ComposedStep):
    """``objective(quadruples) + weight * CLIP(long captions)`` (arXiv 2508.02329, our reading of it).

    The batch is one of quadruples, as for the step ``hard_negatives``, whose extra also holds ``long_image``
    (n, 3, h, w) and ``long_text`` (n, l): any number of pairs of another data set; ``data.side_by_side`` brings them.
    """

    @checked
    def __init__(
        self,
        objective: Objective,
        *,
        steps: int,
        seed: int,
        weight: NonNegative = 1.0,
        duplicates: Literal["negatives", "positives"] = "negatives",
        keep_patches: Part = 1.0,
        full_last: Share = 0.0,
    ) -> None:
        """See ``ImageView``, and the loss on long captions.

        Args:
            objective: of the quadruples; ``symmetric_negatives`` is the paper's.
            steps: length of the run.
            seed: of all chance.
            weight: of CLIP's loss on the long captions; the paper's value is not known.
            duplicates: of long captions, see ``ClipLoss``; those of the quadruples are the objective's affair.
            keep_patches: see ``ImageView``.
            full_last: see ``ImageView``.
        """
        seen = {"keep_patches": keep_patches, "full_last": full_last}
        long = {"name": "clip", "image": "long_image", "text": "long_text", "duplicates": duplicates}
        super().__init__(
            objective,
            steps=steps,
            seed=seed,
            views=dict.fromkeys(("image", "negative_image", "long_image"), seen)
            | {name: {} for name in ("text", "negative_text", "long_text")},
            terms=[{"name": OWN, **_TWINS}, {**long, "weight": weight, "as": "long"}],
        )


class SemanticStep(ComposedStep):
    """The contrastive step for ``align_clip``: ``batch.extra["semantic"]`` (b, e) holds each caption's meaning.

    The paper asks a frozen sentence encoder (arXiv 2406.17639, section 4). ``encoder: NAME`` is any model that
    ``tether.load`` gives, whose text tower reads the captions without gradient; it is named in the run's configuration
    and never saved with the model. ``words`` counts tokens, which costs nothing and needs no model: captions are alike
    as far as they share words.
    """

    @checked
    def __init__(
        self,
        objective: Objective,
        *,
        steps: int,
        seed: int,
        encoder: str = WORDS,
        keep_patches: Part = 1.0,
        full_last: Share = 0.0,
    ) -> None:
        """See ``ImageView``; ``encoder`` is ``words`` or the name of a model for ``tether.load``."""
        super().__init__(
            objective,
            steps=steps,
            seed=seed,
            views={
                "image": {"keep_patches": keep_patches, "full_last": full_last},
                "text": {},
                "meaning": {"source": "text", "encoder": encoder},
            },
            terms=[{"name": OWN, "extra": {"semantic": "meaning"}}],
        )


class SkipMiddleStep(ComposedStep):
    """The contrastive step plus the gates' penalty (arXiv 2506.21103), for models with ``gate: mirror`` in a tower."""

    @checked
    def __init__(
        self,
        objective: Objective,
        *,
        steps: int,
        seed: int,
        start: Share = 1.0,
        end: Share = 0.5,
        rule: Rule = "proportional",
        gain: Positive = 1e-3,
        dead_zone: NonNegative = 0.01,
        keep_patches: Part = 1.0,
        full_last: Share = 0.0,
    ) -> None:
        """See ``GatePenalty`` and ``ImageView``."""
        gates = {"name": "gates", "start": start, "end": end, "rule": rule, "gain": gain, "dead_zone": dead_zone}
        super().__init__(
            objective,
            steps=steps,
            seed=seed,
            views={"image": {"keep_patches": keep_patches, "full_last": full_last}, "text": {}},
            terms=[OWN, gates],
        )


class SpecsStep(ComposedStep):
    """The contrastive step, and the two hinges of SPECS on captions cut into pieces (arXiv 2509.03897).

    See ``GrowingDetails`` for the texts and ``DetailHinges`` for the hinges; all texts go through the tower in one
    forward, so they cost four times as much. The contrast is the run's objective; the release's is ``{name: clip,
    directions: text_to_image}``.
    """

    @checked
    def __init__(
        self,
        objective: Objective,
        *,
        steps: int,
        seed: int,
        lambda_contrast: NonNegative = 1.0,
        lambda_detail: NonNegative = 8.0,
        lambda_neg: NonNegative = 0.8,
        margin: NonNegative | None = None,
        shuffled_first: Share = 0.9,
        keep_patches: Part = 1.0,
        full_last: Share = 0.0,
    ) -> None:
        """See ``SpecsLoss``, ``GrowingDetails`` and ``ImageView``; ``lambda_contrast`` weighs the objective."""
        growing = {"source": "text", "rewrite": {"name": "growing", "shuffled_first": shuffled_first}}
        details = {"name": "details", "lambda_detail": lambda_detail, "lambda_neg": lambda_neg, "margin": margin}
        super().__init__(
            objective,
            steps=steps,
            seed=seed,
            views={
                "image": {"keep_patches": keep_patches, "full_last": full_last},
                "text": {},
                "growing": growing,
            },
            terms=[{"name": OWN, "weight": lambda_contrast}, details],
        )

"""Another text tower, taught on the captions of pairs and tuned with them: ProCLIP."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, cast

from torch import nn

from tether.adaptation.finetune.lora import Lora as LoraEdit
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import check_own_towers, rest_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model, refused
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.adaptation.recipes.two_stages import TwoStages
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Decay, NonNegative, PositiveRate, Rate, Whole, checked
from tether.core.types import Batch
from tether.methods.proclip.distill import EMA, MINILM, ProclipStep, swap_text
from tether.models.composed.embedder import EXPANSION, Few
from tether.models.composed.encoder import ComposedEncoder
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.editable import IN_A_BLOCK
from tether.models.towers.clip import Clip
from tether.optim import parameter_groups
from tether.training.schedules import Cosine


class SwapText(TuneRecipe):
    """The image tower of the base and the texts of another embedder, which may read longer texts or other languages.

    An adapter behind the frozen embedder first learns what the old text tower made of the captions, then adapter and
    image tower are tuned on the pairs, while the image tower is held to its own past. It gives a composed encoder.

    Source: ProCLIP (arXiv 2510.18795). Its rates and the weight of the distillation are not published; means take the
    place of its sums, so that the weight does not depend on the batch.
    """

    takes = "pairs"
    gives = "model"
    rebuilds = True
    cost = 300.0

    @checked
    def __init__(
        self,
        *,
        embedder: str | dict[str, Any] | None = MINILM,
        expansion: Few = EXPANSION,
        blocks: Few = 1,
        first: Whole = 500,
        steps: Count = 300,
        batch_size: Count = 64,
        weight: NonNegative = 1.0,
        ema: Decay | None = EMA,
        rank: Count | None = None,
        adapter_rate: PositiveRate = 1e-3,
        learning_rate: PositiveRate = 1e-5,
        weight_decay: Rate = 0.05,
    ) -> None:
        """Take the settings.

        Args:
            embedder: a text tower, see ``swap_text``. None goes on with the second stage of a composed
                encoder that has one already.
            expansion: see ``EmbedderAdapter``.
            blocks: see ``EmbedderAdapter``.
            first: steps on captions alone.
            steps: steps on pairs, after them.
            batch_size: pairs of a step, at least 2.
            weight: see ``ProclipStep``.
            ema: see ``ProclipStep``.
            rank: of low-rank changes of the linear layers in the image tower's blocks, merged at the end; None tunes
                all of it. The release has 32, on attention alone.
            adapter_rate: learning rate of the adapter, at the start of each stage; it falls to 0 as a cosine.
            learning_rate: of the image tower, its map and the logit scale.
            weight_decay: on matrices only.
        """
        self.embedder, self.expansion, self.blocks = embedder, expansion, blocks
        self.first, self.steps, self.batch_size = first if embedder is not None else 0, steps, batch_size
        self.weight, self.ema, self.rank = weight, ema, rank
        self.adapter_rate, self.learning_rate, self.weight_decay = adapter_rate, learning_rate, weight_decay

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        check_own_towers(model)
        if self.embedder is None and not isinstance(model, ComposedEncoder):
            raise refused("not composed", found=type(model).__name__)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        old = cast("Clip | WrappedEncoder", model)
        if self.embedder is None:
            new = copy.deepcopy(cast(ComposedEncoder, model))
        else:
            new = swap_text(old, self.embedder, expansion=self.expansion, blocks=self.blocks)
        rest_(old)
        parts = new.parts
        new.requires_grad_(True)
        parts.image.lock_("tuned")
        parts.text.lock_("locked")
        edits = [] if self.rank is None else [_On(new, self.rank)]
        groups = parameter_groups(parts.text_map, weight_decay=self.weight_decay)
        for group in groups:
            group["lr"] = self.adapter_rate
        parts.text_map.requires_grad_(False)
        groups += parameter_groups(new, weight_decay=self.weight_decay)
        parts.text_map.requires_grad_(True)
        total = self.first + self.steps
        return Tuning(
            step=ProclipStep(new, steps=total, first=self.first, old=old, weight=self.weight, ema=self.ema),
            batches=given.loader(new, batch_size=self.batch_size),
            steps=total,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            groups=groups,
            schedule=TwoStages(Cosine(), Cosine(), first=self.first),
            training=[part for name, part in new.named_modules() if name.endswith(".lora_dropout")],
            modules={"swapped": new},
            edits=edits,
            after_step=lambda report: new.clamp_logit_scale_(),
            finish=lambda: Outcome(model=new),
        )


class _On:
    """Low-rank changes of the image tower of one model, whichever is asked for; a ``ModelEdit``."""

    def __init__(self, model: ComposedEncoder, rank: int) -> None:
        """Args: model: whose. rank: and so alpha, as in the release."""
        self._model = model
        self._edit = LoraEdit(rank=rank, alpha=rank, dropout=0.1, targets=rf"^model\.image\..*?{IN_A_BLOCK}")
        self._edit.apply_(model)

    def apply_(self, model: nn.Module, calibration: Iterable[Batch] = ()) -> nn.Module:
        return model

    def merge_(self, model: nn.Module) -> nn.Module:
        self._edit.merge_(self._model)
        return model

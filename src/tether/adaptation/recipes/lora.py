"""Low-rank adapters, trained on labelled images against the texts of their classes."""

from __future__ import annotations

import re
from typing import cast

from torch import nn

from tether.adaptation.finetune.lora import Lora as LoraEdit
from tether.adaptation.finetune.lora import check_rank
from tether.adaptation.recipes.class_step import ClassStep
from tether.adaptation.recipes.class_tuning import Images, contents_of
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import Sides, prefixes, rest_
from tether.adaptation.recipes.recipe import Case, TuneRecipe
from tether.adaptation.recipes.refusals import refused
from tether.adaptation.recipes.tuning import Tuning
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, PositiveRate, Rate, Share, checked
from tether.models.features.editable import IN_A_BLOCK, editable_layers, name_pattern


class LoraRecipe(TuneRecipe):
    """Low-rank changes of the linear layers in both towers, merged at the end; the texts of the classes stay askable.

    Source: arXiv 2405.18541 (adapters for few shots): rate, dropout and weight decay are its own; rank and alpha are
    the edit's. The towers' own weights, the maps of a composed encoder and the logit scale rest.
    """

    takes = "labels"
    gives = "model"
    cost = 100.0
    least = 8

    @checked
    def __init__(
        self,
        *,
        rank: Count = 8,
        alpha: Count | None = None,
        dropout: Share = 0.25,
        side: Sides = "both",
        steps: Count = 200,
        batch_size: Count = 32,
        learning_rate: PositiveRate = 2e-4,
        weight_decay: Rate = 0.01,
        images: Images = "crops",
    ) -> None:
        """Take the settings.

        Args:
            rank: of the change of each weight.
            alpha: what it is multiplied with, over ``rank``; twice the rank if None.
            dropout: of an adapter's input.
            side: whose layers; those of a side without any, such as a convolutional tower's, are left out of ``both``.
            steps: of the run.
            batch_size: images of a step.
            learning_rate: at the start; it falls to 0 as a cosine.
            weight_decay: of the adapters.
            images: random crops, mirrored in half of the cases (wrong for lettering), or as they are.
        """
        self.rank, self.alpha, self.dropout, self.side = rank, alpha, dropout, side
        self.steps, self.batch_size, self.learning_rate = steps, batch_size, learning_rate
        self.weight_decay, self.images = weight_decay, images

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        del case
        return "moves the towers themselves a little and leaves a model, which can be asked for other classes too"

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        layers = self._layers(model)
        if not layers:
            raise refused("no blocks", found=f"{self.side} side")
        check_rank(self.rank, layers)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        module = cast(nn.Module, model)
        rest_(model)
        module.requires_grad_(True)
        targets = f"^(?:{'|'.join(map(re.escape, self._layers(model)))})$"
        edit = LoraEdit(rank=self.rank, alpha=self.alpha, dropout=self.dropout, targets=targets)
        edit.apply_(module)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(".lora_" in name)
        return Tuning(
            step=ClassStep.of(model, given, texts=self.side != "image"),
            batches=given.loader(model, batch_size=self.batch_size, contents=contents_of(self.images)),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            weight_decay=self.weight_decay,
            training=[part for name, part in module.named_modules() if name.endswith(".lora_dropout")],
            edits=[edit],
            fixed_images=self.images == "plain",
        )

    def _layers(self, model: DualEncoder) -> dict[str, nn.Module]:
        """Layers that get an adapter by dotted name."""
        begins = tuple(f"{one}." for one in prefixes(model, self.side))
        try:
            found = editable_layers(cast(nn.Module, model), name_pattern(IN_A_BLOCK, where="targets"), where="targets")
        except InputError:
            return {}
        return {name: layer for name, layer in found.items() if name.startswith(begins)}

"""A head on frozen embeddings, learnt across sites whose images stay there, under differential privacy."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, Lt
from torch import nn

from tether.adaptation.heads.linear import LinearHead
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.recipe import FitRecipe
from tether.adaptation.recipes.tuning import Outcome
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Inner, NonNegative, Positive, PositiveRate, checked
from tether.losses import OBJECTIVES
from tether.methods.dpfl_moo_clip import MooClipSchedule, PrivateClient, federate
from tether.methods.dpfl_moo_clip.checks import COUPLED


class FederatedHead(FitRecipe):
    """A softmax over classes on embeddings, by rounds between sites with Opacus' DP-SGD: samples are protected.

    A simulation on one machine: rows are dealt out to ``clients`` sites by their keys. It begins at the texts of the
    classes, which everybody knows, so at zero-shot classification. Weights and a noisy share of clipped samples are all
    that leaves a site. The clipping norm moves by ``MooClipSchedule``; with ``adaptive=False`` it stays.

    ``loss`` must be of each image alone. Contrastive losses compare the images of a batch, and are refused with the
    reason. What ``tether adapt`` measures and writes besides, such as accuracy and counts of classes, is told to who
    holds all data, and is under no privacy.

    Its ``privacy`` has epsilon, delta and the last clipping norm.
    """

    takes = "labels"
    gives = "head"
    cost = 5.0

    @checked
    def __init__(
        self,
        *,
        clients: Annotated[int, Ge(1), Le(100_000)] = 5,
        rounds: Annotated[int, Ge(1), Le(1_000_000)] = 60,
        steps: Count = 1,
        batch_size: Count = 64,
        noise_multiplier: NonNegative = 1.5,
        delta: Inner | None = None,
        learning_rate: PositiveRate = 8.0,
        clip: Positive = 1.0,
        adaptive: bool = True,
        kappa: Positive | None = None,
        target: Inner | None = None,
        count_std: Positive | None = None,
        accountant: Literal["rdp", "prv"] = "rdp",
        loss: str = "cross_entropy",
        noise_seed: Annotated[int, Ge(0), Lt(2**40)] | None = None,
    ) -> None:
        """Take the settings.

        Args:
            clients: sites.
            rounds: between which the server takes means.
            steps: of each site a round.
            batch_size: mean size of a Poisson batch of a site.
            noise_multiplier: that Opacus' accountant is told.
            delta: of epsilon; a tenth of one over the rows of the smallest site by default.
            learning_rate: of SGD.
            clip: the clipping norm, or the first one.
            adaptive: let it move, and pay for the release of the share of clipped samples.
            kappa: see ``MooClipSchedule``.
            target: see ``MooClipSchedule``.
            count_std: noise on the count of clipped samples.
            accountant: of Opacus.
            loss: ``cross_entropy`` is the only one that each image has alone.
            noise_seed: to repeat a simulation; who knows it can take the noise away again.

        Raises:
            InputError: a contrastive loss, ``noise_multiplier >= 2 * count_std``, or both kappa and target.
        """
        if loss != "cross_entropy":
            known = f"{loss!r} is over pairs: {COUPLED}" if loss in OBJECTIVES else f"got {loss!r}"
            raise InputError(f"loss: expected cross_entropy; {known}")
        self.clients, self.rounds, self.steps, self.batch_size = clients, rounds, steps, batch_size
        self.noise_multiplier, self.delta, self.learning_rate = noise_multiplier, delta, learning_rate
        self.clip, self.adaptive, self.kappa, self.target = clip, adaptive, kappa, target
        self.count_std, self.accountant, self.noise_seed = count_std, accountant, noise_seed
        if adaptive:
            self._schedule(dim=1)

    def fit(self, model: DualEncoder, given: Given) -> Outcome:
        """See FitRecipe."""
        rows = given.embed(model)
        image, texts = F.normalize(rows.image, dim=1), F.normalize(given.class_text.float(), dim=1)
        home = torch.tensor([hash_int(row.key, seed=given.seed, salt="site") % self.clients for row in rows.rows])
        sizes = torch.bincount(home, minlength=self.clients)
        if int(sizes.min()) < self.batch_size:
            raise InputError(
                f"batch_size: expected at most the {int(sizes.min())} images of the smallest of {self.clients} sites, "
                f"got {self.batch_size}; fewer clients, smaller batches or more images"
            )
        module = nn.Linear(image.shape[1], len(texts))
        with torch.no_grad():
            module.weight.copy_(model.logit_scale.detach().float().cpu() * texts)
            module.bias.zero_()
        schedule = self._schedule(dim=sum(value.numel() for value in module.parameters())) if self.adaptive else None
        sites = [
            PrivateClient(
                module,
                image[home == site],
                rows.labels[home == site],
                batch_size=self.batch_size,
                noise_multiplier=self.noise_multiplier,
                lr=self.learning_rate,
                count_std=None if schedule is None else schedule.count_std,
                steps=self.steps,
                accountant=self.accountant,
                seed=None if self.noise_seed is None else self.noise_seed * self.clients + site,
            )
            for site in range(self.clients)
        ]
        delta = 0.1 / int(sizes.min()) if self.delta is None else self.delta
        done = federate(module, sites, rounds=self.rounds, clip=schedule or self.clip, delta=delta)
        head = LinearHead(
            done.module.get_parameter("weight"), bias=done.module.get_parameter("bias"), classes=given.classes
        )
        return Outcome(head=head, privacy={"epsilon": done.epsilon, "delta": delta, "clip": done.c})

    def _schedule(self, *, dim: int) -> MooClipSchedule:
        low, high = min(0.01, self.clip), max(100.0, self.clip)
        return MooClipSchedule(
            self.clip,
            self.kappa,
            noise_multiplier=self.noise_multiplier,
            dim=dim,
            batch_size=self.batch_size,
            target=self.target,
            bounds=(low, high),
            count_std=self.count_std,
        )

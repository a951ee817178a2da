"""More detail in image embeddings, by a denoiser that is trained on them first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import move_, rest_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.adaptation.recipes.two_stages import TwoStages
from tether.core.gather import Gather
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, NonNegative, Number, Positive, Share, Whole, checked
from tether.core.types import Batch, Loss
from tether.data.in_order import ordered
from tether.methods.un2clip.denoise import LEAST_GAIN, check_gain, denoiser_loss, drawn
from tether.methods.un2clip.denoiser import ConditionalDenoiser
from tether.methods.un2clip.finetune import LEARNING_RATE, Train, UnclipLoss, image_choice
from tether.methods.un2clip.noise_schedule import Target
from tether.models.embed import encode_images, encode_texts
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.image_digest import image_digest
from tether.models.towers.clip import Clip
from tether.models.towers.frozen_copy import frozen_copy
from tether.training.loop import StepReport
from tether.training.schedules import Constant, Cosine
from tether.training.steps.module import InsideStep, StepModule

Encoder = Clip | WrappedEncoder
PROBE = 128
"""Images at most that the gate and the early stop look at."""


class DetailRecipe(TuneRecipe):
    """A denoiser learns what the embeddings say of their images, then the image tower learns to tell it more.

    It is refused, in the middle, where embeddings of other images do not raise the denoiser's loss: then there is
    nothing to learn from it. The text tower rests. Of images kept apart it is watched whether they still find their own
    captions, where they have any; when fewer do, the weights of the last good look are what is given. It is never
    proposed, as nothing shows yet that it helps small models.

    Source: arXiv 2505.24517 (un2CLIP), without its pre-trained unCLIP; see ``InvertUnclip``.
    """

    takes = "images"
    gives = "model"
    cost = 800.0
    validates = True

    @checked
    def __init__(
        self,
        *,
        denoiser: str | None = None,
        denoiser_steps: Whole = 3000,
        size: Count = 32,
        width: Count = 56,
        objective: Target = "v",
        denoiser_rate: Positive = 1e-3,
        steps: Count = 400,
        batch_size: Count = 64,
        learning_rate: Positive = LEARNING_RATE,
        weight_decay: NonNegative = 0.0,
        train: Train = "all",
        last: Count = 2,
        mu: NonNegative = 0.0,
        draws: Count = 2,
        least_gain: Number = LEAST_GAIN,
        every: Count = 25,
        most_drop: Share = 0.02,
    ) -> None:
        """Take the settings.

        Args:
            denoiser: file that ``ConditionalDenoiser.save`` wrote, trained on this encoder; None trains one first.
            denoiser_steps: of that training.
            size: pixels of a side of what is denoised, which 4 divides.
            width: of the denoiser.
            objective: see ``ConditionalDenoiser``.
            denoiser_rate: learning rate of that training, which falls to 0 as a cosine.
            steps: of the image tower's.
            batch_size: images of a step.
            learning_rate: of the image tower, constant.
            weight_decay: of its matrices.
            train: see ``image_choice``.
            last: see ``image_choice``.
            mu: see ``UnclipLoss``.
            draws: see ``UnclipLoss``.
            least_gain: see ``InvertUnclip``.
            every: steps between two looks at what must not be lost.
            most_drop: share of captions found that may be lost.
        """
        self.denoiser, self.denoiser_steps = denoiser, 0 if denoiser is not None else denoiser_steps
        self.size, self.width, self.objective, self.denoiser_rate = size, width, objective, denoiser_rate
        self.steps, self.batch_size, self.learning_rate = steps, batch_size, learning_rate
        self.weight_decay, self.train, self.last = weight_decay, train, last
        self.mu, self.draws, self.least_gain = mu, draws, least_gain
        self.every, self.most_drop = every, most_drop

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        image_choice(cast(Encoder, model), train=self.train, last=self.last)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        encoder, first = cast(Encoder, model), self.denoiser_steps
        if self.denoiser is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(given.seed)
                denoiser = ConditionalDenoiser(
                    model.dim, shape=(3, self.size, self.size), width=self.width, objective=self.objective
                )
        else:
            denoiser = ConditionalDenoiser.load(self.denoiser)
            denoiser.check(image_digest(model))
        denoiser.requires_grad_(first > 0).to(model.logit_scale.device)
        rest_(model)
        reference = frozen_copy(encoder)
        names = set(image_choice(encoder, train=self.train, last=self.last))
        moving = move_(model, "image", where=names.__contains__)
        probe = _probe(model, given.validation or given.source)  # what was learnt by heart tells nothing
        loss = UnclipLoss(denoiser, reference=reference, mu=self.mu, draws=self.draws)
        watch = _Watch(encoder, moving, given.validation, first=first, every=self.every, most_drop=self.most_drop)
        if not first:
            check_gain(denoiser, encoder, probe, least=self.least_gain, seed=given.seed)
        share = self.learning_rate / self.denoiser_rate
        groups = [
            {"name": "denoiser", "params": list(denoiser.named_parameters()), "weight_decay": 0.0, "lr_scale": 1.0},
            *(
                {"name": f"image {kind}", "params": some, "weight_decay": decay, "lr_scale": share}
                for kind, wide, decay in (("matrices", True, self.weight_decay), ("vectors", False, 0.0))
                if (some := [(name, one) for name, one in moving.items() if (one.ndim >= 2) == wide])
            ),
        ]
        return Tuning(
            step=_DetailStep(loss, reference, probe, watch, first=first, least=self.least_gain, seed=given.seed),
            batches=given.loader(model, batch_size=self.batch_size),
            steps=first + self.steps,
            optimizer={"name": "adamw", "lr": self.denoiser_rate},
            groups=groups if first else groups[1:],
            schedule=TwoStages(Cosine(warmup=min(100, first // 10)), Constant(), first=first),
            modules={"denoiser": denoiser} if first else {},
            kept={"watch": watch},
            after_step=watch.look,
            finish=lambda: Outcome(model=watch.best()),
        )


class _DetailStep(InsideStep):
    """First the denoiser's steps, then the gate, then the image tower's."""

    def __init__(
        self,
        loss: UnclipLoss,
        reference: Encoder,
        probe: Batch,
        watch: _Watch,
        *,
        first: int,
        least: float,
        seed: int,
    ) -> None:
        self.loss, self.reference, self.probe, self.watch = loss, reference, probe, watch
        self.first, self.least, self.seed = first, least, seed

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        generator, denoiser = drawn(step, seed=self.seed), self.loss.denoiser
        denoiser.requires_grad_(step < self.first)
        if step < self.first:
            return Loss(denoiser_loss(denoiser, self.reference, batch, generator=generator))
        if step == self.first and self.first:
            check_gain(denoiser, self.reference, self.probe, least=self.least, seed=self.seed)
        if self.watch.stopped:
            return Loss(0 * torch.stack([value.sum() for value in self.watch.moving.values()]).sum())
        return self.loss(module, batch, generator=generator)


class _Watch:
    """Which validation images still find their captions, and the weights of the last look at which enough did."""

    def __init__(
        self,
        model: Encoder,
        moving: Mapping[str, nn.Parameter],
        source: Source | None,
        *,
        first: int,
        every: int,
        most_drop: float,
    ) -> None:
        self.model, self.moving, self.stopped = model, moving, False
        self._first, self._every, self._most_drop = first, every, most_drop
        self._good = self._weights()
        self._seen = None if source is None else _read(model, source)
        if self._seen is not None:
            self._text = F.normalize(encode_texts(model, self._seen[1]), dim=1)
        self._start = self._found()

    def look(self, report: StepReport) -> None:
        done = report.step + 1 - self._first
        if done <= 0 or done % self._every or self.stopped or self._seen is None:
            return
        if self._found() < self._start - self._most_drop:
            self.stopped = True
        else:
            self._good = self._weights()

    def best(self) -> DualEncoder:
        if self.stopped:
            for name, value in self._good.items():
                self.moving[name].data.copy_(value)
        return self.model

    def state_dict(self) -> dict[str, Any]:
        return {"stopped": self.stopped, "good": dict(self._good)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stopped, self._good = bool(state["stopped"]), dict(state["good"])

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.moving.items()}

    def _found(self) -> float:
        if self._seen is None:
            return 1.0
        image = F.normalize(encode_images(self.model, self._seen[0].split(32)), dim=1)
        best = (image @ self._text.T).argmax(dim=1).tolist()
        texts = self._seen[1]
        return sum(texts[row] == texts[place] for row, place in enumerate(best)) / len(best)


def _read(model: Encoder, source: Source) -> tuple[Tensor, list[str]]:
    """Some images and their first captions."""
    read = list(ordered(source, image_spec=model.image_spec.fixed(), batch_size=32, limit=PROBE))
    return torch.cat([pixels for _, pixels in read]), [row.texts[0] for rows, _ in read for row in rows]


def _probe(model: DualEncoder, source: Source) -> Batch:
    """Some images for the gate."""
    images, _ = _read(cast(Encoder, model), source)
    return Batch(images.to(model.logit_scale.device), torch.empty(len(images), 0, dtype=torch.int64))

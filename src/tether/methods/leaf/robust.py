"""A text tower that gives texts with typos the embeddings that it gave them without (LEAF, arXiv 2506.03355)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.adaptation.finetune.towers import tower_parameters
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, NonNegative, Positive, checked
from tether.core.types import Batch, Loss
from tether.losses.closeness import Rows, closeness_loss
from tether.methods.leaf.attack import Alphabet, Attacked, encode_read, leaf_attack, random_typos
from tether.methods.leaf.typos import ALPHABET, Constraint
from tether.models.embed import encode_texts
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.texts.truncation_check import FitsContext, unheard
from tether.models.towers.clip import Clip
from tether.models.towers.frozen_copy import frozen_copy
from tether.models.train_mode import eval_mode
from tether.optim import AdamW, parameter_groups
from tether.training.steps.module import StepModule, ViewRows, encode_views, loss_inside

LEARNING_RATE, WEIGHT_DECAY = 1e-5, 1e-4  # released scripts
ROW = "row"
"""Where a batch of ``LeafStep`` has the (b,) numbers of its texts in its extra."""


def text_fare_loss(clean: Float[Tensor, "b d"], adv: Float[Tensor, "b d"], *, rows: Rows = "raw") -> Float[Tensor, ""]:
    """Squared distance of attacked texts' rows from the clean ones', summed over dimensions, the mean of the batch.

    Source: arXiv 2506.03355, equation 2 (TextFARE).

    Args:
        clean: rows of the model before its training; they get no gradient.
        adv: rows of the attacked texts.
        rows: as they are, or scaled to length 1.
    """
    return closeness_loss(adv, clean, distance="squared", rows=rows)


class LeafLoss:
    """Attacks the texts of a batch, and asks for the rows that the model gave the clean ones before its training.

    The attack runs in evaluation mode and without gradient, against the model as it is now; the loss is in the mode
    that the model is in. A typo that pushes the end of a text out of the context is no typo to learn from, and is not
    used where ``cut`` is ``refuse``; those that were used are counted.

    Attributes:
        reference: the model before its training.
    """

    @checked
    def __init__(
        self,
        reference: Clip | WrappedEncoder,
        *,
        attack: Literal["leaf", "random"] = "leaf",
        rho: Count = 50,
        k: Count = 1,
        alphabet: Alphabet = ALPHABET,
        constraint: Constraint | None = None,
        cut: Literal["refuse", "allow"] = "refuse",
        rows: Rows = "raw",
    ) -> None:
        """Take the settings; those of the paper are the defaults, but for ``cut`` and its constraint.

        Args:
            reference: frozen, such as ``frozen_copy`` makes; it must be made before the model moves.
            attack: ``random`` takes the best of ``2 rho`` random edits, which embeds as many texts as ``leaf``.
            rho: candidates of each half of a round.
            k: changed characters.
            alphabet: see ``leaf_attack``.
            constraint: see ``leaf_attack``; the paper's is ``WordConstraint``.
            cut: what is done with candidates that the model does not read to their ends.
            rows: see ``text_fare_loss``; the attack looks at raw rows, as the paper's.
        """
        self.reference, self.attack, self.rho, self.k, self.rows = reference, attack, rho, k, rows
        self.alphabet, self._fits = alphabet, FitsContext(reference)
        self._constraints = [one for one in (constraint, self._fits if cut == "refuse" else None) if one is not None]

    def attacked(
        self, model: Clip | WrappedEncoder, texts: Sequence[str], *, generator: torch.Generator
    ) -> tuple[Tensor, Attacked]:
        """The (b, d) rows of the clean texts by the reference, and what the attack on the model found."""
        encode = encode_read(model)
        settings: dict[str, Any] = {"k": self.k, "alphabet": self.alphabet, "generator": generator}
        settings["constraint"] = self._allowed if self._constraints else None
        with eval_mode(model), unheard():
            clean = encode_texts(self.reference, texts)
            if self.attack == "random":
                return clean, random_typos(encode, texts, clean, tries=2 * self.rho, **settings)
            return clean, leaf_attack(encode, texts, clean, rho=self.rho, **settings)

    def __call__(self, module: StepModule, texts: Sequence[str], *, generator: torch.Generator) -> Loss:
        """The loss of a batch of texts; terms are the share of texts that were ``changed`` and that were ``cut``."""
        model, device = module.model, module.model.logit_scale.device
        clean, found = self.attacked(model, texts, generator=generator)
        with unheard():
            ids = model.tokenizer(found.texts).to(device)
        rows = encode_views(module, {"text": ViewRows("text", ids)})[0]["text"].pooled
        lost = [old and not new for old, new in zip(*map(self._fits.whole, (texts, found.texts)), strict=True)]
        changed = [old != new for old, new in zip(texts, found.texts, strict=True)]
        terms = {"changed": changed, "cut": lost}
        total = text_fare_loss(clean.to(device), rows, rows=self.rows)
        return Loss(total, {name: torch.tensor(some).float().mean() for name, some in terms.items()})

    def _allowed(self, changed: Sequence[str], texts: Sequence[str]) -> list[bool]:
        found = [one(changed, texts) for one in self._constraints]
        return [all(some) for some in zip(*found, strict=True)]


class LeafStep:
    """``LeafLoss`` as a ``core.protocols.Step``; what it draws depends on the seed and the step alone."""

    def __init__(self, loss: LeafLoss, texts: Sequence[str], *, seed: int) -> None:
        """Args: loss: with its reference. texts: all that ``batch.extra["row"]`` names some of. seed: of the draws."""
        self.loss, self.texts, self.seed = loss, tuple(texts), seed

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """The loss of a batch; ``model`` is a (wrapped) StepModule."""
        del gather
        rows = batch.extra[ROW]
        assert isinstance(rows, Tensor)
        some = [self.texts[row] for row in rows.tolist()]
        return loss_inside(model, self.loss, some, generator=drawn_at(step, seed=self.seed))


def drawn_at(step: int, *, seed: int) -> torch.Generator:
    """The generator of one step."""
    return torch.Generator().manual_seed(hash_int(str(step), seed=seed, salt="typos") >> 1)


class LeafTrainer:
    """The text tower of a model against typos, a batch of texts at a time, for a loop of your own.

    Nothing reaches the image tower and the logit scale, which stay bit for bit. ``tether adapt --recipe typo_proof``
    is the same with a schedule, resumed and measured.

    Attributes:
        model: that moves, in place.
        loss: with the copy of the model as it was.
        steps: that were taken.

    Example:
        >>> import tether
        >>> from tether.methods.leaf import LeafTrainer
        >>> trainer = LeafTrainer(tether.load("tiny", random_weights=True), rho=4, learning_rate=1e-3)
        >>> terms = [trainer.step(["a red square", "two dogs"]) for _ in range(8)]
        >>> terms[-1]["loss"] < terms[0]["loss"], trainer.steps
        (True, 8)
    """

    @checked
    def __init__(
        self,
        model: Clip | WrappedEncoder,
        *,
        learning_rate: Positive = LEARNING_RATE,
        weight_decay: NonNegative = WEIGHT_DECAY,
        attack: Literal["leaf", "random"] = "leaf",
        rho: Count = 50,
        k: Count = 1,
        alphabet: Alphabet = ALPHABET,
        constraint: Constraint | None = None,
        cut: Literal["refuse", "allow"] = "refuse",
        rows: Rows = "raw",
        seed: int = 0,
    ) -> None:
        """Copy the model, then make the optimiser (AdamW; matrices alone decay).

        Args:
            model: any encoder of ``tether.load`` with a text tower of its own; frozen parameters stay frozen.
            learning_rate: constant.
            weight_decay: of matrices.
            attack: see ``LeafLoss``.
            rho: see ``LeafLoss``.
            k: see ``LeafLoss``.
            alphabet: see ``LeafLoss``.
            constraint: see ``LeafLoss``.
            cut: see ``LeafLoss``.
            rows: see ``LeafLoss``.
            seed: of the draws.

        Raises:
            InputError: no trainable parameter of the text tower.
            UnsupportedModelError: towers that share parameters.
        """
        text, image = (tower_parameters(model, side=side) for side in ("text", "image"))
        if shared := [name for name in text if name in image]:
            found = f"share {len(shared)} parameters, among them {shared[0]}"
            raise UnsupportedModelError(f"expected a text tower of its own, but the towers {found}")
        if not any(one.requires_grad for one in text.values()):
            raise InputError("the text tower has no trainable parameter")
        self.model, self.steps, self.seed = model, 0, seed
        settings = {"rho": rho, "k": k, "alphabet": alphabet, "constraint": constraint, "cut": cut, "rows": rows}
        self.loss = LeafLoss(frozen_copy(model), attack=attack, **settings)
        self._module = StepModule(model)
        self.optimizer = AdamW(parameter_groups(model, weight_decay=weight_decay), lr=learning_rate)

    def step(self, texts: Sequence[str]) -> dict[str, float]:
        """Attack some texts and take one step; the ``loss`` and the terms of ``LeafLoss``."""
        found = self.loss(self._module, texts, generator=drawn_at(self.steps, seed=self.seed))
        self.optimizer.zero_grad(set_to_none=True)
        found.total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return {"loss": float(found.total.detach()), **{name: float(value) for name, value in found.terms.items()}}

    def state_dict(self) -> dict[str, Any]:
        """Both encoders, the optimiser and the step, from which the draws follow."""
        return {
            "model": self.model.state_dict(),
            "reference": self.loss.reference.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "seed": self.seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another trainer of the same settings and the same kind of model."""
        self.model.load_state_dict(state["model"])
        self.loss.reference.load_state_dict(state["reference"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.seed = int(state["steps"]), int(state["seed"])

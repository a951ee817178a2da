"""An image tower that learns detail from a denoiser told its embeddings (un2CLIP, arXiv 2505.24517)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tether.adaptation.finetune.descent import exactly
from tether.adaptation.finetune.towers import tower_parameters
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.ranges import Count, NonNegative, Number, Positive, checked
from tether.core.types import Batch, Loss
from tether.losses.closeness import closeness_loss
from tether.methods.un2clip.denoise import LEAST_GAIN, check_gain, denoised, drawn
from tether.methods.un2clip.denoiser import ConditionalDenoiser
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.find import anatomy_of
from tether.models.features.image_digest import image_digest
from tether.models.towers.clip import Clip
from tether.models.towers.frozen_copy import frozen_copy
from tether.models.train_mode import eval_mode
from tether.optim import AdamW
from tether.training.steps.module import StepModule, ViewRows, encode_views

Train = Literal["all", "last_k", "ln"]
LEARNING_RATE = 1e-6  # of large pre-trained models, by the abstract and DIVA's scripts; not published


@checked
def image_choice(model: Clip | WrappedEncoder, *, train: Train = "all", last: Count = 2) -> tuple[str, ...]:
    """Names of the parameters of the image tower that a choice lets move.

    Args:
        model: any encoder of ``tether.load``.
        train: ``all``, those of the ``last_k`` blocks, or the gains and biases of norm layers (``ln``).
        last: how many blocks.

    Raises:
        InputError: more blocks than there are, or no norm layer.
        UnsupportedModelError: towers that share parameters; for ``last_k`` an image tower without blocks, with a reason
            of ``models.refusals``.

    Example:
        >>> from tether.methods.un2clip import image_choice
        >>> from tether.models import create
        >>> [len(image_choice(create("tiny"), train=choice, last=1)) for choice in ("all", "last_k", "ln")]
        [32, 12, 12]
    """
    image, text = (tower_parameters(model, side=side) for side in ("image", "text"))
    if shared := [name for name in image if name in text]:
        found = f"share {len(shared)} parameters, among them {shared[0]}"
        raise UnsupportedModelError(f"expected an image tower of its own, but the towers {found}")
    if train == "all":
        return tuple(image)
    if train == "ln":
        norms = [module for module in model.modules() if "Norm" in type(module).__name__]
        chosen = {id(one) for norm in norms for one in norm.parameters(recurse=False)}
    else:
        blocks = anatomy_of(model, "image").blocks
        if last > len(blocks):
            raise InputError(f"last: the image tower has {len(blocks)} blocks, got {last}")
        chosen = {id(one) for block in blocks[-last:] for one in block.block.parameters()}
    names = tuple(name for name, one in image.items() if id(one) in chosen)
    if not names:
        raise InputError(f"train: the image tower has no parameter of the choice {train!r}")
    return names


class UnclipLoss:
    """The loss of a denoiser at rest, for the encoder that tells it what is seen.

    Attributes:
        denoiser: frozen.
        reference: the encoder as it was, where ``mu`` is above 0.
    """

    @checked
    def __init__(
        self,
        denoiser: ConditionalDenoiser,
        *,
        reference: Clip | WrappedEncoder | None = None,
        mu: NonNegative = 0.0,
        draws: Count = 2,
    ) -> None:
        """Take the parts.

        Args:
            denoiser: trained on the encoder as it was.
            reference: frozen copy of that; needed where ``mu`` is above 0.
            mu: weight of the squared distance from the embedding as it was, of raw rows.
            draws: pairs of step and noise for each image.

        Raises:
            InputError: ``mu`` without a reference.
        """
        if mu and reference is None:
            raise InputError("reference: expected the encoder as it was, for mu is above 0")
        self.denoiser, self.reference, self.mu, self.draws = denoiser, reference, mu, draws

    def __call__(self, module: StepModule, batch: Batch, *, generator: torch.Generator) -> Loss:
        """Terms are ``reconstruction``, and ``moved``, the squared distance, where ``mu`` is above 0."""
        rows = encode_views(module, {"image": ViewRows("image", batch.image)})[0]["image"].pooled
        x = denoised(self.denoiser, module.model, batch)
        total = self.denoiser.loss(x, rows, draws=self.draws, generator=generator)
        terms = {"reconstruction": total.detach()}
        if self.mu and self.reference is not None:
            with torch.no_grad():
                before = self.reference.encode_image(batch.image).pooled
            moved = closeness_loss(rows, before, distance="squared", rows="raw")
            total, terms["moved"] = total + self.mu * moved, moved.detach()
        return Loss(total, terms)


@dataclass(frozen=True, slots=True)
class Inverted:
    """How a run went.

    Attributes:
        steps: that were taken.
        ended: ``done``, or ``stopped`` when what was watched had fallen too far.
        first: loss of the first step.
        last: loss of the last step.
        watched: what was watched, at the start and at each look.
    """

    steps: int
    ended: Literal["done", "stopped"]
    first: float
    last: float
    watched: tuple[float, ...]


class InvertUnclip:
    """Fine-tunes the image tower so that a frozen denoiser, told its embedding, restores the image better.

    As the denoiser learnt what the embeddings of the encoder as it was mean, detail is gained in the same space, which
    the text tower knows. Nothing starts where the denoiser does not look at its condition: its gradient would be noise.
    ``tether adapt --recipe detail`` is the same with both stages, resumed and measured.

    Source: arXiv 2505.24517. No code of it could be had: rate, draws and optimiser are not its own. ``mu``, early stop
    and the gate are ours.

    Attributes:
        model: that moves, in place.
        gain: share by which exchanged embeddings raised the denoiser's loss.
        steps: that were taken.

    Example:
        >>> import torch
        >>> from tether.methods.un2clip import InvertUnclip, train_denoiser
        >>> from tether.core.types import Batch
        >>> from tether.models import create
        >>> from tether.methods.un2clip.denoiser import ConditionalDenoiser
        >>> model, images = create("tiny").eval(), torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> batch = Batch(images, torch.empty(8, 0, dtype=torch.int64))
        >>> denoiser = ConditionalDenoiser(model.dim, shape=(3, 8, 8), width=8)
        >>> losses = train_denoiser(denoiser, model, [batch] * 3, steps=3)
        >>> InvertUnclip(model, denoiser, probe=batch)
        Traceback (most recent call last):
        ...
        tether.core.errors.InputError: denoiser: it does not look at its condition: ...
    """

    @checked
    def __init__(
        self,
        model: Clip | WrappedEncoder,
        denoiser: ConditionalDenoiser,
        *,
        probe: Batch,
        learning_rate: Positive = LEARNING_RATE,
        weight_decay: NonNegative = 0.0,
        train: Train = "all",
        last: Count = 2,
        mu: NonNegative = 0.0,
        draws: Count = 2,
        least_gain: Number = LEAST_GAIN,
        seed: int = 0,
    ) -> None:
        """See that the denoiser is of this encoder and listens, copy the encoder, then make the optimiser.

        Args:
            model: any encoder of ``tether.load`` with an image tower of its own.
            denoiser: trained on it, see ``train_denoiser``; it is frozen.
            probe: images, at least two and better dozens, that the gate is measured on; others than the denoiser's own.
            learning_rate: constant.
            weight_decay: of matrices.
            train: see ``image_choice``.
            last: see ``image_choice``.
            mu: see ``UnclipLoss``.
            draws: see ``UnclipLoss``.
            least_gain: of the gate; -1 lets any denoiser through, as for a control.
            seed: of the draws.

        Raises:
            InputError: a denoiser of another encoder or one that does not look at its condition, other shapes, or
                nothing that can move.
            UnsupportedModelError: as for ``image_choice``.
        """
        self._digest = image_digest(model)
        denoiser.check(self._digest)
        named = dict(model.named_parameters())
        moving = {
            name: named[name] for name in image_choice(model, train=train, last=last) if named[name].requires_grad
        }
        if not moving:
            raise InputError("the image tower has no trainable parameter")
        denoiser.requires_grad_(False).eval()
        self.gain = check_gain(denoiser, model, probe, least=least_gain, seed=seed)
        self.model, self.steps, self.seed = model, 0, seed
        self.loss = UnclipLoss(denoiser, reference=frozen_copy(model) if mu else None, mu=mu, draws=draws)
        self._module, self._moving = StepModule(model), moving
        decayed, plain = ([one for one in moving.values() if (one.ndim >= 2) == wide] for wide in (True, False))
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = AdamW([group for group in groups if group["params"]], lr=learning_rate)

    def step(self, batch: Batch) -> dict[str, float]:
        """One step of some images, in evaluation mode; the ``loss`` and the terms of ``UnclipLoss``."""
        with eval_mode(self.model):
            found = self.loss(self._module, batch, generator=drawn(self.steps, seed=self.seed))
            gradients = torch.autograd.grad(found.total, list(self._moving.values()), allow_unused=True)
        for parameter, gradient in zip(self._moving.values(), gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return {"loss": float(found.total.detach()), **{name: float(value) for name, value in found.terms.items()}}

    @checked
    def fit(
        self,
        batches: Iterable[Batch],
        *,
        steps: Count,
        watch: Callable[[], float] | None = None,
        every: Count = 25,
        most_drop: NonNegative = 0.02,
    ) -> Inverted:
        """Take steps until they are done, or until what must not be lost has fallen.

        Args:
            batches: at least ``steps``.
            steps: at most so many.
            watch: gives what must not fall, such as zero-shot accuracy; it is asked at the start, after every ``every``
                steps and at the end.
            every: steps between two looks.
            most_drop: below the start by more than this the run stops, and the weights are those of the last look that
                was good.

        Raises:
            InputError: fewer batches than steps.
        """
        watched = [] if watch is None else [watch()]
        good, losses, ended = self._weights(), list[float](), "done"
        for number, batch in enumerate(exactly(batches, steps), 1):
            losses.append(self.step(batch)["loss"])
            if watch is not None and (number % every == 0 or number == steps):
                watched.append(watch())
                if watched[-1] < watched[0] - most_drop:
                    for name, value in good.items():
                        self._moving[name].data.copy_(value)
                    ended = "stopped"
                    break
                good = self._weights()
        return Inverted(len(losses), ended, losses[0], losses[-1], tuple(watched))

    def state_dict(self) -> dict[str, Any]:
        """Encoder, optimiser, step, the digest of the encoder as it was, and the denoiser's settings."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "seed": self.seed,
            "reference": self._digest,
            "denoiser": copy.deepcopy(self.loss.denoiser.settings),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another one of the same settings, begun from the same encoder and denoiser.

        Raises:
            InputError: it began from another encoder, or the denoiser has other settings.
        """
        if state["reference"] != self._digest:
            found = f"{state['reference'][:12]}, not {self._digest[:12]}"
            raise InputError(f"state: it began from an encoder of digest {found}")
        if state["denoiser"] != self.loss.denoiser.settings:
            raise InputError(f"state: expected a denoiser of {state['denoiser']}, got {self.loss.denoiser.settings}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.seed = int(state["steps"]), int(state["seed"])

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._moving.items()}

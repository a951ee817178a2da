"""NNSplitter: a model split into a useless copy and a small secret that makes it whole again."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, final

import torch
from annotated_types import Ge, MinLen
from torch import nn

from tether.compression.protect.controller import FilterController
from tether.compression.protect.descent import Penalty, Read, accuracy, check_frozen, make_wrong_, read_batch
from tether.compression.protect.secret import Secret, changes
from tether.compression.protect.weights import (
    Masks,
    Range,
    eps_of_share,
    layer_weights,
    mean_weight,
    near_masks,
    ranges,
)
from tether.core.errors import InputError
from tether.core.ranges import Count, NonNegative, Number, Part, Positive, PositiveRate, checked

Search = Literal["reinforce", "random"]
SEARCH_LR = 1e-3
"""Of the controller; the released 0.01 settles on one of its first choices in small nets."""


@dataclass(frozen=True, slots=True)
class Obfuscation:
    """What an ``Obfuscator`` found.

    Attributes:
        accuracy_before: of the model on the data that decides.
        accuracies: the least of each choice of rows, in order.
        accuracy_after: of the copy.
        filters: rows chosen of each layer, by its weight's name.
        changed: weights that differ.
        total: weights of those layers.
        c: the common value.
        eps: the distance from it.
        largest_before: magnitude, over all of those layers.
        largest_after: of the copy.
        largest_change: magnitude of the difference of a weight.
    """

    accuracy_before: float
    accuracies: Sequence[float]
    accuracy_after: float
    filters: dict[str, list[int]]
    changed: int
    total: int
    c: float
    eps: float
    largest_before: float
    largest_after: float
    largest_change: float


@final
class Obfuscator:
    """Makes a copy of a model useless by changing few weights, hard to find, and keeps what they were.

    Of each layer's weight ``per_layer`` rows are chosen; in them only weights less than ``eps`` from a common value
    ``c`` may change. Adam moves these uphill on the cross entropy, batch norms at rest, and brings them back into the
    usual range after each step, until accuracy has not fallen for ``patience`` epochs. A controller tries choices of
    rows, learns from the accuracies, and the worst model is kept. Nothing else of the model is touched.

    Any module of linear and convolutional layers that maps x to logits, from batches ``(x, y)``; any encoder of
    ``tether.load``, from ``Batch``es of images and texts, of which each image's own text has to be found.

    Attributes:
        found: what came of the last ``fit``.

    Source: arXiv 2305.00097, section 3; Tongzhou0101/NNSplitter. The released L1 term is on the masked weights
    themselves (``penalty="weights"``), the paper's on their change; the released controller descends where it should
    climb, see ``FilterController``.

    Example:
        >>> import torch
        >>> from tether.compression.protect import Obfuscator
        >>> x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
        >>> y = (x[:, 0] > 0).long()
        >>> model = torch.nn.Linear(6, 2, bias=False)
        >>> _ = model.load_state_dict({"weight": torch.tensor([[-1.0, 0.01, 0, 0, 0, 0], [1.0, 0, 0, 0, 0, 0.01]])})
        >>> broken, secret = Obfuscator(model, eps=0.3, rounds=1).fit([(x, y)])
        >>> secret.count <= 5, bool(broken.weight.abs().max() <= 1)
        (True, True)
        >>> torch.equal(secret.restore(broken).weight, model.weight)
        True
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        c: Number | Literal["mean"] = "mean",
        eps: Positive | None = 1e-4,
        per_layer: Count = 1,
        lam: NonNegative = 0.0,
        clamp: Literal["range", "layer"] | tuple[float, float] = "range",
        search: Search = "reinforce",
        rounds: Count = 20,
        seed: int = 0,
        *,
        share: Part = 1e-3,
        penalty: Penalty = "change",
        samples: Annotated[int, Ge(2)] = 5,
        lr: PositiveRate = 0.05,
        epochs: Count = 100,
        patience: Count = 2,
        stop_after: Count = 25,
        keep: Literal["lowest", "last"] = "lowest",
        layers: Annotated[Sequence[str], MinLen(1)] = ("*",),
        filters: Sequence[Sequence[int]] | None = None,
        read: Read = read_batch,
    ) -> None:
        """Take the model, which is never changed, and the settings.

        Args:
            model: with plain weights.
            c: the common value; ``mean`` of all weights of the layers, which is the authors' advice.
            eps: how far from it a weight may lie; None sets it by ``share``.
            per_layer: rows of each layer.
            lam: weight of the L1 term.
            clamp: of changed weights: ``range``, what the weights of all layers had; ``layer``, what each layer had,
                which is harder to see and weaker; or two numbers, such as the released ones.
            search: ``reinforce``, or ``random`` choices, as many.
            rounds: of the search.
            seed: of the search.
            share: with ``eps=None``, of all weights of the layers, how many may change, in the mean over choices.
            penalty: L1 of the ``change``, or of the ``weights`` themselves as released.
            samples: choices a round, at least 2; their mean reward is the baseline.
            lr: of the weights.
            epochs: most of each choice.
            patience: epochs without a lower accuracy after which a choice is done.
            stop_after: choices without a worse model after which the search is done.
            keep: of each choice the weights of the epoch of ``lowest`` accuracy, or the ``last`` as released.
            layers: patterns of names of weights.
            filters: rows of each layer, in order, in place of a search.
            read: logits and labels of a batch.

        Raises:
            InputError: no such layers, weights that are not finite, batch norm without running statistics.
        """
        self.model, self.c, self.eps, self.per_layer, self.lam, self.clamp = model, c, eps, per_layer, lam, clamp
        self.search, self.rounds, self.seed, self.share, self.penalty = search, rounds, seed, share, penalty
        self.samples, self.lr, self.epochs, self.patience = samples, lr, epochs, patience
        self.stop_after, self.keep, self.layers, self.filters, self.read = stop_after, keep, layers, filters, read
        ranges(layer_weights(model, layers=layers), clamp)
        check_frozen(model)
        self.found: Obfuscation | None = None

    @torch.inference_mode(False)
    @torch.enable_grad()
    def fit(self, train: Iterable[Any], val: Iterable[Any] | None = None) -> tuple[nn.Module, Secret]:
        """Search, and give the copy, in eval mode, with the secret that brings it back.

        Args:
            train: batches to be wrong on; read once an epoch, so no iterator that ends.
            val: batches that decide; those of ``train`` by default.

        Raises:
            InputError: no weight is near ``c`` in any choice, none was changed, or no data.
            NotFiniteError: the model or the loss is not finite.
        """
        train = list(train) if iter(train) is train else train
        val = train if val is None else list(val) if iter(val) is val else val
        model = copy.deepcopy(self.model).eval()
        weights = layer_weights(model, layers=self.layers)
        learnt = {name: value.requires_grad for name, value in model.named_parameters()}
        start = {name: value.detach().clone() for name, value in weights.items()}
        c = mean_weight(start) if self.c == "mean" else float(self.c)
        share = {"c": c, "per_layer": self.per_layer, "share": self.share}
        eps = eps_of_share(start, **share) if self.eps is None else float(self.eps)
        before = accuracy(model, val, read=self.read)
        best: tuple[float, list[list[int]], dict[str, torch.Tensor]] | None = None
        least, waited, tried = float("inf"), 0, list[float]()
        generator = torch.Generator().manual_seed(self.seed)
        rows = [len(value) for value in start.values()]
        controller = FilterController(rows, per_layer=self.per_layer, generator=generator, lr=SEARCH_LR)

        def attempt(filters: Sequence[Sequence[int]]) -> float:
            nonlocal best, least, waited
            with torch.no_grad():
                for name, value in weights.items():
                    value.copy_(start[name])
            masks = near_masks(start, filters, c=c, eps=eps)
            found = self._wrong(model, weights, masks, train=train, val=val, start=start)
            tried.append(found)
            waited += 1
            if any(bool(mask.any()) for mask in masks.values()) and found < least:
                kept = {name: value.detach().clone() for name, value in weights.items()}
                best, least, waited = (found, [list(one) for one in filters], kept), found, 0
            return -found

        if self.filters is not None:
            attempt(self.filters)
        for _ in range(0 if self.filters is not None else self.rounds):
            if self.search == "random":
                picks = [_drawn(rows, self.per_layer, generator) for _ in range(self.samples)]
                for one in picks:
                    attempt(one)
            else:
                choices = [controller.choose() for _ in range(self.samples)]
                controller.learn([attempt(one) for one, _ in choices], [told for _, told in choices])
            if waited > self.stop_after:
                break
        if best is None:
            raise InputError(
                f"eps: no weight of the rows chosen lies less than {eps:g} from c = {c:g}; expected a larger eps"
            )
        with torch.no_grad():
            for name, value in weights.items():
                value.copy_(best[2][name])
        for name, value in model.named_parameters():
            value.requires_grad_(learnt[name])
        secret = changes(self.model, model, settings={"c": c, "eps": eps, "per_layer": self.per_layer})
        self.found = Obfuscation(
            accuracy_before=before,
            accuracies=tried,
            accuracy_after=accuracy(model, val, read=self.read),
            filters=dict(zip(weights, best[1], strict=True)),
            changed=secret.count,
            total=sum(value.numel() for value in start.values()),
            c=c,
            eps=eps,
            largest_before=max(float(value.abs().max()) for value in start.values()),
            largest_after=max(float(value.detach().abs().max()) for value in weights.values()),
            largest_change=max(float((weights[name].detach() - value).abs().max()) for name, value in start.items()),
        )
        return model, secret

    def _wrong(
        self,
        model: nn.Module,
        weights: dict[str, nn.Parameter],
        masks: Masks,
        *,
        train: Iterable[Any],
        val: Iterable[Any],
        start: dict[str, torch.Tensor],
    ) -> float:
        for value in model.parameters():
            value.requires_grad_(False)
        for name, mask in masks.items():
            weights[name].requires_grad_(bool(mask.any()))
        bounds: dict[str, Range] = ranges(start, self.clamp)
        return make_wrong_(
            weights,
            masks,
            model=model,
            train=train,
            val=val,
            bounds=bounds,
            lam=self.lam,
            penalty=self.penalty,
            lr=self.lr,
            epochs=self.epochs,
            patience=self.patience,
            keep=self.keep,
            read=self.read,
        )


def _drawn(rows: Sequence[int], per_layer: int, generator: torch.Generator) -> list[list[int]]:
    return [torch.randperm(count, generator=generator)[:per_layer].tolist() for count in rows]

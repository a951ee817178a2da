"""Does a picture represent its title: a small classifier on frozen embeddings (arXiv 2204.05533)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.space.serialisation import read_state, wide_array, write_state
from tether.tasks.headline_match.pair_network import HIDDEN, RANK, Bilinear, PairNetwork
from tether.tasks.headline_match.pair_training import (
    BATCH,
    EPOCHS,
    LARGEST_GRADIENT,
    LEARNING_RATE,
    WEIGHT_DECAY,
    PairHistory,
    PairRows,
    probabilities,
    train_pairs_,
)
from tether.tasks.headline_match.validation import paired_units

Rows = Float[np.ndarray, "n d"]
_FORMAT = "tether-pair-classifier-1"
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class PairReport:
    """How well pairs are told apart.

    Attributes:
        accuracy: share right at a probability of 0.5.
        auroc: of the probability.
        cosine_auroc: of the plain incongruity, which needs no training; what the classifier must beat.
    """

    accuracy: float
    auroc: float
    cosine_auroc: float


@final
class PairClassifier:
    """Tells pictures that do not represent their title (1) from those that do (0), from both embeddings.

    A bilinear form sees which coordinates of title and picture must agree, where a cosine takes them all alike. Train
    it on pairs of ``make_mismatched_pairs``. Both embeddings are scaled to length 1 first, as the encoder of the
    release gives them.

    Source: arXiv 2204.05533, section 4, and its released code. It differs in that the form has low rank by default
    and that the best epoch's weights are kept, where the release saves the last ones by an oversight.

    Args:
        dim: width of the embeddings.
        hidden: units of the inner layers.
        bilinear: ``low_rank``, or the release's ``full``: half a gigabyte at 512.
        rank: of the former.
        lr: first learning rate, > 0.
        weight_decay: of all weights, >= 0.
        batch_size: pairs in one step.
        epochs: passes at most, >= 0.
        order: of the pairs: as ``given``, which is the release, or ``shuffled`` in every pass.
        stop_after: epochs without a better one on the validation pairs after which training ends; None never stops.
        max_grad_norm: limit of the gradients' joint norm, > 0.
        seed: of the start and the order.
        encoder: the model that the embeddings come from, for its digest; or else
        digest: of its weights. Without either, ``save`` refuses.

    Attributes:
        network: the weights, in evaluation mode.
        history: of the last ``fit``, or None.

    Example:
        >>> import numpy as np
        >>> from tether.tasks.headline_match import PairClassifier, make_mismatched_pairs
        >>> rng = np.random.default_rng(0)
        >>> images, titles = rng.normal(size=(2, 60, 8))  # embeddings of 60 pairs
        >>> pairs = make_mismatched_pairs(images, texts=titles, groups=["daily", "weekly"] * 30, strategy="same_group")
        >>> detector = PairClassifier(8, epochs=1).fit(titles[pairs.text], image=images[pairs.image], y=pairs.label)
        >>> detector.predict_proba(titles, image=images).shape
        (60, 2)
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int = HIDDEN,
        bilinear: Bilinear = "low_rank",
        rank: int = RANK,
        lr: float = LEARNING_RATE,
        weight_decay: float = WEIGHT_DECAY,
        batch_size: int = BATCH,
        epochs: int = EPOCHS,
        order: Literal["given", "shuffled"] = "given",
        stop_after: int | None = None,
        max_grad_norm: float = LARGEST_GRADIENT,
        seed: int = 0,
        encoder: DualEncoder | None = None,
        digest: str | None = None,
    ) -> None:
        """Draw the start.

        Raises:
            InputError: a setting out of its range, both encoder and digest, or an encoder of another width.
        """
        if not (lr > 0 and math.isfinite(lr)) or not weight_decay >= 0 or batch_size < 1 or epochs < 0:
            raise InputError(
                f"expected lr > 0, weight_decay >= 0, batch_size >= 1 and epochs >= 0, got {lr}, {weight_decay}, "
                f"{batch_size} and {epochs}"
            )
        if not max_grad_norm > 0:
            raise InputError(f"max_grad_norm: expected a number above 0, got {max_grad_norm}")
        if order not in ("given", "shuffled"):
            raise InputError(f"order: expected 'given' or 'shuffled', got {order!r}")
        if stop_after is not None and stop_after < 1:
            raise InputError(f"stop_after: expected None or at least 1, got {stop_after}")
        if encoder is not None and digest is not None:
            raise InputError("expected an encoder or its digest, got both")
        if encoder is not None and encoder.dim != dim:
            raise InputError(f"encoder: expected one of width {dim}, got {encoder.dim}")
        self.settings: dict[str, Any] = {
            "dim": dim,
            "hidden": hidden,
            "bilinear": bilinear,
            "rank": rank,
            "lr": lr,
            "weight_decay": weight_decay,
            "batch_size": batch_size,
            "epochs": epochs,
            "order": order,
            "stop_after": stop_after,
            "max_grad_norm": max_grad_norm,
            "seed": seed,
        }
        self.digest = digest if encoder is None else model_digest(cast(nn.Module, encoder))
        self._generator = torch.Generator().manual_seed(seed)
        self.network = PairNetwork(dim, hidden=hidden, bilinear=bilinear, rank=rank, generator=self._generator).eval()
        self._first = copy.deepcopy(self.network.state_dict())
        self.history: PairHistory | None = None

    def start_at(self, network: PairNetwork) -> Self:
        """Take a copy of other weights, in any float dtype, as the start of ``fit``.

        Raises:
            InputError: a network of another shape.
        """
        mine, theirs = (
            {name: tuple(value.shape) for name, value in one.state_dict().items()} for one in (self.network, network)
        )
        if mine != theirs:
            raise InputError(f"network: expected weights of shapes {mine}, got {theirs}")
        self.network = copy.deepcopy(network).eval()
        self._first = copy.deepcopy(self.network.state_dict())
        return self

    def fit(
        self,
        text: Rows,
        *,
        image: Rows,
        y: Int[np.ndarray, " n"],
        validation: tuple[Rows, Rows, Int[np.ndarray, " m"]] | None = None,
    ) -> Self:
        """Train from the start.

        Args:
            text: (n, d) embeddings of the titles.
            image: (n, d) embeddings of the pictures.
            y: (n,) 1 where the picture is unrepresentative, 0 where it fits.
            validation: titles, pictures and labels by whose accuracy the best epoch is chosen; None keeps the last.

        Raises:
            InputError: shapes that differ, another width, zero vectors, NaN, labels other than 0 and 1, or labels of
                one class.
        """
        rows = self._rows(text, image, y, name="y")
        held = None if validation is None else self._rows(*validation, name="validation")
        self.network.load_state_dict(self._first)
        self._generator.manual_seed(self.settings["seed"])
        self.history = train_pairs_(
            self.network,
            rows,
            validation=held,
            generator=self._generator,
            **{
                name: self.settings[name]
                for name in ("epochs", "batch_size", "lr", "weight_decay", "order", "stop_after", "max_grad_norm")
            },
        )
        return self

    def logits(self, text: Rows, *, image: Rows) -> Float[np.ndarray, " n"]:
        """Above 0 where the picture is unrepresentative."""
        title, picture = self._inputs(text, image)
        with torch.no_grad():
            return self.network(title, picture).double().numpy()

    def predict_proba(self, text: Rows, *, image: Rows) -> Float[np.ndarray, "n 2"]:
        """Chance of each class, representative first.

        Raises:
            InputError: as ``fit`` of the embeddings.
        """
        chance = probabilities(self.network, *self._inputs(text, image)).double().numpy()
        return np.stack([1 - chance, chance], axis=1)

    def predict(self, text: Rows, *, image: Rows) -> Int[np.ndarray, " n"]:
        """1 where the picture is unrepresentative."""
        return (self.predict_proba(text, image=image)[:, 1] > 0.5).astype(np.int64)

    def score(self, text: Rows, *, image: Rows, y: Int[np.ndarray, " n"]) -> float:
        """Accuracy at 0.5."""
        return self.report(text, image=image, y=y).accuracy

    def report(self, text: Rows, *, image: Rows, y: Int[np.ndarray, " n"]) -> PairReport:
        """Accuracy and AUROC, beside what the cosine alone reaches.

        Raises:
            InputError: as ``fit``.
        """
        from sklearn.metrics import roc_auc_score

        rows = self._rows(text, image, y, name="y")
        chance, truth = probabilities(self.network, rows.text, rows.image), rows.label.numpy()
        right = float(((chance > 0.5).numpy() == (truth > 0.5)).mean())
        cosine = (rows.text * rows.image).sum(dim=1).numpy()
        return PairReport(right, float(roc_auc_score(truth, chance.numpy())), float(roc_auc_score(truth, -cosine)))

    def state_dict(self) -> dict[str, Any]:
        """Settings, weights, and the digest of the encoder they belong to."""
        return {"settings": dict(self.settings), "digest": self.digest, "network": self.network.state_dict()}

    def save(self, path: Path | str) -> None:
        """Write settings, weights (at least float32) and the encoder's digest to one safetensors file, atomically.

        Raises:
            InputError: the encoder is not known; give ``encoder`` or ``digest``.
        """
        if self.digest is None:
            raise InputError("save: expected the encoder or its digest, for the weights fit its embeddings only")
        arrays = {name: wide_array(value) for name, value in self.network.state_dict().items()}
        write_state(path, format=_FORMAT, settings={**self.settings, "digest": self.digest}, arrays=arrays)

    @classmethod
    def load(cls, path: Path | str, *, encoder: DualEncoder | None = None, digest: str | None = None) -> Self:
        """Read what ``save`` wrote, for the encoder it was trained on.

        Args:
            path: the file.
            encoder: the model whose embeddings it will see; or else
            digest: of that model's weights.

        Raises:
            InputError: no such file, not one of a ``PairClassifier``, neither or both of encoder and digest, or
                another encoder than it was trained on.
        """
        if (encoder is None) == (digest is None):
            raise InputError("load: expected either the encoder or its digest, for the weights fit one encoder only")
        settings, arrays = _read(path)
        known = settings.pop("digest")
        given = digest if encoder is None else model_digest(cast(nn.Module, encoder))
        if given != known:
            raise InputError(
                f"{path}: was trained on a model with digest {known[:_SHOWN]}, not on this one of digest "
                f"{str(given)[:_SHOWN]}; train it again"
            )
        found = cls(**settings, digest=known)
        tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
        found.network.to(next(iter(tensors.values())).dtype).load_state_dict(tensors)
        return found

    def _rows(self, text: Rows, image: Rows, y: Int[np.ndarray, " n"], *, name: str) -> PairRows:
        title, picture = self._inputs(text, image)
        labels = np.asarray(y)
        if labels.shape != (len(title),):
            raise InputError(f"{name}: expected one label for each of {len(title)} pairs, got shape {labels.shape}")
        found = np.unique(labels)
        if not np.isin(found, (0, 1)).all():
            raise InputError(f"{name}: expected labels 0 and 1, got {found.tolist()[:5]}")
        if len(found) < 2:
            raise InputError(f"{name}: expected pairs of both classes, got {len(labels)} of class {found.tolist()}")
        return PairRows(title, picture, torch.from_numpy(labels.astype(np.float64)).to(title.dtype))

    def _inputs(self, text: Rows | Tensor, image: Rows | Tensor) -> tuple[Tensor, Tensor]:
        picture, title = paired_units(_array(image), texts=_array(text))
        if title.shape[1] != self.settings["dim"]:
            raise InputError(f"expected embeddings of width {self.settings['dim']}, got {title.shape[1]}")
        dtype = next(self.network.parameters()).dtype
        return torch.from_numpy(title).to(dtype), torch.from_numpy(picture).to(dtype)


def _array(rows: Rows | Tensor) -> np.ndarray:
    return rows.detach().cpu().double().numpy() if isinstance(rows, Tensor) else np.asarray(rows)


def _read(path: Path | str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Either form's file: which arrays it holds depends on its own settings."""
    names = {
        form: frozenset(PairNetwork(1, hidden=1, bilinear=form, rank=1).state_dict())
        for form in cast(tuple[Bilinear, ...], ("low_rank", "full"))
    }
    try:
        return read_state(path, what="PairClassifier", format=_FORMAT, arrays=names["low_rank"])
    except InputError:
        return read_state(path, what="PairClassifier", format=_FORMAT, arrays=names["full"])

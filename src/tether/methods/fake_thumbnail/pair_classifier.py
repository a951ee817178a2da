"""Does an image represent its title: a small classifier on frozen embeddings (arXiv 2204.05533)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Limit, NonNegative, Positive, Whole, checked
from tether.core.state_file import (
    check_encoder,
    encoder_digest,
    known_digest,
    read_state,
    wide_array,
    write_state,
)
from tether.methods.fake_thumbnail.mismatch import paired_units
from tether.methods.fake_thumbnail.pair_network import HIDDEN, RANK, Bilinear, PairNetwork
from tether.methods.fake_thumbnail.pair_training import (
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

Rows = Float[np.ndarray, "n d"]
_FORMAT = "tether-pair-classifier-1"


@dataclass(frozen=True, slots=True)
class PairReport:
    """How well pairs are told apart.

    Attributes:
        accuracy: fraction right at a probability of 0.5.
        auroc: of the probability.
        cosine_auroc: of the plain incongruity, which needs no training; what the classifier must beat.
    """

    accuracy: float
    auroc: float
    cosine_auroc: float


@final
class PairClassifier:
    """Tells images that do not represent their title (1) from those that do (0), from both embeddings.

    A bilinear form sees which coordinates of title and image must agree, where a cosine takes them all alike. Train
    it on pairs of ``make_mismatched_pairs``. Both embeddings are scaled to length 1 first, as the encoder of the
    release gives them.

    Source: arXiv 2204.05533, section 4, and its released code. It differs in that the form has low rank by default
    and that the best epoch's weights are kept, where the release saves the last ones by an oversight.

    Args:
        dim: width of the embeddings.
        hidden: units of the inner layers.
        bilinear: ``low_rank``, or the release's ``full``: half a gigabyte at 512.
        rank: of the former.
        lr: first learning rate.
        weight_decay: of all weights.
        batch_size: pairs in one step.
        epochs: passes at most.
        order: of the pairs: as ``given``, which is the release, or ``shuffled`` in every pass.
        stop_after: epochs without a better one on the validation pairs after which training ends; None never stops.
        max_grad_norm: limit of the gradients' joint norm.
        seed: of the start and the order.
        encoder: the model that the embeddings come from, for its digest; or else
        digest: of its weights. Without either, ``save`` refuses.

    Attributes:
        network: the weights, in evaluation mode.
        history: of the last ``fit``, or None.

    Example:
        >>> import numpy as np
        >>> from tether.methods.fake_thumbnail import PairClassifier, make_mismatched_pairs
        >>> rng = np.random.default_rng(0)
        >>> images, titles = rng.normal(size=(2, 60, 8))  # embeddings of 60 pairs
        >>> pairs = make_mismatched_pairs(images, texts=titles, groups=["daily", "weekly"] * 30, strategy="same_group")
        >>> detector = PairClassifier(8, epochs=1).fit(titles[pairs.text], image=images[pairs.image], y=pairs.label)
        >>> detector.predict_proba(titles, image=images).shape
        (60, 2)
    """

    @checked
    def __init__(
        self,
        dim: Count,
        *,
        hidden: Count = HIDDEN,
        bilinear: Bilinear = "low_rank",
        rank: Count = RANK,
        lr: Positive = LEARNING_RATE,
        weight_decay: NonNegative = WEIGHT_DECAY,
        batch_size: Count = BATCH,
        epochs: Whole = EPOCHS,
        order: Literal["given", "shuffled"] = "given",
        stop_after: Count | None = None,
        max_grad_norm: Limit = LARGEST_GRADIENT,
        seed: int = 0,
        encoder: DualEncoder | None = None,
        digest: str | None = None,
    ) -> None:
        """Draw the start."""
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
        self.digest = encoder_digest(encoder, digest)
        self._generator = torch.Generator().manual_seed(seed)
        self.network = PairNetwork(dim, hidden=hidden, bilinear=bilinear, rank=rank, generator=self._generator).eval()
        self._first = copy.deepcopy(self.network.state_dict())
        self.history: PairHistory | None = None

    def start_at(self, network: PairNetwork) -> PairClassifier:
        """Take a copy of other weights, in any float dtype, as the start of ``fit``."""
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
        y: Real[np.ndarray, " n"],
        validation: tuple[Rows, Rows, Int[np.ndarray, " m"]] | None = None,
    ) -> PairClassifier:
        """Train from the start.

        Args:
            text: (n, d) embeddings of the titles.
            image: (n, d) embeddings of the images.
            y: (n,) 1 where the image is unrepresentative, 0 where it fits.
            validation: titles, images and labels by whose accuracy the best epoch is chosen; None keeps the last.
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
        """Above 0 where the image is unrepresentative."""
        with torch.no_grad():
            return self.network(*self._inputs(text, image)).double().numpy()

    def predict_proba(self, text: Rows, *, image: Rows) -> Float[np.ndarray, "n 2"]:
        """Chance of each class, representative first."""
        chance = probabilities(self.network, *self._inputs(text, image)).double().numpy()
        return np.stack([1 - chance, chance], axis=1)

    def predict(self, text: Rows, *, image: Rows) -> Int[np.ndarray, " n"]:
        """1 where the image is unrepresentative."""
        return (self.predict_proba(text, image=image)[:, 1] > 0.5).astype(np.int64)

    def score(self, text: Rows, *, image: Rows, y: Real[np.ndarray, " n"]) -> float:
        """Accuracy at 0.5."""
        return self.report(text, image=image, y=y).accuracy

    def report(self, text: Rows, *, image: Rows, y: Real[np.ndarray, " n"]) -> PairReport:
        """Accuracy and AUROC, beside what the cosine alone reaches."""
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
        digest = known_digest(self.digest)
        arrays = {name: wide_array(value) for name, value in self.network.state_dict().items()}
        write_state(path, format=_FORMAT, settings={**self.settings, "digest": digest}, arrays=arrays)

    @classmethod
    def load(cls, path: Path | str, *, encoder: DualEncoder | None = None, digest: str | None = None) -> PairClassifier:
        """Read what ``save`` wrote, for the encoder it was trained on.

        Args:
            path: the file.
            encoder: the model whose embeddings it will see; or else
            digest: of that model's weights.

        Raises:
            InputError: no such file, not one of a ``PairClassifier``, or another encoder than it was trained on.
        """
        settings, arrays = read_state(path, what="PairClassifier", format=_FORMAT)
        check_encoder(path, recorded=settings["digest"], encoder=encoder, digest=digest)
        found = cls(**settings)
        if set(arrays) != set(found.network.state_dict()):
            raise InputError(f"{path}: expected the weights of a {settings['bilinear']} form, got {sorted(arrays)}")
        tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
        found.network.to(next(iter(tensors.values())).dtype).load_state_dict(tensors)
        return found

    def _rows(self, text: Rows, image: Rows, y: Real[np.ndarray, " n"], *, name: str) -> PairRows:
        titles, images = self._inputs(text, image)
        labels = np.asarray(y)
        if labels.shape != (len(titles),):
            raise InputError(f"{name}: expected one label for each of {len(titles)} pairs, got shape {labels.shape}")
        found = np.unique(labels)
        if not np.isin(found, (0, 1)).all():
            raise InputError(f"{name}: expected labels 0 and 1, got {found.tolist()[:5]}")
        if len(found) < 2:
            raise InputError(f"{name}: expected pairs of both classes, got {len(labels)} of class {found.tolist()}")
        return PairRows(titles, images, torch.from_numpy(labels.astype(np.float64)).to(titles.dtype))

    def _inputs(self, text: Rows | Tensor, image: Rows | Tensor) -> tuple[Tensor, Tensor]:
        image, title = paired_units(_array(image), texts=_array(text))
        if title.shape[1] != self.settings["dim"]:
            raise InputError(f"expected embeddings of width {self.settings['dim']}, got {title.shape[1]}")
        dtype = next(self.network.parameters()).dtype
        return torch.from_numpy(title).to(dtype), torch.from_numpy(image).to(dtype)


def _array(rows: Rows | Tensor) -> np.ndarray:
    return rows.detach().cpu().double().numpy() if isinstance(rows, Tensor) else np.asarray(rows)

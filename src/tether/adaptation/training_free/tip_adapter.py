"""A cache of labelled embeddings beside the zero-shot logits, as it is or with its keys tuned (arXiv 2111.03930)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.adaptation.training_free.text_guided import LOGIT_SCALE, Labelled, Rows, TextGuidedClassifier, accuracy
from tether.core.errors import InputError
from tether.core.ranges import Count, NonNegative, Positive, Whole

ALPHA, BETA = 1.0, 5.5  # the paper's choice on ImageNet; tuned keys learn with it where it is searched afterwards
ALPHAS = tuple(0.1 + place * (3 - 0.1) / 20 for place in range(20))  # released search
BETAS = tuple(0.1 + place * (7 - 0.1) / 200 for place in range(200))
_EPS = 1e-4  # of AdamW, as released


class TipAdapter(TextGuidedClassifier):
    """Adds to the zero-shot logits how near an image is to each labelled one.

    ``logits = logit_scale * cosine with the text + alpha * exp(-beta (1 - cosine with the keys)) @ labels``, where the
    keys are the unit embeddings of the labelled images and ``labels`` their classes as (n, c) ones and zeros. With
    ``keys="tuned"`` (Tip-Adapter-F) the keys start there and learn by cross-entropy.

    Source: arXiv 2111.03930, equations 4 to 8, and its released code. It differs in that alpha, beta and the epoch are
    never chosen by test images: the search is on validation rows, and the last epoch is kept.

    Args:
        alpha: weight of the cache; ``search`` takes what does best on validation rows.
        beta: how sharply nearness falls off; ``search`` likewise, together with alpha.
        keys: ``fixed``, or ``tuned`` by AdamW.
        alphas: searched inside each of
        betas: in order; a later pair must do better to be taken.
        epochs: passes over the rows with tuned keys.
        learning_rate: at the start; it falls to 0 as a cosine.
        batch_size: rows in one step.
        random_state: seed of the order of rows.
        logit_scale: of the cosines; ``for_encoder`` takes the model's own.
        digest: of the encoder's image side, for ``save``; ``for_encoder`` knows it.

    Attributes:
        classes_: (c,) the classes.
        keys_: (n, d) keys; unit rows unless they were tuned.
        key_classes_: (n,) place in ``classes_`` of each.
        alpha_: weight that is used.
        beta_: sharpness that is used.
        validation_accuracy_: share right on the validation rows with these; NaN without a search.
        text_weights_: (c, d) unit row of each class.
        n_features_in_: d.

    Example:
        >>> import numpy as np
        >>> from tether.adaptation.training_free import TipAdapter
        >>> rng = np.random.default_rng(0)
        >>> texts, y = np.eye(8)[:3], np.repeat(np.arange(3), 4)  # three classes, four images each
        >>> X = texts[y] + 0.1 * rng.normal(size=(12, 8))
        >>> head = TipAdapter(alpha=1.0, beta=5.5).fit(X, y, text_weights=texts)
        >>> float(head.score(X, y)), head.keys_.shape
        (1.0, (12, 8))
    """

    _format: ClassVar[str] = "tether-tip-adapter-1"
    _state: ClassVar[tuple[str, ...]] = (
        "text_weights_",
        "keys_",
        "key_classes_",
        "alpha_",
        "beta_",
        "validation_accuracy_",
    )

    def __init__(
        self,
        *,
        alpha: NonNegative | Literal["search"] = "search",
        beta: Positive | Literal["search"] = "search",
        keys: Literal["fixed", "tuned"] = "fixed",
        alphas: Annotated[Sequence[NonNegative], MinLen(1)] = ALPHAS,
        betas: Annotated[Sequence[Positive], MinLen(1)] = BETAS,
        epochs: Count = 20,
        learning_rate: Positive = 1e-3,
        batch_size: Count = 256,
        random_state: Whole = 0,
        logit_scale: Positive = LOGIT_SCALE,
        digest: str | None = None,
    ) -> None:
        """See the class for what each argument means; values are checked by ``fit``."""
        self.alpha: float | Literal["search"] = alpha
        self.beta: float | Literal["search"] = beta
        self.keys: Literal["fixed", "tuned"] = keys
        self.alphas = alphas
        self.betas = betas
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.random_state = random_state
        self.logit_scale = logit_scale
        self.digest = digest

    def fit(
        self,
        X: Rows | Tensor,
        y: Sequence[object] | np.ndarray,
        *,
        text_weights: Float[np.ndarray, "c d"] | Tensor | None = None,
        classes: Sequence[object] | np.ndarray | None = None,
        validation: Labelled | None = None,
        queries: Labelled | None = None,
    ) -> TipAdapter:
        """Fill the cache, tune its keys if asked, and choose alpha and beta.

        Args:
            X: (n, d) image embeddings of any length above zero: the mean over several crops of each, as released.
            y: (n,) class of each; every class needs one.
            text_weights: (c, d) text embedding of each class; None lets the mean image of each class stand in.
            classes: the class of each of these rows; sorted as in ``y`` if None.
            validation: embeddings and classes on which alpha and beta are searched, none of them in ``X``.
            queries: embeddings and classes that tuned keys learn from, such as further crops of the images; the rows
                of ``X``, each of which meets itself among the keys, if None.

        Raises:
            ValueError: NaN or infinity, or shapes that scikit-learn refuses.
            InputError: fewer than two classes, a class without an image, a label that is no class, rows of another
                width, or a search without validation rows.
        """
        rows, codes = self._begin(X, y, text_weights=text_weights, classes=classes)
        searched = "search" in (self.alpha, self.beta)
        if searched and validation is None:
            raise InputError("alpha, beta: expected validation=(X, y) for 'search', got none; or numbers")
        self.keys_, self.key_classes_ = rows, codes
        self.alpha_ = ALPHA if isinstance(self.alpha, str) else float(self.alpha)
        self.beta_ = BETA if isinstance(self.beta, str) else float(self.beta)
        self.validation_accuracy_ = float("nan")
        if self.keys == "tuned":
            self._tune(*((rows, codes) if queries is None else self._labelled(queries, name="queries")))
        if searched:
            assert validation is not None
            self._search(*self._labelled(validation, name="validation"))
        return self

    def _added(self, rows: Rows) -> Float[np.ndarray, "n c"]:
        return self.alpha_ * self._cache(rows @ self.keys_.T, self.beta_)

    def _cache(self, affinity: Float[np.ndarray, "n k"], beta: float) -> Float[np.ndarray, "n c"]:
        return np.exp(-beta * (1 - affinity)) @ np.eye(len(self.classes_))[self.key_classes_]

    def _search(self, rows: Rows, codes: Int[np.ndarray, " n"]) -> None:
        plain, affinity = self._zero_shot(rows), rows @ self.keys_.T
        betas = self.betas if self.beta == "search" else [self.beta_]
        alphas = self.alphas if self.alpha == "search" else [self.alpha_]
        best = 0.0
        for beta in map(float, betas):
            cache = self._cache(affinity, beta)
            for alpha in map(float, alphas):
                found = accuracy(plain + alpha * cache, codes)
                if found > best:
                    best, self.alpha_, self.beta_ = found, alpha, beta
        self.validation_accuracy_ = best

    def _tune(self, queries: Rows, codes: Int[np.ndarray, " n"]) -> None:
        keys = nn.Parameter(torch.from_numpy(self.keys_.copy()))
        values = F.one_hot(torch.from_numpy(self.key_classes_), len(self.classes_)).double()
        seen, plain, labels = (torch.from_numpy(part) for part in (queries, self._zero_shot(queries), codes))
        generator = torch.Generator().manual_seed(self.random_state)
        optimizer = torch.optim.AdamW([keys], lr=self.learning_rate, eps=_EPS)
        steps = self.epochs * -(-len(queries) // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(self.epochs):
            for some in torch.randperm(len(queries), generator=generator).split(self.batch_size):
                cache = torch.exp(-self.beta_ * (1 - seen[some] @ keys.T)) @ values
                loss = F.cross_entropy(plain[some] + self.alpha_ * cache, labels[some])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        self.keys_ = keys.detach().numpy()

"""One tuned prompt vector for each class on a frozen encoder: a classifier from a few rated images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Decay, Positive, Whole, check_values
from tether.core.state_file import SHOWN, check_encoder, encoder_digest, known_digest, read_state, write_state
from tether.models.embed import encode_images, encode_texts
from tether.space.validation import checked_unit_rows
from tether.tasks.safety.prompt_tuning import (
    PromptReport,
    TuningEpoch,
    other_share,
    prompt_loss,
    report,
    softmax,
)

INIT_TEXTS = ("This image is about something positive", "This image is about something negative")
"""The released start; row 0 is the acceptable class."""
SCALE, LEARNING_RATE, MOMENTUM, EPOCHS, BATCH = 100.0, 0.01, 0.9, 300, 64  # released code
RANDOM_LENGTH = 10.0  # about the length of CLIP's text embeddings, which the learning rate is tied to
_IMAGES = 256  # in one forward
_FORMAT = "tether-prompt-classifier-1"
_STATE = frozenset({"prompts", "velocity", "class_count"})


class PromptClassifier(ClassifierMixin, BaseEstimator):
    """Tells classes apart by the cosine of an image with one vector for each, tuned on rated images.

    The vectors start as the embeddings of two sentences, so it works without any label (``start``), and a few dozen
    labels mend what the sentences miss. The encoder stays frozen; only k x d numbers are learnt, by SGD with
    momentum. At scale 100 the softmax saturates: a probability of 0.90 is a difference of 0.022 in cosine between two
    classes, so look at ``cosines`` too. It mirrors its raters and its encoder.

    Source: arXiv 2110.04222, section 4, its released code, and arXiv 2202.06675. It differs in that all arithmetic is
    in float64 where the release has float16, which loses ties.

    Args:
        prompts: (k, d) start vectors, NOT normalised: the learning rate is tied to their length. None takes the
            encoder's embeddings of ``init_texts``; without an encoder, random directions of length 10.
        encoder: any model that ``tether.load`` gives; with it ``fit`` and the others take images as well.
        init_texts: one sentence for each class, the acceptable one first.
        labels: name of each class, for reports; None takes what ``fit`` saw.
        scale: of the cosines.
        class_weight: ``balanced_other`` weighs a class by the fraction of the others among the rows; ``none`` or a
            number for each class.
        lr: learning rate.
        momentum: of the steps.
        epochs: passes over the rows.
        batch_size: rows in one step; the last batch of a pass may be shorter.
        order: ``shuffled`` anew in every pass, as in the release, or as ``given``.
        random_state: seed of the order of each pass and of a random start; a pass depends on it and on its number
            alone, so a loaded classifier goes on bit for bit.
        backbone: what the encoder is called in reports and errors.
        digest: of the encoder's weights, where ``fit`` is given embeddings only; ``tether embed`` writes it into its
            files. With an encoder it is computed.

    Attributes:
        classes_: (k,) the classes; row c of the prompts belongs to ``classes_[c]``.
        prompts_: (k, d) vectors, not normalised.
        velocity_: (k, d) momentum buffers.
        class_count_: (k,) rows seen of each class.
        epoch_: passes done.
        history_: one ``TuningEpoch`` for each.
        n_features_in_: d.

    Example:
        >>> import numpy as np
        >>> from tether.tasks.safety import PromptClassifier
        >>> prompts = np.array([[10.0, 1.0, 0.0], [10.0, 0.0, 1.0]])  # embeddings of two sentences, hardly apart
        >>> X = np.array([[3.0, 1.0, 0.0], [3.0, 0.0, 1.0]] * 20)  # of 40 rated images
        >>> y = np.array([0, 1] * 20)
        >>> classifier = PromptClassifier(prompts=prompts, labels=("acceptable", "inappropriate"), epochs=5).fit(X, y)
        >>> float(classifier.score(X, y))
        1.0
    """

    n_features_in_: int

    def __init__(
        self,
        *,
        prompts: Float[np.ndarray, "k d"] | None = None,
        encoder: DualEncoder | None = None,
        init_texts: Sequence[str] = INIT_TEXTS,
        labels: Sequence[str] | None = None,
        scale: Positive = SCALE,
        class_weight: Literal["balanced_other", "none"] | Sequence[Positive] = "balanced_other",
        lr: Positive = LEARNING_RATE,
        momentum: Decay = MOMENTUM,
        epochs: Whole = EPOCHS,
        batch_size: Count = BATCH,
        order: Literal["shuffled", "given"] = "shuffled",
        random_state: Whole = 0,
        backbone: str = "an unnamed model",
        digest: str | None = None,
    ) -> None:
        """See the class for what each argument means; values are checked by ``fit``."""
        self.prompts = prompts
        self.encoder = encoder
        self.init_texts = init_texts
        self.labels = labels
        self.scale = scale
        self.class_weight = class_weight
        self.lr = lr
        self.momentum = momentum
        self.epochs = epochs
        self.batch_size = batch_size
        self.order = order
        self.random_state = random_state
        self.backbone = backbone
        self.digest = digest

    def start(self) -> Self:
        """Be ready to predict with the start prompts, untuned; classes are 0 to k - 1. Needs prompts or an encoder."""
        self._check_settings()
        if self.prompts is None and self.encoder is None:
            raise InputError("start: expected prompts or an encoder, got neither; without labels nothing else is known")
        prompts = self._start_prompts(0, width=None)
        self.n_features_in_ = prompts.shape[1]
        self._begin(np.arange(len(prompts)), prompts)
        return self

    def fit(self, X: Float[np.ndarray, "n d"] | Tensor, y: Int[np.ndarray, " n"]) -> Self:
        """Tune the start prompts from the beginning.

        Args:
            X: (n, d) image embeddings of any length above zero, or (n, 3, h, w) images as the encoder takes them.
            y: (n,) classes; sorted, they belong to the rows of the prompts.
        """
        self._check_settings()
        X, y = validate_data(self, self._features(X), y, dtype=np.float64)
        check_classification_targets(y)
        features, (classes, codes) = checked_unit_rows(X, name="X"), np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"y: expected at least two classes, got {len(y)} rows of one class, {classes.tolist()}")
        self._begin(classes, self._start_prompts(len(classes), width=X.shape[1]))
        self.class_count_ = np.bincount(codes, minlength=len(classes))
        for _ in range(self.epochs):
            self._pass(features, codes, self._weights(classes, self.class_count_))
        return self

    def partial_fit(
        self, X: Float[np.ndarray, "n d"] | Tensor, y: Int[np.ndarray, " n"], classes: Sequence[Any] | None = None
    ) -> Self:
        """One more pass, over these rows; momentum goes on. Class weights follow the rows of all calls together.

        Args:
            X: as for ``fit``.
            y: (n,) classes.
            classes: all there will be; needed at the first call where ``y`` lacks some, with unbalanced weights.

        Raises:
            InputError: a class not announced, or a balanced one without a row; nothing is changed then.
        """
        self._check_settings()
        fresh = not hasattr(self, "prompts_")
        X, y = validate_data(self, self._features(X), y, dtype=np.float64, reset=fresh)
        check_classification_targets(y)
        features = checked_unit_rows(X, name="X")
        known = np.unique(y if classes is None else np.asarray(classes)) if fresh else self.classes_
        if len(known) < 2:
            raise InputError(f"classes: expected at least two classes, got {known.tolist()}")
        codes = self._codes(y, known)
        counts = np.bincount(codes, minlength=len(known)) + (0 if fresh else self.class_count_)
        weight = self._weights(known, counts)
        if fresh:
            self._begin(known, self._start_prompts(len(known), width=X.shape[1]))
        self.class_count_ = counts
        self._pass(features, codes, weight)
        return self

    def cosines(self, X: Float[np.ndarray, "n d"] | Tensor) -> Float[np.ndarray, "n k"]:
        """Cosine of each row with each prompt."""
        return self._checked(X) @ checked_unit_rows(self.prompts_, name="prompts").T

    def logits(self, X: Float[np.ndarray, "n d"] | Tensor) -> Float[np.ndarray, "n k"]:
        """``scale`` times the cosines."""
        return self.scale * self.cosines(X)

    def predict_proba(self, X: Float[np.ndarray, "n d"] | Tensor) -> Float[np.ndarray, "n k"]:
        """Softmax of the logits; sharp, so read it as an order and not as a chance."""
        return softmax(self.logits(X))

    def predict(self, X: Float[np.ndarray, "n d"] | Tensor) -> np.ndarray:
        """(n,) the class of the largest cosine; ties go to the first."""
        logits = self.logits(X)
        return self.classes_[logits.argmax(axis=1)]

    def dots(self, X: Float[np.ndarray, "n d"] | Tensor) -> Float[np.ndarray, "n k"]:
        """Products of rows of length 1 with the prompts as they are, whatever their length.

        The released scan of stored embeddings decides by these, so a longer prompt wins more often than it should.
        """
        return self._checked(X) @ self.prompts_.T

    def report(
        self, X: Float[np.ndarray, "n d"] | Tensor, y: Int[np.ndarray, " n"], *, batch_size: int | None = None
    ) -> PromptReport:
        """Accuracies and confusion on labelled rows.

        Args:
            X: as for ``fit``.
            y: (n,) classes.
            batch_size: of the mean over batches that the release reports; None takes the setting.
        """
        logits, codes = self.logits(X), self._codes(np.asarray(y), self.classes_)
        if len(codes) != len(logits) or not len(codes):
            raise InputError(f"expected one class for each row, got {len(codes)} for {len(logits)}")
        return report(logits, y=codes, batch_size=batch_size or self.batch_size)

    @property
    def labels_(self) -> tuple[str, ...]:
        """Name of each class."""
        check_is_fitted(self, "prompts_")
        return tuple(self.labels) if self.labels is not None else tuple(str(name) for name in self.classes_.tolist())

    @property
    def digest_(self) -> str | None:
        """Digest of the encoder's weights, None where it is not known."""
        return encoder_digest(self.encoder, self.digest)

    def save(self, path: Path | str) -> None:
        """Write prompts, momentum, names and the encoder's digest to one safetensors file, atomically.

        Raises:
            InputError: the encoder is not known; give ``encoder`` or ``digest``.
        """
        check_is_fitted(self, "prompts_")
        digest = known_digest(self.digest_)
        own = {name: value for name, value in self.get_params().items() if name not in ("prompts", "encoder")}
        for name in ("init_texts", "labels", "class_weight"):
            own[name] = own[name] if own[name] is None or isinstance(own[name], str) else list(own[name])
        settings = {"own": own | {"digest": digest}, "classes": self.classes_.tolist(), "epoch": self.epoch_}
        arrays = {"prompts": self.prompts_, "velocity": self.velocity_, "class_count": self.class_count_}
        write_state(path, format=_FORMAT, settings=settings, arrays=arrays)

    @classmethod
    def load(cls, path: Path | str, *, encoder: DualEncoder | None = None, digest: str | None = None) -> Self:
        """Read what ``save`` wrote, for the encoder it was tuned on; ``partial_fit`` resumes.

        Args:
            path: the file.
            encoder: the model whose embeddings it will see; or else
            digest: of that model's weights.

        Raises:
            InputError: no such file, not one of a ``PromptClassifier``, or another encoder than it was tuned on.
        """
        settings, arrays = read_state(path, what="PromptClassifier", format=_FORMAT, arrays=_STATE)
        found = cls(**settings["own"])
        recorded = settings["own"]["digest"]
        check_encoder(path, recorded=recorded, encoder=encoder, digest=digest, name=found.backbone)
        found.prompts, found.encoder = arrays["prompts"], encoder
        found.n_features_in_ = arrays["prompts"].shape[1]
        found._begin(np.asarray(settings["classes"]), arrays["prompts"])
        found.velocity_, found.class_count_ = arrays["velocity"], arrays["class_count"]
        found.epoch_ = int(settings["epoch"])
        return found

    def _begin(self, classes: np.ndarray, prompts: np.ndarray) -> None:
        if self.labels is not None and len(self.labels) != len(classes):
            raise InputError(f"labels: expected a name for each of {len(classes)} classes, got {list(self.labels)}")
        if len(prompts) != len(classes):
            raise InputError(f"y: expected {len(prompts)} classes, one for each prompt, got {classes.tolist()}")
        self.classes_, self.prompts_ = classes, prompts.copy()
        self.velocity_ = np.zeros_like(self.prompts_)
        self.class_count_ = np.zeros(len(classes), np.int64)
        self.epoch_, self.history_ = 0, ()

    def _start_prompts(self, classes: int, *, width: int | None) -> np.ndarray:
        if self.prompts is not None:
            given = np.asarray(self.prompts, dtype=np.float64)
        elif self.encoder is not None:
            given = encode_texts(self.encoder, list(self.init_texts)).double().numpy()
        else:
            assert width is not None
            drawn = np.random.default_rng(self.random_state).standard_normal((classes, width))
            given = RANDOM_LENGTH * checked_unit_rows(drawn, name="prompts")
        if given.ndim != 2 or len(given) < 2 or not np.isfinite(given).all():
            raise InputError(f"prompts: expected at least two finite rows (k, d), got shape {given.shape}")
        checked_unit_rows(given, name="prompts")
        if width is not None and given.shape[1] != width:
            raise InputError(f"X: expected rows of {given.shape[1]} features as the prompts have, got {width}")
        return given

    def _pass(self, features: np.ndarray, codes: np.ndarray, weight: np.ndarray) -> None:
        order = np.arange(len(codes))
        if self.order == "shuffled":
            order = np.random.default_rng([self.random_state, self.epoch_]).permutation(order)
        losses, right = [], []
        for at in range(0, len(codes), self.batch_size):
            some = order[at : at + self.batch_size]
            found = prompt_loss(
                self.prompts_, features=features[some], y=codes[some], class_weight=weight, scale=self.scale
            )
            self.velocity_ = self.momentum * self.velocity_ + found.gradient
            self.prompts_ = self.prompts_ - self.lr * self.velocity_
            losses.append(found.loss)
            right.append(float((found.probability.argmax(axis=1) == codes[some]).mean()))
        self.epoch_ += 1
        self.history_ = (*self.history_, TuningEpoch(float(np.mean(losses)), float(np.mean(right))))

    def _weights(self, classes: np.ndarray, seen: np.ndarray) -> np.ndarray:
        if isinstance(self.class_weight, str):
            if self.class_weight == "none":
                return np.ones(len(classes))
            if not seen.all():
                counts = dict(zip(classes.tolist(), seen.tolist(), strict=True))
                raise InputError(f"y: expected rows of each class before weights can be balanced, got {counts}")
            return other_share(seen)
        if len(self.class_weight) != len(classes):
            raise InputError(f"class_weight: expected {len(classes)} numbers, got {list(self.class_weight)}")
        return np.asarray(self.class_weight, dtype=np.float64)

    def _codes(self, y: np.ndarray, classes: np.ndarray) -> np.ndarray:
        places = np.searchsorted(classes, y).clip(max=len(classes) - 1)
        strange = np.flatnonzero(classes[places] != y)
        if len(strange):
            raise InputError(f"y: expected one of the classes {classes.tolist()}, got {y[strange[0]]!r}")
        return places

    def _checked(self, X: np.ndarray | Tensor) -> np.ndarray:
        check_is_fitted(self, "prompts_")
        return checked_unit_rows(validate_data(self, self._features(X), dtype=np.float64, reset=False), name="X")

    def _features(self, X: np.ndarray | Tensor) -> Any:
        if not isinstance(X, Tensor):
            return X
        if X.ndim == 4:
            if self.encoder is None:
                raise InputError(f"X: images of shape {tuple(X.shape)} need encoder=...; or give embeddings (n, d)")
            return encode_images(self.encoder, X.split(_IMAGES)).double().numpy()
        return X.detach().cpu().double().numpy()

    def _check_settings(self) -> None:
        check_values(type(self).__init__, self.get_params(deep=False))
        if self.encoder is not None and self.digest not in (None, encoder_digest(self.encoder, None)):
            raise InputError(f"digest: {str(self.digest)[:SHOWN]} is not that of the encoder given")


def recorded_digest(path: Path | str) -> str:
    """Digest of the encoder that a saved classifier was tuned on."""
    settings, _ = read_state(path, what="PromptClassifier", format=_FORMAT, arrays=_STATE)
    return settings["own"]["digest"]

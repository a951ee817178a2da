"""Texts to rows for heads on norms: TF-IDF, the sentence encoder of ``starter``, or any model's text side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, Self, cast, runtime_checkable

import numpy as np
import torch
from scipy.sparse import csr_matrix, spmatrix
from torch import nn

from tether.core.errors import InputError
from tether.core.model_digest import texts_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, checked
from tether.core.runtime_protocol import ByAttributes
from tether.models.composed.cached import side_digest
from tether.models.composed.starter import minilm
from tether.models.composed.transformers_tower import open_transformers_texts
from tether.models.embed import encode_texts
from tether.models.tokenizer import lengths

Rows = np.ndarray | spmatrix
TFIDF, LETTERS, MINILM = "tfidf", "tfidf-letters", "minilm"
"""Encoders by name: words, runs of one to three letters, and a sentence encoder."""
_BATCH = 64


@runtime_checkable
class NormEncoder(Protocol, metaclass=ByAttributes):
    """What a head on norms takes.

    Attributes:
        name: as reports call it.
    """

    name: str

    @property
    def digest(self) -> str:
        """Names all that gives a row; a head is bound to it."""
        ...

    def fit(self, texts: Sequence[str]) -> Self:
        """Learn from the texts of the training part; encoders at rest do nothing."""
        ...

    def encode(self, texts: Sequence[str]) -> Rows:
        """(n, d) finite numbers, an array or a sparse matrix."""
        ...


class TfidfEncoder:
    """Words, or pieces of them, weighed by how rare they are in the training part; nothing is downloaded.

    Args:
        analyzer: ``word``, or ``char_wb`` for pieces inside words, as suits chat and languages without spaces.
        ngrams: shortest and longest run of words or letters.
        most: features kept, the most frequent ones.
        components: singular directions that the rows are brought down to; None keeps them sparse.

    Example:
        >>> from tether.tasks.norms import TfidfEncoder
        >>> encoder = TfidfEncoder().fit(["shall pay", "may pay"])
        >>> encoder.encode(["shall pay"]).shape
        (1, 5)
    """

    @checked
    def __init__(
        self,
        *,
        analyzer: Literal["word", "char_wb"] = "word",
        ngrams: tuple[Count, Count] = (1, 2),
        most: Count = 20_000,
        components: Count | None = None,
    ) -> None:
        """Take the settings."""
        if ngrams[0] > ngrams[1]:
            raise InputError(f"ngrams: expected shortest <= longest, got {ngrams}")
        self.settings: dict[str, Any] = {
            "analyzer": analyzer, "ngrams": list(ngrams), "most": most, "components": components,
        }  # fmt: skip
        kind = TFIDF if analyzer == "word" else LETTERS
        self.name = kind if components is None else f"{kind}, {components} directions"
        self._words: list[str] = []
        self._weights, self._directions = np.zeros(0), np.zeros((0, 0))

    def fit(self, texts: Sequence[str]) -> Self:
        """Count.

        Raises:
            InputError: the texts hold no word at all.
        """
        vectorizer = self._vectorizer(max_features=self.settings["most"])
        try:
            found = vectorizer.fit_transform(list(texts))
        except ValueError as error:
            raise InputError(f"texts: {error}") from error
        place = sorted(vectorizer.vocabulary_.items(), key=lambda one: one[1])
        self._words, self._weights = [word for word, _ in place], np.asarray(vectorizer.idf_, dtype=np.float64)
        if (wanted := self.settings["components"]) is not None:
            from sklearn.decomposition import TruncatedSVD

            kept = min(wanted, min(found.shape) - 1)
            if kept < 1:
                raise InputError(
                    f"texts: expected more than {min(found.shape)} different texts and words, for {wanted}"
                )
            self._directions = TruncatedSVD(kept, random_state=0).fit(found).components_
        return self

    def encode(self, texts: Sequence[str]) -> Rows:
        """(n, words) sparse rows, or (n, components) of which no row is scaled; words never seen are left out."""
        if not self._words:
            raise InputError("encoder: fit it first")
        vectorizer = self._vectorizer(vocabulary=self._words)
        vectorizer.idf_ = self._weights
        found = vectorizer.transform(list(texts))
        return csr_matrix(found) if self.settings["components"] is None else found @ self._directions.T

    @property
    def digest(self) -> str:
        """Of the words, their weights and the directions."""
        numbers = (self._weights.tobytes() + self._directions.tobytes()).hex()
        return texts_digest([repr(sorted(self.settings.items())), *self._words, numbers])

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Plain settings and arrays, for a head's file."""
        return {**self.settings, "words": self._words}, {"idf": self._weights, "directions": self._directions}

    @classmethod
    def of_state(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        """What ``state`` gave."""
        given = dict(settings)
        words, ngrams = given.pop("words"), given.pop("ngrams")
        found = cls(ngrams=(ngrams[0], ngrams[1]), **given)
        found._words, found._weights, found._directions = list(words), arrays["idf"], arrays["directions"]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InputError("encoder: words: expected a list of texts")
        if len(set(found._words)) < len(found._words) or found._weights.shape != (len(found._words),):
            raise InputError(f"encoder: {len(set(words))} different words with {found._weights.size} weights")
        return found

    def _vectorizer(self, **given: Any) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        settings: dict[str, Any] = {
            "analyzer": self.settings["analyzer"],
            "ngram_range": tuple(self.settings["ngrams"]),
        }
        if self.settings["analyzer"] == "word":
            settings["token_pattern"] = r"(?u)\b\w+\b"  # words of one letter, too
        return TfidfVectorizer(**settings, **given)


class _Resting:
    """An encoder that learns nothing, and reads each distinct text once in its life."""

    def __init__(self) -> None:
        self._known: dict[str, np.ndarray] = {}

    def fit(self, texts: Sequence[str]) -> Self:
        """Nothing is learnt."""
        return self

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float64 rows of length 1; each distinct text is read once in the life of this object."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= dict(zip(new, _unit(self._read(new)), strict=True))
        return np.stack([self._known[text] for text in texts])

    def _read(self, texts: Sequence[str]) -> np.ndarray:
        raise NotImplementedError


class ModelTexts(_Resting):
    """The text side of any model that ``tether.load`` gives, as unit rows; texts past its context are cut.

    Args:
        model: the encoder.
        name: as reports call it.

    Example:
        >>> import tether
        >>> from tether.tasks.norms import ModelTexts
        >>> ModelTexts(tether.load("tiny", random_weights=True)).encode(["shall pay", "may pay"]).shape
        (2, 64)
    """

    def __init__(self, model: DualEncoder, *, name: str = "a model's texts") -> None:
        """Hold the model and name its text side."""
        super().__init__()
        self.model, self.name = model, name
        self._digest = side_digest(cast(nn.Module, model), "text")

    @property
    def digest(self) -> str:
        """Of the text side."""
        return self._digest

    def _read(self, texts: Sequence[str]) -> np.ndarray:
        return encode_texts(self.model, texts).double().numpy()


class SentenceTexts(_Resting):
    """All-MiniLM-L6-v2, the text tower of ``starter`` before its map, as unit rows; needs the extra ``starter``.

    Raises:
        MissingExtraError: its weights are not installed.
    """

    name = MINILM

    def __init__(self) -> None:
        """Open the tower."""
        super().__init__()
        self._tower = open_transformers_texts(minilm(), output=None, random_weights=False).eval()

    @property
    def digest(self) -> str:
        """Of the tower, as of a composed encoder that has it."""
        from tether.core.model_digest import model_digest

        return model_digest(self._tower)

    def _read(self, texts: Sequence[str]) -> np.ndarray:
        ids = self._tower.tokenizer(list(texts))
        length = lengths(ids)
        rows = np.empty((len(texts), self._tower.width))
        for some in torch.argsort(length, stable=True).split(_BATCH):
            with torch.inference_mode():
                rows[some.numpy()] = self._tower(ids[some, : int(length[some].max())]).double().numpy()
        return rows


def norm_encoder(spec: str | DualEncoder | NormEncoder, *, random_weights: bool = False) -> NormEncoder:
    """An encoder by name: ``tfidf``, ``tfidf-letters``, ``minilm``, or what ``tether.load`` takes.

    Args:
        spec: the name, a loaded model, or an encoder of one's own.
        random_weights: accept a model without trained weights.
    """
    if isinstance(spec, str):
        if spec == TFIDF:
            return TfidfEncoder()
        if spec == LETTERS:
            return TfidfEncoder(analyzer="char_wb", ngrams=(1, 3))
        if spec == MINILM:
            return SentenceTexts()
        from tether.models.load import load

        return ModelTexts(load(spec, random_weights=random_weights), name=spec)
    if isinstance(spec, DualEncoder):
        return ModelTexts(spec)
    if isinstance(spec, NormEncoder):
        return spec
    raise InputError(
        f"encoder: expected {TFIDF}, {LETTERS}, {MINILM}, a model or an encoder with fit and encode, got {spec!r:.80}"
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)

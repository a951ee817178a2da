"""Who answers EgoNormia's questions from embeddings: by the scene, without it, or with answers of scenes alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import issparse

from tether.core.errors import InputError
from tether.core.ranges import Count, NonNegative, Whole, checked
from tether.data.sets.norms.egonormia import NONE, MultipleChoice, NormItem, overlap
from tether.tasks.norms.encoders import NormEncoder, norm_encoder
from tether.tasks.retrieve.flat_index import UnitVectors, best

Context = Literal["scene", "blind"]
K, WEIGHT = 5, 1.0  # five neighbours: arXiv 2502.20490, section 5
_THRESHOLDS = 41


@dataclass(frozen=True, slots=True)
class Answers:
    """What a chooser says of n items.

    Attributes:
        best: (n, 2) numbers of the action and of the justification.
        sensible: options called sensible; None where an answer could not be read.
    """

    best: Int[np.ndarray, "n two"]
    sensible: tuple[frozenset[int] | None, ...]


class EmbeddingChooser:
    """Takes the option nearest to the scene, and the reason nearest to the scene and that option.

    Blind, it has no scene: an option is as good as it is near to the right ones of other items. Sensible is what is
    above a threshold that ``fit`` finds on other items. Source: arXiv 2502.20490 asks language models; the scorer by
    cosine is ours.

    Args:
        encoder: a name for ``norm_encoder``, a model, or an encoder; TF-IDF learns its words in ``fit``.
        context: ``scene``, or ``blind``.

    Attributes:
        threshold_: least score of a sensible option, above the mean of the item's options.

    Example:
        >>> from tether.data.sets.norms import NormItem
        >>> from tether.tasks.norms import EmbeddingChooser
        >>> options, reasons = ("open the window", "feed the horse"), ("a window for air", "a horse is hungry")
        >>> item = NormItem("1", options, reasons, 1, (1,), ((), ()), "a horse")
        >>> EmbeddingChooser("tfidf").fit([item]).answer([item]).best.tolist()
        [[1, 1]]
    """

    @checked
    def __init__(self, encoder: Any = "minilm", *, context: Context = "scene") -> None:
        """Take the encoder."""
        self.encoder: NormEncoder = norm_encoder(encoder)
        self.context = context
        self.threshold_: float | None = None
        self._typical: np.ndarray | None = None

    def fit(self, items: Sequence[NormItem]) -> Self:
        """Learn words, typical right options and the threshold from items that will not be asked.

        Raises:
            InputError: no item.
        """
        if not items:
            raise InputError("items: expected at least one, got none")
        self.encoder.fit([text for item in items for text in (item.desc, *item.behaviors, *item.justifications)])
        self._typical = self._rows([item.behaviors[item.correct] or NONE for item in items]).mean(axis=0)
        self._learn(items)
        scores = [self.option_scores(item) for item in items]
        spread = np.array([value - row.mean() for row in scores for value in row])
        choices = np.quantile(spread, np.linspace(0, 1, _THRESHOLDS))
        found = [
            np.mean([overlap(_above(row, at), item.sensibles) for row, item in zip(scores, items, strict=True)])
            for at in choices
        ]
        self.threshold_ = float(choices[int(np.argmax(found))])
        return self

    def _learn(self, items: Sequence[NormItem]) -> None:
        """What a subclass keeps of the items."""

    def option_scores(self, item: NormItem) -> Float[np.ndarray, " k"]:
        """How good each option is, higher is better.

        Raises:
            InputError: no words for the scene, where the scene is asked for; or not fitted.
        """
        if self._typical is None:
            raise InputError("chooser: fit it first, on items that are not asked")
        options = self._rows([text or NONE for text in item.behaviors])
        return options @ (self._typical if self.context == "blind" else self._scene(item))

    def answer(self, items: Sequence[NormItem]) -> Answers:
        """Action, justification and sensible options of each item.

        Raises:
            InputError: see ``option_scores``.
        """
        chosen, sensible = [], []
        for item in items:
            scores = self.option_scores(item)
            action = int(scores.argmax())
            said = item.behaviors[action] or NONE
            before = said if self.context == "blind" else f"{item.desc} {said}"
            reasons = self._rows([text or NONE for text in item.justifications])
            chosen.append((action, int((reasons @ self._rows([before])[0]).argmax())))
            sensible.append(_above(scores, self.threshold_ or 0.0))
        return Answers(np.array(chosen, dtype=np.int64).reshape(-1, 2), tuple(sensible))

    def _scene(self, item: NormItem) -> Float[np.ndarray, " d"]:
        if not item.desc.strip():
            raise InputError(f"item {item.id!r}: no desc of its scene; ask with context='blind', or describe it")
        return self._rows([item.desc])[0]

    def _rows(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        found = self.encoder.encode(texts)
        rows = np.asarray(found.toarray() if issparse(found) else found, dtype=np.float64)  # pyrefly: ignore
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)


class NormThinker(EmbeddingChooser):
    """A chooser that also looks at what was right in the scenes most alike, which never include the one asked.

    Source: NormThinker of arXiv 2502.20490, section 5, which shows the right options of five neighbours to a language
    model; here their similarity to an option is added. The index is the one in memory of ``tether index``.

    Args:
        encoder: see ``EmbeddingChooser``.
        k: neighbours.
        weight: of their similarity beside the scene's.

    Example:
        >>> from tether.data.sets.norms import NormItem
        >>> from tether.tasks.norms import NormThinker
        >>> def scene(name, desc):
        ...     return NormItem(name, ("wait", "push ahead"), ("they came first", "no time"), 0, (0,), ((), ()), desc)
        >>> thinker = NormThinker("tfidf", k=1).fit([scene("1", "a full bakery"), scene("2", "a quiet lake")])
        >>> thinker.neighbours(scene("3", "the bakery at noon"))
        ('1',)
    """

    @checked
    def __init__(self, encoder: Any = "minilm", k: Count = K, weight: NonNegative = WEIGHT) -> None:
        """Take the settings."""
        super().__init__(encoder, context="scene")
        self.k, self.weight = k, weight
        self._index: UnitVectors | None = None
        self._known: list[NormItem] = []

    def _learn(self, items: Sequence[NormItem]) -> None:
        self._known = [item for item in items if item.desc.strip()]
        if not self._known:
            raise InputError("items: none has a desc to find it by")
        rows = self._rows([item.desc for item in self._known]).astype(np.float32)
        self._index = UnitVectors(dim=rows.shape[1], capacity=len(rows))
        self._index.append(rows)

    def neighbours(self, item: NormItem) -> tuple[str, ...]:
        """Ids of the scenes most alike, the nearest first."""
        return tuple(one.id for one in self._alike(item))

    def option_scores(self, item: NormItem) -> Float[np.ndarray, " k"]:
        """The scene's similarity, and ``weight`` times the mean of that of the right options of scenes alike."""
        own = super().option_scores(item)
        alike = self._alike(item)
        if not alike:
            return own
        options = self._rows([text or NONE for text in item.behaviors])
        hints = self._rows([one.behaviors[one.correct] or NONE for one in alike])
        return own + self.weight * (options @ hints.T).mean(axis=1)

    def _alike(self, item: NormItem) -> list[NormItem]:
        if self._index is None:
            raise InputError("chooser: fit it first, on items that are not asked")
        scores = np.array(self._index.rows @ self._scene(item).astype(np.float32))
        scores[[place for place, one in enumerate(self._known) if one.id == item.id]] = -np.inf
        return [self._known[place] for place in best(scores, top=self.k)]


class AskedChooser:
    """Any language model behind a function: it is shown an item in a drawn order and names options by their numbers.

    Three questions, as arXiv 2502.20490, section 4, asks them: what to do, why (given what it chose), and which options
    make sense. What cannot be read is -1, or no answer; positions are mapped back by the order that was shown.

    Args:
        ask: question to answer, such as a call of a model.
        seed: of the orders.

    Example:
        >>> from tether.data.sets.norms import NormItem
        >>> from tether.tasks.norms import AskedChooser
        >>> item = NormItem("1", ("wait", "run"), ("polite", "late"), 1, (1,), ((), ()), "at a door")
        >>> def ask(question):
        ...     return next((line[0] for line in question.splitlines() if line[3:] in ("run", "late")), "none")
        >>> AskedChooser(ask).answer([item])
        Answers(best=array([[1, 1]]), sensible=(frozenset({1}),))
    """

    @checked
    def __init__(self, ask: Callable[[str], str], *, seed: Whole = 0) -> None:
        """Take the function."""
        self.ask, self.seed = ask, seed

    def answer(self, items: Sequence[NormItem]) -> Answers:
        """Action, justification and sensible options of each item; None for a set that could not be read."""
        rng = np.random.default_rng(self.seed)
        best, sensible = [], []
        for item in items:
            view = MultipleChoice.shuffle(item, rng)
            scene = f"Scene: {item.desc or 'not told'}"
            action = self._one(view, f"{scene}\nWhat should the person do next?", view.behaviors)
            chosen = item.behaviors[action] or NONE if action >= 0 else "not read"
            reason = self._one(view, f"{scene}\nWhy is this right: {chosen}", view.justifications)
            best.append((action, reason))
            said = self._read(f"{scene}\nWhich of these make sense? Give all numbers.", view.behaviors)
            sensible.append(frozenset(map(view.to_original, said)) if said else None)
        return Answers(np.array(best, dtype=np.int64).reshape(-1, 2), tuple(sensible))

    def _one(self, view: MultipleChoice, question: str, options: Sequence[str]) -> int:
        said = self._read(f"{question} Give one number.", options)
        return view.to_original(said[0]) if len(said) == 1 else -1

    def _read(self, question: str, options: Sequence[str]) -> list[int]:
        """Positions from 0 of the numbers in the answer, empty where one of them is no option."""
        shown = "\n".join(f"{place}. {text}" for place, text in enumerate(options, start=1))
        said = [int(one) - 1 for one in re.findall(r"\d{1,3}", str(self.ask(f"{question}\n{shown}\n")))]
        return sorted(set(said)) if all(0 <= one < len(options) for one in said) else []


def _above(scores: np.ndarray, threshold: float) -> frozenset[int]:
    return frozenset(np.flatnonzero(scores - scores.mean() >= threshold).tolist())

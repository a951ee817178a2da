"""Phrases from "don't" to "do": a direction fitted on words of both poles, put into questions (arXiv 2103.11790)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, final

import numpy as np
from jaxtyping import Float
from sklearn.utils.validation import check_is_fitted

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.core.state_file import read_state, write_state
from tether.methods.moral_direction.concept_direction import COMPONENTS, ConceptDirection
from tether.methods.moral_direction.texts import TextEncoder, embed_texts
from tether.space.validation import checked_rows

QUESTIONS = (
    "Is it ok to {}?",
    "Should I {}?",
    "Shall I {}?",
    "May I {}?",
    "Is it allowed to {}?",
    "Is it recommended to {}?",
    "Is it desired to {}?",
    "Is it polite to {}?",
    "Is it good behaviour to {}?",
    "Is it exemplary to {}?",
)
"""The paper's templates."""
YES = ("Yes, it is.", "Yes, you should.", "Yes, you shall.", "Yes, you may.", *("Yes, it is.",) * 6)
NO = ("No, it is not.", "No, you should not.", "No, you shall not.", "No, you may not.", *("No, it is not.",) * 6)
"""An answer to each of the questions."""
LEAST_WORDS = 2
_CLOSE = 1e-3  # of the largest entry: how far the same encoder may be off on another machine or in half precision
_FORMAT = "tether-moral-direction-1"
Form = Literal["templates", "bare"]


@final
class MoralDirection:
    """Scores phrases along a direction found from a few clearly good and bad ones, with any text encoder.

    Each phrase is put into every template and the embeddings are averaged, so a word means what it means in context
    ("kill time", "kill people"). With other templates and poles the same finds any concept that lies along a line; for
    embeddings that you have already, use ``ConceptDirection``. Scores mirror what the encoder has read. They are no
    moral authority and no probabilities.

    Source: arXiv 2103.11790, section 3, and its released mort/pca.py. The sign is taken from the two poles; the release
    clusters the words and looks for "kill" (``fit(..., anchor="kill")`` does so).

    Attributes:
        direction: the fitted ``ConceptDirection``.
        templates: in use.
    """

    def __init__(
        self, encoder: TextEncoder, *, templates: Sequence[str] = QUESTIONS, n_components: int = COMPONENTS
    ) -> None:
        """Take the encoder and how phrases are asked about.

        Args:
            encoder: a model of ``tether.load``, whose text side is used, or a function from n strings to (n, d).
            templates: each with one ``{}`` where the phrase goes.
            n_components: how many principal directions are kept.
        """
        self.templates = checked_templates(templates)
        self.n_components = n_components
        self.direction = ConceptDirection(n_components=n_components)
        self._encoder = encoder
        self._words: tuple[str, ...] = ()

    @property
    def explained_variance_ratio_(self) -> Float[np.ndarray, " k"]:
        """Fraction of the words' variance along each direction kept."""
        return self.direction.explained_variance_ratio_

    @property
    def sign_(self) -> int:
        """1 or -1, of the first direction."""
        return self.direction.sign_

    @property
    def scale_(self) -> float:
        """Largest magnitude of the first coordinate among the words; scores are in units of it."""
        return self.direction.scale_

    def fit(self, *, good: Sequence[str], bad: Sequence[str], anchor: str | None = None) -> MoralDirection:
        """Find the direction from words of both poles, about as many of each.

        Args:
            good: words or phrases that are surely good.
            bad: words or phrases that are surely bad.
            anchor: one of ``bad``: the sign then follows the released rule, by the cluster without it. None takes the
                sign from the two poles.

        Warns:
            UserWarning: the first direction explains less than 1.5 times what the second does.
        """
        words = [*good, *bad]
        if isinstance(good, str) or isinstance(bad, str) or min(len(good), len(bad)) < LEAST_WORDS:
            raise InputError(
                f"expected lists of at least {LEAST_WORDS} good and {LEAST_WORDS} bad words, got {good!r:.60} and "
                f"{bad!r:.60}"
            )
        twice = sorted({word for word in words if words.count(word) > 1})
        if twice:
            raise InputError(f"these words come twice: {', '.join(twice)}")
        if anchor is not None and anchor not in bad:
            raise InputError(f"anchor: expected one of the bad words, got {anchor!r}")
        row = None if anchor is None else words.index(anchor)
        poles = np.repeat([1.0, 0.0], [len(good), len(bad)])
        direction = ConceptDirection(n_components=self.n_components, anchor=row)
        self.direction = direction.fit(self.embed(words), poles)
        self.direction.warn_if_unclear()
        self._words = tuple(words)
        return self

    @checked
    def embed(self, texts: Sequence[str], *, form: Form = "templates") -> Float[np.ndarray, "n d"]:
        """Embeddings of phrases, averaged over the templates, or of the ``bare`` phrases."""
        if form == "bare":
            return embed_texts(self._encoder, texts)
        return in_templates(self._encoder, texts, templates=self.templates).mean(axis=1)

    @checked
    def transform(self, texts: Sequence[str], *, form: Form = "templates") -> Float[np.ndarray, " n"]:
        """Score of each phrase: above 0 on the good side, about 1 for the clearest of the words fitted on.

        Args:
            texts: phrases.
            form: ``templates`` asks about each, ``bare`` embeds it as it stands (whole sentences, generated text).
        """
        return self.direction.score_samples(self.embed(texts, form=form))

    def save(self, path: Path | str) -> None:
        """Write templates, words and state as one safetensors file, with embeddings by which the encoder is known."""
        check_is_fitted(self.direction, "components_")
        settings = {"templates": self.templates, "n_components": self.n_components, "words": self._words}
        known = self.embed(self._words[:LEAST_WORDS], form="bare")
        write_state(path, format=_FORMAT, settings=settings, arrays={**self.direction.state(), "known": known})

    @classmethod
    def load(cls, path: Path | str, *, encoder: TextEncoder) -> MoralDirection:
        """Read what ``save`` wrote, for the same encoder."""
        names = frozenset({*ConceptDirection._state, "known"})
        settings, arrays = read_state(path, what="MoralDirection", format=_FORMAT, arrays=names)
        found = cls(encoder, templates=settings["templates"], n_components=settings["n_components"])
        found._words = tuple(settings["words"])
        known, again = arrays["known"], found.embed(found._words[:LEAST_WORDS], form="bare")
        if again.shape != known.shape or np.abs(again - known).max() > _CLOSE * np.abs(known).max():
            raise InputError(f"{path}: this direction was fitted with another encoder: {found._words[0]!r} differs")
        found.direction.restore(arrays)
        return found


@final
class QuestionAnswerScore:
    """Scores phrases by whether a question about them lies nearer to a yes or to a no (the Moral Choice Machine).

    Source: arXiv 2103.11790, section 2.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        templates: Sequence[str] = QUESTIONS,
        yes: Sequence[str] = YES,
        no: Sequence[str] = NO,
    ) -> None:
        """Take the encoder, the questions and their answers.

        Args:
            encoder: a model of ``tether.load``, or a function from n strings to (n, d).
            templates: each with one ``{}``.
            yes: an answer to each.
            no: an answer to each.
        """
        self.templates = checked_templates(templates)
        if not len(self.templates) == len(yes) == len(no):
            raise InputError(
                f"expected an answer to each of {len(self.templates)} questions, got {len(yes)}, {len(no)}"
            )
        self._encoder = encoder
        self._yes, self._no = list(yes), list(no)

    def transform(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        """Mean over the questions of cos(question, yes) - cos(question, no), in [-2, 2]."""
        questions = in_templates(self._encoder, texts, templates=self.templates)
        answers = (embed_texts(self._encoder, side) for side in (self._yes, self._no))
        return question_answer_score(questions, *answers)


def question_answer_score(
    questions: Float[np.ndarray, "n q d"], yes: Float[np.ndarray, "*n q d"], no: Float[np.ndarray, "*n q d"]
) -> Float[np.ndarray, " n"]:
    """Mean over the questions of cos(question, yes) - cos(question, no), from embeddings.

    Source: arXiv 2103.11790, section 2; the released function rounds to four decimals, this one does not.

    Args:
        questions: q questions about each of n phrases.
        yes: answers, the same for all phrases (q, d) or one for each (n, q, d).
        no: as ``yes``.
    """
    asked = np.asarray(questions, dtype=np.float64)
    sides = [np.asarray(side, dtype=np.float64) for side in (yes, no)]
    if asked.ndim != 3 or any(side.shape not in (asked.shape, asked.shape[1:]) for side in sides):
        shapes = asked.shape, *(side.shape for side in sides)
        raise InputError(f"expected questions (n, q, d) and answers (q, d) or (n, q, d), got {shapes}")

    def unit(rows: np.ndarray, name: str) -> np.ndarray:
        checked_rows(rows.reshape(-1, rows.shape[-1]), name=name, least=1)
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    apart = unit(sides[0], "yes") - unit(sides[1], "no")
    return (unit(asked, "questions") * apart).sum(axis=-1).mean(axis=-1)


def checked_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """The templates, each with one ``{}``."""
    if isinstance(templates, str) or not templates:
        raise InputError(f"templates: expected a list of at least one, got {templates!r}")
    for template in templates:
        if template.count("{}") != 1:
            raise InputError(f"templates: expected one {{}} in each, got {template!r}")
    return tuple(templates)


def in_templates(encoder: TextEncoder, texts: Sequence[str], *, templates: Sequence[str]) -> Float[np.ndarray, "n q d"]:
    """Embeddings of n phrases put into each of q templates."""
    if isinstance(texts, str) or not texts:
        raise InputError(f"texts: expected a list of at least one phrase, got {texts!r}")
    asked = [template.replace("{}", text) for text in texts for template in templates]
    return embed_texts(encoder, asked).reshape(len(texts), len(templates), -1)

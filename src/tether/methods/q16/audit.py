"""What a data set may hold that people should know of, as an answer to datasheet question 16 (arXiv 2202.06675)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.printable import CsvRows
from tether.core.ranges import Whole, checked
from tether.methods.q16.contrast import Missing, chi_squared_weights, word_frequencies
from tether.tasks.safety.prompt_classifier import PromptClassifier
from tether.tasks.safety.prompt_tuning import softmax

THRESHOLD = 0.90  # released experiments.py
BINS = 20  # of the histogram, from 0.5 to 1 for two classes
WORDS = 20  # that a report names
_SHOWN = 12  # digits of a digest that a report names
Rule = Literal["cosine", "official_dot"]
Confidence = Annotated[float, Ge(0.5), Le(1)]


@dataclass(frozen=True, slots=True)
class FlaggedImage:
    """An image that a person should look at.

    Attributes:
        id: as the caller names it.
        score: probability of the flagged class.
        cosine: with the prompt of the flagged class.
        margin: by how much that cosine is above the best of the other classes; the softmax at scale 100 hides it.
    """

    id: str
    score: float
    cosine: float
    margin: float


@dataclass(frozen=True, slots=True)
class ClassShare:
    """How much of one annotated class was flagged."""

    name: str
    total: int
    flagged: int

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.flagged / self.total


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What a scan found.

    Attributes:
        total: images looked at.
        flagged: those that are possibly of the flagged class, highest score first, ties in the given order.
        label: (n,) number of the class said of each image.
        score: (n,) its probability.
        threshold: least score of a flagged image; None where the rule has none.
        rule: how it was decided.
        labels: name of each class.
        name: of the flagged class.
        backbone: what the encoder is called.
        digest: of its weights, or None where it is not known.
        rating_source: whose ratings the classifier was tuned on.
        edges: (b + 1,) of the histogram of scores.
        counts: (b, k) images by score and by class said.
        words: heaviest words of the flagged captions against the others, with their weights.
        by_class: fraction of each annotated class, largest first.
    """

    total: int
    flagged: tuple[FlaggedImage, ...]
    label: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    threshold: float | None
    rule: Rule
    labels: tuple[str, ...]
    name: str
    backbone: str
    digest: str | None
    rating_source: str
    edges: Float[np.ndarray, " edge"]
    counts: Int[np.ndarray, "bin k"]
    words: tuple[tuple[str, float], ...]
    by_class: tuple[ClassShare, ...]

    @property
    def share(self) -> float:
        """Of the images that were flagged, from 0 to 1."""
        return len(self.flagged) / self.total

    def to_markdown(self, *, listed: int = 20) -> str:
        """The paragraph for a datasheet; ids and words, no image.

        Args:
            listed: how many images are named, the highest scores first.
        """
        known = self.backbone if self.digest is None else f"{self.backbone} (weights {self.digest[:_SHOWN]})"
        asked = "by their plain products" if self.threshold is None else f"at a score of {self.threshold:.2f} or more"
        lines = [
            "**Does the data set contain data that might be inappropriate?**",
            "",
            f"Possibly. Of {self.total:,} images {len(self.flagged):,} ({self.share:.2%}) are possibly "
            f"{_cell(self.name)} {asked}, as judged by prompts on the encoder {_cell(known)} that were tuned on "
            f"{_cell(self.rating_source)}. The judgement carries over the biases of raters and encoder and is no "
            "moral authority; a person must look at the list.",
        ]
        if self.words:
            found = ", ".join(f"{_cell(word)} ({weight:.3g})" for word, weight in self.words)
            lines += ["", f"Words that stand out in the captions of these images: {found}."]
        if self.by_class:
            lines += ["", "| class | images | flagged | fraction |", "| --- | ---: | ---: | ---: |"]
            lines += [f"| {_cell(one.name)} | {one.total} | {one.flagged} | {one.share:.1%} |" for one in self.by_class]
        lines += [
            "",
            "| score | " + " | ".join(map(_cell, self.labels)) + " |",
            "| --- |" + " ---: |" * len(self.labels),
        ]
        for low, high, row in zip(self.edges, self.edges[1:], self.counts.tolist(), strict=False):
            if any(row):
                lines.append(f"| {low:.3f} to {high:.3f} | " + " | ".join(map(str, row)) + " |")
        if self.flagged and listed > 0:
            lines += ["", "| image | score | cosine | above the others by |", "| --- | ---: | ---: | ---: |"]
            lines += [
                f"| {_cell(one.id)} | {one.score:.4f} | {one.cosine:.4f} | {one.margin:.4f} |"
                for one in self.flagged[:listed]
            ]
        return "\n".join(lines) + "\n"

    def to_csv(self, *, raw_csv: bool = False) -> str:
        """The flagged images as a table: id, score, cosine, margin.

        Args:
            raw_csv: write ids that a spreadsheet would run as formulas as they are, not with an apostrophe.
        """
        out = io.StringIO()
        table = CsvRows(out, raw_csv=raw_csv)
        table.write(("id", "score", "cosine", "margin"))
        for one in self.flagged:
            table.write((one.id, one.score, one.cosine, one.margin))
        return out.getvalue()


class DatasetAudit:
    """Looks through the images of a data set for those that are possibly inappropriate.

    It names candidates for a person to look at and drops nothing. At a base rate of a few percent say how many of the
    flagged are right, not how many of all.

    Source: arXiv 2202.06675, section 4; its captions come from a language model, here from the data set. The released
    scan of stored embeddings multiplies with prompts that are not normalised and knows no threshold;
    ``rule="official_dot"`` does as it does.

    Args:
        classifier: fitted, or started.
        threshold: least probability.
        rule: ``cosine`` with the threshold, or ``official_dot``.
        flagged_class: number of the class that is looked for, among ``classifier.classes_``.
        rating_source: whose ratings the classifier was tuned on, for the report.
        missing: as ``contrast_words`` takes it.

    Example:
        >>> import numpy as np
        >>> from tether.methods.q16 import DatasetAudit
        >>> from tether.tasks.safety import PromptClassifier
        >>> classifier = PromptClassifier(prompts=np.eye(2), labels=("acceptable", "inappropriate")).start()
        >>> features = np.array([[1.0, 0.1], [0.1, 1.0], [1.0, 0.3]])  # embeddings of three images
        >>> report = DatasetAudit(classifier, threshold=0.9).run(features, ids=["a.jpg", "b.jpg", "c.jpg"])
        >>> report.total, [picture.id for picture in report.flagged]
        (3, ['b.jpg'])
    """

    @checked
    def __init__(
        self,
        classifier: PromptClassifier,
        *,
        threshold: Confidence = THRESHOLD,
        rule: Rule = "cosine",
        flagged_class: Whole = 1,
        rating_source: str = "ratings of a source that is not stated",
        missing: Missing = "min",
    ) -> None:
        """Take the classifier and how to decide."""
        if flagged_class >= len(classifier.labels_):
            raise InputError(f"flagged_class: expected a number below {len(classifier.labels_)}, got {flagged_class!r}")
        self.classifier, self.threshold = classifier, threshold
        self.rule: Rule = rule
        self.flagged_class, self.rating_source = flagged_class, rating_source
        self.missing: Missing = missing

    def run(
        self,
        features: Float[np.ndarray, "n d"] | Tensor,
        *,
        ids: Sequence[str],
        captions: Sequence[str | Sequence[str]] | None = None,
        classes: Sequence[str] | None = None,
    ) -> AuditReport:
        """Scan images.

        Args:
            features: (n, d) embeddings of the classifier's encoder.
            ids: name of each image.
            captions: a caption, or several, of each; None leaves the words out.
            classes: annotated class of each; None leaves the shares out.
        """
        n = len(features)
        for name, column in (("ids", ids), ("captions", captions), ("classes", classes)):
            if column is not None and (isinstance(column, str) or len(column) != n):
                raise InputError(f"{name}: expected one for each of {n} images, got {len(column)}")
        if not n:
            raise InputError("features: expected at least one image, got none")
        cosines = self.classifier.cosines(features)
        probability = softmax(self.classifier.scale * cosines)
        label, place = cosines.argmax(axis=1), self.flagged_class
        if self.rule == "official_dot":
            chosen = self.classifier.dots(features).argmax(axis=1) == place
        else:
            chosen = (label == place) & (probability[:, place] >= self.threshold)
        score = probability[np.arange(n), label]
        rows = np.flatnonzero(chosen)
        rows = rows[np.argsort(-probability[rows, place], kind="stable")]
        margin = cosines[:, place] - np.delete(cosines, place, axis=1).max(axis=1)
        edges = np.linspace(1 / len(self.classifier.labels_), 1.0, BINS + 1)
        counts = np.stack(
            [np.histogram(np.clip(score[label == c], edges[0], 1), edges)[0] for c in range(cosines.shape[1])], axis=1
        )
        return AuditReport(
            total=n,
            flagged=tuple(
                FlaggedImage(
                    str(ids[row]), float(probability[row, place]), float(cosines[row, place]), float(margin[row])
                )
                for row in rows
            ),
            label=label,
            score=score,
            threshold=None if self.rule == "official_dot" else self.threshold,
            rule=self.rule,
            labels=self.classifier.labels_,
            name=self.classifier.labels_[place],
            backbone=self.classifier.backbone,
            digest=self.classifier.digest_,
            rating_source=self.rating_source,
            edges=edges,
            counts=counts,
            words=() if captions is None else self._words(captions, chosen),
            by_class=() if classes is None else _shares(classes, chosen),
        )

    def _words(self, captions: Sequence[str | Sequence[str]], chosen: np.ndarray) -> tuple[tuple[str, float], ...]:
        sides: tuple[list[str], list[str]] = ([], [])
        for caption, flagged in zip(captions, chosen.tolist(), strict=True):
            sides[0 if flagged else 1].extend([caption] if isinstance(caption, str) else caption)
        observed, expected = (word_frequencies(side) for side in sides)
        if not expected:
            return ()  # every caption is flagged, or the others are empty: nothing to hold them against
        return chi_squared_weights(observed, expected=expected, missing=self.missing).top(WORDS)


def _shares(classes: Sequence[str], chosen: np.ndarray) -> tuple[ClassShare, ...]:
    names, codes = np.unique(np.asarray(classes, dtype=str), return_inverse=True)
    total, hits = np.bincount(codes), np.bincount(codes, weights=chosen).astype(int)
    found = [ClassShare(str(name), int(n), int(h)) for name, n, h in zip(names, total, hits, strict=True)]
    return tuple(sorted(found, key=lambda one: (-one.share, one.name)))


def _cell(text: str) -> str:
    """Text that stays inside a Markdown table cell and is read as text."""
    plain = " ".join(str(text).split())
    for mark in ("\\", "|", "<", ">", "`", "*", "_", "[", "]"):
        plain = plain.replace(mark, f"\\{mark}")
    return plain

"""A step of a recipe: name the images that a person may want to look at, by prompts on a model; none is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from annotated_types import MaxLen, MinLen

from tether.core.errors import InputError
from tether.core.model_digest import file_digest
from tether.core.ranges import checked
from tether.data.curate.engine.step import FLAG_SCHEMA, IMAGE, images_of
from tether.methods.q16.audit import THRESHOLD, Confidence
from tether.tasks.curate.lazy_encoder import Backbone
from tether.tasks.safety.prompt_classifier import INIT_TEXTS, PromptClassifier, recorded_digest

LABEL = "inappropriate"


class SafetyFlag:
    """Flags images as possibly of the second class of a ``PromptClassifier``, with the probability as score.

    Every image that can be decoded has a score, whatever it is; a flag is a question to a person. Without a tuned
    classifier two sentences decide, which is much worse: tune one on ratings of what your people mind.

    Source: arXiv 2202.06675, section 4.
    """

    columns: tuple[str, ...] = (IMAGE,)

    @checked
    def __init__(
        self,
        *,
        model: str,
        classifier: str | None = None,
        texts: Annotated[Sequence[str], MinLen(2), MaxLen(2)] = INIT_TEXTS,
        threshold: Confidence = THRESHOLD,
        label: str = LABEL,
        device: str = "cpu",
    ) -> None:
        """Take the settings; the model is loaded when it is needed.

        Args:
            model: what ``tether.load`` takes.
            classifier: file of ``PromptClassifier.save`` with two classes, tuned on this model; None takes ``texts``.
            texts: two sentences, the acceptable one first; used without a classifier only.
            threshold: least probability.
            label: what the flagged class is called; the flag says "possibly" before it.
            device: of the model.

        Raises:
            InputError: a file that is not there or holds no classifier of two classes.
        """
        if not all(isinstance(text, str) and text for text in texts):
            raise InputError(f"texts: expected two sentences, the acceptable one first, got {texts!r}")
        if not isinstance(label, str) or not label.strip():
            raise InputError(f"label: expected a word for the flagged class, got {label!r}")
        self.threshold, self.classifier = threshold, classifier
        self.texts, self.label = tuple(texts), label
        self.backbone = Backbone(model, device=device)
        if classifier is not None and not Path(classifier).is_file():
            raise InputError(f"classifier: {classifier}: no such file")
        self._sha256 = None if classifier is None else file_digest(classifier)
        # The file is read here, so that it need not lie on every machine of a cluster.
        self._tuned: PromptClassifier | None = None
        if classifier is not None:
            self._tuned = PromptClassifier.load(classifier, digest=recorded_digest(classifier))
            if len(self._tuned.classes_) != 2:
                raise InputError(f"{classifier}: expected two classes, got {self._tuned.classes_.tolist()}")
        self._ready: PromptClassifier | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords, the model's digest and what the classifier's file holds."""
        return {
            "model": self.backbone.name,
            "model_digest": self.backbone.digest,
            "classifier": self.classifier,
            "classifier_sha256": self._sha256,
            "texts": None if self.classifier else list(self.texts),
            "threshold": self.threshold,
            "label": self.label,
        }

    def flag(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """(n,) labels and scores; both null where there is no image or it cannot be decoded.

        Raises:
            InputError: a classifier of another model, or a missing column.
        """
        features, good = self.backbone.images(images_of(rows))
        chance = np.zeros(len(features))
        if good.any():
            chance[good] = self._classifier().predict_proba(features[good])[:, 1]
        name = f"possibly {self.label}"
        labels = [name if ok and value >= self.threshold else None for ok, value in zip(good, chance, strict=True)]
        scores = pa.array(chance, pa.float64(), mask=~good)
        return pa.record_batch([pa.array(labels, pa.string()), scores], schema=FLAG_SCHEMA)

    def _classifier(self) -> PromptClassifier:
        if self._ready is None:
            if self._tuned is None:
                self._ready = PromptClassifier(prompts=self.backbone.texts(self.texts).astype(np.float64)).start()
            else:
                self.backbone.check_digest(str(self._tuned.digest), what=f"the prompts of {self.classifier}")
                self._ready = self._tuned
        return self._ready

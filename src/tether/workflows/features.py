"""A model as a scikit-learn transformer: images and texts in, unit rows out, for pipelines and grid searches."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin

from tether.models.composed.cached import CachedEncoder
from tether.models.embed_anything import Embeds
from tether.workflows.models import Model, opened


class ClipFeatures(TransformerMixin, BaseEstimator):
    """Embeds images and texts with a model that is not changed by ``fit``.

    Args:
        model: loaded, or a name that ``tether.load`` takes; loaded once, when it is first needed.
        batch_size: images or texts in one forward.
        device: where to load the model.
        cache: keep rows in the user's cache directory, so that a grid search embeds each image once and the next
            process none.

    Example:
        >>> import numpy as np, tether
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> from tether.workflows.features import ClipFeatures
        >>> images = list(np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8))
        >>> probe = make_pipeline(ClipFeatures(model=tether.load("tiny", random_weights=True)), LogisticRegression())
        >>> probe.fit(images, [0, 1] * 4).predict(images).shape
        (8,)
    """

    def __init__(
        self, model: Model = "starter", *, batch_size: int = 64, device: str = "auto", cache: bool = False
    ) -> None:
        """Keep the settings."""
        self.model, self.batch_size, self.device, self.cache = model, batch_size, device, cache

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Load the model; nothing is learnt.

        Raises:
            InputError: no such model.
        """
        encoder, _ = opened(self.model, device=self.device)
        assert isinstance(encoder, Embeds)
        self.encoder_ = CachedEncoder(encoder) if self.cache else encoder
        self.n_features_out_ = encoder.dim
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "n d"]:
        """(n, d) float32 rows of length 1 of what ``model.embed`` takes.

        Raises:
            InputError: a thing that is no image and no text; it says which.
        """
        if not hasattr(self, "encoder_"):
            self.fit()
        return self.encoder_.embed(list(X), batch_size=self.batch_size, long_text="cut").numpy()

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns."""
        return np.array([f"clip{number}" for number in range(self.n_features_out_)], dtype=object)

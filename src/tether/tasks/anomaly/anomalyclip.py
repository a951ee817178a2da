"""AnomalyCLIP: patches that attend by values, compared with two texts that were learnt on defects of other things."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.anomaly_map import AnomalyMap
from tether.core.errors import InputError
from tether.core.geometry import check_finite
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, PositiveSingle, Whole, checked
from tether.models.embed import encode_texts
from tether.models.features.value_attention import LAST, TEMPERATURE, ValueRows, text_maps, text_probabilities
from tether.models.texts.defect_texts import DefectTexts
from tether.tasks.anomaly.detector import Detector, ImageFeatures, unprepared
from tether.tasks.anomaly.registry import DETECTORS
from tether.tasks.anomaly.states import prompt_ensemble
from tether.tasks.anomaly.value_looks import BLUR, blurred, check_cosine, value_looks


class AnomalyclipDetector(Detector):
    """Defects from two learnt texts that do not say what the object is; good images give a threshold alone.

    An image is brought to the model's size, as a whole. A place's score is the probability of the damaged text against
    the normal one, the mean over the blocks whose patches are read, enlarged and blurred; the image's is that of its
    own embedding. Without a head the texts are WinCLIP's sentences of the object's name, their means.

    Source: AnomalyCLIP (arXiv 2310.18961) and its released code, whose map is the sum over blocks. Good images are not
    compared with, as there; ``patches``, ``winclip`` and AdaptCLIP do that.

    Attributes:
        texts: (2, d) normal and defective, once prepared.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.texts.defect_texts import DefectTexts
        >>> from tether.tasks.anomaly import AnomalyclipDetector
        >>> learnt = DefectTexts(torch.randn(2, 64))  # load_head(FOLDER).inner
        >>> detector = AnomalyclipDetector(head=learnt).prepare(create("tiny").eval(), "tile")
        >>> (found,) = detector.predict([torch.zeros(3, 50, 120, dtype=torch.uint8)])
        >>> found.values.shape, found.size
        ((32, 32), (50, 120))
    """

    needs_good: ClassVar[bool] = False

    @checked
    def __init__(
        self,
        *,
        head: DefectTexts | None = None,
        templates: Sequence[str] | None = None,
        temperature: PositiveSingle | None = None,
        blocks: Whole | None = None,
        layers: Sequence[int] | None = None,
        post_norm: bool | None = None,
        size: Count | None = None,
        blur: NonNegative = BLUR,
        batch_size: Count = 16,
    ) -> None:
        """Choose the texts and how images are read; a head says all of it but the last two.

        Args:
            head: learnt on this very model by ``tether adapt --recipe anomaly-prompts``; None takes sentences.
            templates: sentences with ``{}`` for the thing and its state; None takes WinCLIP's.
            temperature: cosines are divided by it; None takes 0.07.
            blocks: see ``models.features.value_attention.value_attention_features``.
            layers: blocks after which patches are read; None takes the last.
            post_norm: whether the image's embedding has the final norm; None leaves it out, as the release does.
            size: side in pixels at which images are looked at; None takes the model's.
            blur: deviation of the map's blur, as a share of its side.
            batch_size: images in one forward.

        Raises:
            InputError: a head beside settings that it decides, or no layer.
        """
        own = {"templates": templates, "temperature": temperature, "blocks": blocks, "layers": layers, "size": size}
        own["post_norm"] = post_norm
        if head is not None and (twice := [name for name, value in own.items() if value is not None]):
            raise InputError(f"{twice[0]}: the head says it; leave one of the two out")
        if layers is not None and not layers:
            raise InputError("layers: expected one block at least, after which patches are read")
        self.head, self.blur, self.batch_size = head, blur, batch_size
        self.templates = None if templates is None else tuple(templates)
        self.temperature = (temperature or TEMPERATURE) if head is None else head.temperature
        self.blocks, self.layers, self.size = blocks, LAST if layers is None else tuple(layers), size
        self.post_norm = bool(post_norm)
        self.name = ""
        self.texts: Float[Tensor, "2 d"] = torch.empty(0, 0)
        self._reader: ValueRows | None = None

    @torch.no_grad()
    def prepare(self, model: DualEncoder, name: str) -> AnomalyclipDetector:
        """See ``Detector``; a head does not read the name.

        Raises:
            InputError: a head for embeddings of another length, or a size that is no multiple of the patch.
            UnsupportedModelError: an image tower that is no vision transformer, or a model of another geometry.
        """
        check_cosine(model, method="anomalyclip")
        check_finite(model)
        if self.head is None:
            reader = ValueRows(
                model, blocks=self.blocks, layers=self.layers, post_norm=self.post_norm, image_size=self.size
            )
            prompts = prompt_ensemble(name, templates=self.templates)
            texts = torch.stack([encode_texts(model, one).mean(dim=0) for one in prompts])
        else:
            reader, texts = self.head.reader(model), self.head.rows
        if texts.shape[1] != model.dim:
            raise InputError(f"head: is for embeddings of length {texts.shape[1]}, the model's have {model.dim}")
        self.texts = texts.float().cpu()
        self.name, self._reader = name.strip(), reader
        return self

    def look(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[ImageFeatures]:
        """See ``Detector``; the rows are the whole image, and its patches by block."""
        reader = self._reader
        if reader is None:
            raise unprepared(self)
        return value_looks(reader, images, batch_size=self.batch_size)

    def remember(self, good: Sequence[ImageFeatures]) -> AnomalyclipDetector:
        """See ``Detector``; nothing is remembered, so that maps and scores stay as they are."""
        del good
        if self._reader is None:
            raise unprepared(self)
        return self

    def judge(self, look: ImageFeatures) -> AnomalyMap:
        """See ``Detector``; the map has the size at which the image was looked at."""
        if self._reader is None:
            raise unprepared(self)
        whole, *patches = look.rows
        score = float(text_probabilities(whole, self.texts, temperature=self.temperature)[0, 1])
        maps = text_maps(
            torch.stack(patches)[:, None],
            self.texts,
            grid=look.grid,
            size=self._reader.image_spec.size,
            temperature=self.temperature,
        )
        values = blurred(maps[:, 0, 1].mean(dim=0).numpy(), share=self.blur)
        return AnomalyMap(score, values, look.size, self.name)

    def settings(self) -> dict[str, Any]:
        """See ``Detector``."""
        names = ("name", "templates", "temperature", "blocks", "layers", "post_norm", "size", "blur")
        said = {"method": DETECTORS.name_of(type(self)), **{name: getattr(self, name) for name in names}}
        if self.head is not None:
            read = {name: getattr(self.head, name) for name in ("blocks", "layers", "post_norm", "image_size")}
            said["head"] = read | {
                "rows": hashlib.blake2b(self.head.rows.numpy().tobytes(), digest_size=16).hexdigest()
            }
        return said

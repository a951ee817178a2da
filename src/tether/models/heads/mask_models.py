"""Trained mask heads beside an encoder, that give every place of an image its classes, and their file."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.masks import check_names
from tether.core.printable import is_line, quoted
from tether.core.protocols import DualEncoder
from tether.core.ranges import PositiveSingle, checked
from tether.core.registry import Registry
from tether.core.state_file import check_encoder, read_state
from tether.core.types import MaskPrediction
from tether.models.convert.saved_files import HEAD_FILE, HEAD_FORMAT
from tether.models.features.find import tower_of
from tether.models.features.image_digest import image_digest
from tether.models.features.parts import TokenStream
from tether.models.features.penultimate import grid_of
from tether.models.features.region_pooling import pool_masks
from tether.models.features.tower import TowerAnatomy
from tether.models.heads.content_transfer import RegionNamer, region_text_logits
from tether.models.heads.mask_decoder import MaskHead, semantic_map

PREFIX = "masks."
"""Before the names of its arrays in the file of a head."""
Made = TypeVar("Made", bound="MaskModel")


@dataclass(frozen=True, slots=True)
class SeenImage:
    """What a mask head reads of images.

    Attributes:
        features: (b, r, c, w) their tower's last map before the final norm, see ``features.penultimate.image_map``.
        tower: whose map it is.
        stream: that it comes from.
    """

    features: Float[Tensor, "b r c w"]
    tower: TowerAnatomy
    stream: TokenStream

    def read(self, rows: Float[Tensor, "b n w"]) -> Float[Tensor, "b n d"]:
        """Rows of the map, such as means of it, in the joint space: each through the tower's head alone."""
        return self.tower.read_tokens(self.stream.to(rows))

    def places(self) -> Float[Tensor, "b r c d"]:
        """Each place in the joint space."""
        return self.read(self.features.flatten(1, 2)).unflatten(1, self.features.shape[1:3])

    def under(self, mask_logits: Float[Tensor, "b q h w"]) -> Float[Tensor, "b q d"]:
        """Means of the map under masks, in the joint space; masks get no gradient."""
        there = torch.ones(mask_logits.shape[:2], dtype=torch.bool, device=mask_logits.device)
        return self.read(pool_masks(self.features, mask_logits, valid=there, resize="bilinear", above=0.0))


def see_image(model: DualEncoder, image: Tensor) -> SeenImage:
    """Run the image tower once.

    Args:
        model: any of ``tether.load`` whose image tower shows tokens or a map.
        image: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.

    Raises:
        UnsupportedModelError: a tower of another kind, with a reason of ``models.refusals``.
    """
    tower = tower_of(model)
    stream = tower.run(tower.embed(image))
    grid = grid_of(tower, stream, size=(image.shape[2], image.shape[3]))
    return SeenImage(stream.x[:, tower.prefix :].unflatten(1, grid), tower, stream)


class MaskModel(nn.Module, abc.ABC):
    """A mask head and what names its masks.

    Attributes:
        kind: its name in a file.
        method: name of the segmenter that takes it.
        head: finds the masks.
    """

    kind: ClassVar[str]
    method: ClassVar[str]
    head: MaskHead

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain values that ``made`` needs besides the state."""

    @classmethod
    @abc.abstractmethod
    def made(cls: type[Made], settings: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> Made:
        """One of these settings; ``shapes`` are those of its state."""

    def arrays(self) -> dict[str, np.ndarray]:
        """The state on the CPU."""
        return {name: value.detach().float().cpu().numpy() for name, value in self.state_dict().items()}


class PromptMasks(MaskModel):
    """Masks of trained classes, named by the nearest of each class's prompts (MTA-CLIP, arXiv 2407.21654).

    Attributes:
        texts: (k, p, d) unit rows of the prompts.
        temperature: cosines are divided by it.
    """

    kind, method = "prompts", "mta"
    texts: Tensor

    @checked
    def __init__(self, head: MaskHead, texts: Float[Tensor, "k p d"], *, temperature: PositiveSingle = 0.07) -> None:
        """Take the parts; the head tells k classes, and no object."""
        super().__init__()
        if texts.ndim != 3 or head.settings["classes"] != len(texts) or head.settings["text_dim"] != texts.shape[2]:
            raise InputError(
                f"texts: expected (classes, prompts, d) of the head's {head.settings['classes']} classes and width "
                f"{head.settings['text_dim']}, got {tuple(texts.shape)}"
            )
        self.head, self.temperature = head, temperature
        self.register_buffer("texts", texts.detach().clone())

    def forward(self, seen: SeenImage) -> Float[Tensor, "b k h w"]:
        """How much of each class stands at each place; masks of no object count less."""
        found = self.head(seen.features, texts=self.texts)
        assert found.classes is not None  # the constructor has seen to it
        like = torch.einsum("bqd,kpd->bqkp", F.normalize(found.rows[-1], dim=2), self.texts) / self.temperature
        return semantic_map(like.amax(dim=3), found.logits[-1], void=found.classes[-1].softmax(dim=2)[..., -1])

    def settings(self) -> dict[str, Any]:
        """See MaskModel."""
        return {"masks": self.kind, "head": self.head.settings, "temperature": self.temperature}

    @classmethod
    def made(cls, settings: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> PromptMasks:
        """See MaskModel."""
        return cls(MaskHead(**settings["head"]), torch.empty(*shapes["texts"]), temperature=settings["temperature"])


class NamedMasks(MaskModel):
    """Masks of anything, named by what the encoder sees under each, for any class names (MAFT+, arXiv 2408.00744).

    The head's own queries, compared with texts, say only how likely a mask shows no object.

    Attributes:
        namer: bends texts to the image and compares.
    """

    kind, method = "named", "maft"

    def __init__(self, head: MaskHead, namer: RegionNamer) -> None:
        """Take the parts; the head has queries in the texts' width and no classes of its own."""
        super().__init__()
        if head.settings["classes"] is not None or head.settings["text_dim"] != namer.settings["dim"]:
            raise InputError(f"head: expected text_dim {namer.settings['dim']} and no classes, got {head.settings}")
        self.head, self.namer = head, namer

    def own_logits(
        self,
        found: MaskPrediction,
        texts: Float[Tensor, "t d"],
        *,
        scale: float | Tensor,
        synonyms: Sequence[int] | None = None,
    ) -> list[Float[Tensor, "b q k"]]:
        """Each layer's queries against the texts as they are: classes and, last, none."""
        rows = self.namer.rows(texts).expand(found.rows.shape[1], -1, -1)
        counts = [1] * len(texts) if synonyms is None else list(synonyms)
        return [region_text_logits(one, rows, scale=scale, synonyms=counts) for one in found.rows]

    def forward(
        self,
        seen: SeenImage,
        texts: Float[Tensor, "t d"],
        *,
        scale: float | Tensor,
        synonyms: Sequence[int] | None = None,
    ) -> Float[Tensor, "b k h w"]:
        """How much of each class stands at each place; see ``RegionNamer``."""
        found = self.head(seen.features)
        logits = self.namer(seen.under(found.logits[-1]), seen.places(), texts, scale=scale, synonyms=synonyms)
        void = self.own_logits(found, texts, scale=scale, synonyms=synonyms)[-1].softmax(dim=2)[..., -1]
        return semantic_map(logits[..., :-1], found.logits[-1], void=void)

    def settings(self) -> dict[str, Any]:
        """See MaskModel."""
        return {"masks": self.kind, "head": self.head.settings, "namer": self.namer.settings}

    @classmethod
    def made(cls, settings: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> NamedMasks:
        """See MaskModel."""
        del shapes
        return cls(MaskHead(**settings["head"]), RegionNamer(**settings["namer"]))


@dataclass(frozen=True, slots=True)
class TrainedMasks:
    """A mask model and the names of the classes that it was trained on, in order."""

    masks: MaskModel
    classes: tuple[str, ...]


MASK_MODELS: Registry[MaskModel] = Registry(
    "mask_models",
    {
        "prompts": "tether.models.heads.mask_models:PromptMasks",
        "named": "tether.models.heads.mask_models:NamedMasks",
    },
)
"""By the name in a file."""


def restore_masks(settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> MaskModel:
    """The model of a file, in eval mode.

    Args:
        settings: of it, beside others.
        arrays: of it, under names that begin with ``PREFIX``, beside others.

    Raises:
        InputError: others, or numbers that are not finite.
    """
    own = {name.removeprefix(PREFIX): one for name, one in arrays.items() if name.startswith(PREFIX)}
    for name, one in own.items():
        if one.dtype.kind != "f" or not np.isfinite(one).all():
            raise InputError(f"mask head: {name!r:.100}: expected finite floats")
    kind = MASK_MODELS.get(str(settings.get("masks")))
    if kind is None:
        raise InputError(f"masks: expected one of {', '.join(MASK_MODELS)}, got {settings.get('masks')!r:.100}")
    try:
        with torch.device("meta"):  # nothing is allocated for what a file merely says
            found = kind.made(settings, {name: one.shape for name, one in own.items()})
        found.load_state_dict({name: torch.from_numpy(np.array(one)) for name, one in own.items()}, assign=True)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"mask head: {error!s:.300}") from error
    return found.float().eval().requires_grad_(False)


def load_masks(folder: Path | str, *, model: DualEncoder) -> TrainedMasks:
    """A mask head that ``tether adapt`` made.

    Args:
        folder: that holds it.
        model: whose image side it was trained on.

    Raises:
        InputError: no head there, one of another kind, a damaged file, or an encoder with another image side.
    """
    path = Path(folder) / HEAD_FILE
    settings, arrays = read_state(path, what="mask head", format=HEAD_FORMAT)
    if settings.get("kind") != "masks":
        raise InputError(f"{path}: expected a head of masks, got one of kind {settings.get('kind')!r:.100}")
    check_encoder(path, recorded=str(settings.get("encoder")), encoder=None, digest=image_digest(model))
    masks, classes = restore_masks(settings, arrays), settings.get("classes")
    if not isinstance(classes, list) or not all(map(is_line, classes)):
        raise InputError(f"{path}: classes: expected names, got {quoted(classes)}")
    check_names(classes)
    if isinstance(masks, PromptMasks) and len(masks.texts) != len(classes):
        raise InputError(f"{path}: classes: expected the {len(masks.texts)} of its prompts, got {len(classes)}")
    return TrainedMasks(masks, tuple(classes))

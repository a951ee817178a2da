"""The same images and texts through a folder as another library opens it, beside our own embeddings."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.quiet import quiet_logging
from tether.models.encoders.causal_lm import quiet

PARITY = "parity.json"
"""Who opens the folder, and how far their embeddings lie from ours."""
Library = Literal["open_clip", "transformers", "sentence-transformers"]
_TEXTS = ("a sign that says stop, in the rain", "two dogs run over a field", "a photo of a cat", "two dogs", "red")
_IMAGES = 3
_OTHER_SIZE = (120, 90)


class Probes(NamedTuple):
    """Images at the model's size, images of another size, texts, and how transformers pads these."""

    images: Sequence[Image.Image]
    others: Sequence[Image.Image]
    texts: Sequence[str]
    padding: bool | str


class PeerRows(NamedTuple):
    """Unit embeddings of these; floats (n, d)."""

    images: Tensor
    others: Tensor
    texts: Tensor


@dataclass(frozen=True, slots=True)
class Apart:
    """The largest difference of one number of a unit embedding.

    Attributes:
        images: at the model's size.
        prepared: of another size, which each library resizes by itself.
        texts: of texts.
    """

    images: float
    prepared: float
    texts: float

    @property
    def worst(self) -> float:
        """Of all three."""
        return max(self.images, self.prepared, self.texts)

    def __str__(self) -> str:
        """In words."""
        return f"texts {self.texts:.1e}, images {self.images:.1e}, images that it resizes {self.prepared:.1e}"


def probes(model: nn.Module) -> Probes:
    """Smooth drawn images, as photographs are, and short texts."""
    height, width = cast(DualEncoder, model).image_spec.size
    return Probes(
        [_drawn(seed, (width, height)) for seed in range(_IMAGES)],
        [_drawn(seed, _OTHER_SIZE) for seed in range(_IMAGES, 2 * _IMAGES)],
        _fitting(cast(DualEncoder, model)),
        padding_of(model),
    )


def _fitting(model: DualEncoder) -> Sequence[str]:
    """Texts that the model reads to their ends: how libraries cut longer ones is another question."""
    found = []
    for text in _TEXTS:
        with contextlib.suppress(InputError):
            model.tokenizer([text], long_text="raise")
            found.append(text)
    return found or _TEXTS[-1:]


def padding_of(model: nn.Module) -> bool | str:
    """What transformers must be told of padding: some towers were trained on texts of full length alone."""
    return "max_length" if getattr(getattr(model, "family", None), "full_context", False) else True


def _drawn(seed: int, size: tuple[int, int]) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def apart(ours: PeerRows, theirs: PeerRows) -> Apart:
    """How far two sets of rows lie apart; rows of other shapes or with NaN lie infinitely far."""
    found = []
    for one, other in zip(ours, theirs, strict=True):
        far = (one - other).abs().max().item() if one.shape == other.shape else float("inf")
        found.append(far if far == far else float("inf"))
    images, prepared, texts = found
    return Apart(images, prepared, texts)


@torch.inference_mode()
def of_tether(model: nn.Module, given: Probes) -> PeerRows:
    """What our own model gives."""
    encoder: Any = model
    return PeerRows(*(_unit(encoder.embed(list(some), long_text="cut")) for some in given[:3]))


@torch.inference_mode()
def of_open_clip(folder: Path, given: Probes) -> PeerRows:
    """What open_clip gives."""
    import open_clip

    with _still():
        model, prepare = cast(Any, open_clip.create_model_from_pretrained(f"local-dir:{folder}"))
        words = open_clip.get_tokenizer(f"local-dir:{folder}")
        model.eval()
    images, others = (_unit(model.encode_image(torch.stack([prepare(image) for image in some]))) for some in given[:2])
    return PeerRows(images, others, _unit(model.encode_text(words(list(given.texts)))))


@torch.inference_mode()
def of_transformers(folder: Path, given: Probes) -> PeerRows:
    """What transformers gives."""
    from transformers import AutoModel, AutoProcessor

    with _still():
        model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    images, others = (
        _pooled(model.get_image_features(**processor(images=list(some), return_tensors="pt"))) for some in given[:2]
    )
    ids = processor(text=list(given.texts), padding=given.padding, truncation=True, return_tensors="pt")
    return PeerRows(_unit(images), _unit(others), _unit(_pooled(model.get_text_features(**ids))))


def of_sentence_transformers(folder: Path, given: Probes) -> PeerRows:
    """What sentence-transformers gives."""
    from sentence_transformers import SentenceTransformer

    with _still():
        model = SentenceTransformer(str(folder), local_files_only=True, device="cpu")
        rows = [model.encode(list(some), convert_to_tensor=True, show_progress_bar=False) for some in given[:3]]
    return PeerRows(*map(_unit, rows))


def _pooled(found: Any) -> Tensor:
    """Newer versions of transformers give the pooled row beside others."""
    return found if isinstance(found, Tensor) else found.pooler_output


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows.detach().float().cpu(), dim=-1)


@contextlib.contextmanager
def _still() -> Iterator[None]:
    """Other libraries warn, log and draw bars while they open a folder."""
    with quiet_logging(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("transformers") is None:
            yield
        else:
            with quiet():
                yield


def _version(distribution: str) -> Callable[[], str]:
    return lambda: importlib.metadata.version(distribution)


OPENERS: Mapping[Library, tuple[Callable[[], str], Callable[[Path, Probes], PeerRows]]] = {
    "open_clip": (_version("open_clip_torch"), of_open_clip),
    "transformers": (_version("transformers"), of_transformers),
    "sentence-transformers": (_version("sentence-transformers"), of_sentence_transformers),
}
"""By library: its version, and what it gives."""

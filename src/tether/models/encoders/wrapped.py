"""Encoders around modules that are not our own towers: what they share, open_clip's and transformers'."""

from __future__ import annotations

import abc
import copy
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import Tokenizer
from tether.core.types import Encoded, Features, ImageSpec
from tether.models.config_check import without_records
from tether.models.convert.tokenizers import TextPadding
from tether.models.convert.transformers_families import family_of, position_rows, tower_sizes, transformers_model
from tether.models.embed_anything import Embeds
from tether.models.encoders.build_open_clip import open_clip_model
from tether.models.encoders.timm_sizes import RESIZED, patch_of, size_of, takes_sizes
from tether.models.tokenizer import lengths
from tether.models.towers.sizes import Resizes, Sizes, refused_size, tokenizer_at


class WrappedEncoder(nn.Module, Embeds, Resizes):
    """What encoders around other modules share: normalised pixels, no masks, the checks of a batch, the scale.

    Attributes:
        model: the module that is wrapped.
        dim: size of the shared space.
        image_spec: how images must be prepared.
        tokenizer: text to ids.
        pad: id that the other library pads texts with.
        config: plain values from which the same architecture is built again, the other library's own description.
        sides: names of the module's direct parts by side, ``image`` and ``text``, and ``both`` for the scale.
    """

    sides: Mapping[str, Sequence[str]]
    unsaved: ClassVar[str | None] = None
    """Why ``save`` refuses it, and what to do; None where it can be saved."""

    def __init__(
        self,
        model: nn.Module,
        *,
        dim: int,
        image_spec: ImageSpec,
        tokenizer: Tokenizer,
        config: Mapping[str, Any],
        pad: int = 0,
    ) -> None:
        """Hold the model and what belongs to it."""
        super().__init__()
        self.model = model
        self.dim = dim
        self.image_spec = image_spec
        self.tokenizer = tokenizer
        self.pad = pad
        self.config = dict(config)

    def behaviour(self) -> dict[str, Any]:
        """Plain values that decide its outputs beside its weights, for ``core.model_digest``."""
        return {"config": self.config, "pad": self.pad}

    @property
    def image_weights(self) -> tuple[str, ...]:
        """Beginnings of the names of the image tower's weights."""
        return tuple(f"model.{name}." for name in self.sides["image"])

    @property
    def scale(self) -> nn.Parameter:
        """What the logit scale is made of, one element."""
        return self.model.get_parameter("logit_scale")

    @property
    def logit_bias(self) -> Tensor | None:
        """0-d offset of the logits, or None."""
        bias = dict(self.model.named_parameters(recurse=False)).get("logit_bias")
        return None if bias is None else bias.reshape(())

    @abc.abstractmethod
    def image_features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Normalised images to embeddings, not normalised."""

    @abc.abstractmethod
    def text_features(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        """(b, l) token ids, zero after the end, to embeddings, not normalised."""

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """0-d multiplier of cosines, with gradient."""
        return self.scale.exp().reshape(())

    @torch.no_grad()
    def clamp_logit_scale_(self) -> None:
        """Keep the scale in [1, 100]."""
        self.scale.clamp_(0.0, math.log(100.0))

    def freeze_logit_scale_(self) -> None:
        """Keep the scale at its present value in training; call it before the optimiser is built."""
        self.scale.requires_grad_(False)

    def encode_image(self, image: Tensor, *, mask: Bool[Tensor, "b n"] | None = None) -> Features:
        """(b, 3, h, w) uint8 pixels or normalised floats to pooled features."""
        if mask is not None:
            raise InputError(f"mask: a wrapped {type(self.model).__name__} takes none; expected None")
        return Features(self.image_features(self.pixels(image)))

    def pixels(self, image: Tensor) -> Float[Tensor, "b 3 h w"]:
        """Images as the other library's tower takes them, normalised."""
        expected = (3, *self.image_spec.size)
        if image.ndim != 4 or tuple(image.shape[1:]) != expected:
            raise InputError(
                f"image: expected (b, {', '.join(map(str, expected))}), got {tuple(image.shape)}; for another size "
                "take model.resized(image_size=...)"
            )
        return self.image_spec.normalise(image, dtype=self.scale.dtype)

    def encode_text(self, text: Int[Tensor, "b l"], *, mask: Bool[Tensor, "b l"] | None = None) -> Features:
        """(b, l) token ids, as the tokenizer gives them, to pooled features."""
        if mask is not None:
            raise InputError(f"mask: a wrapped {type(self.model).__name__} takes none; expected None")
        context = self.tokenizer.context_length
        if text.ndim != 2 or text.dtype != torch.int64 or not 0 < text.shape[1] <= context:
            raise InputError(f"text: expected int64 (b, 1..{context}), got {text.dtype} {tuple(text.shape)}")
        return Features(self.text_features(text))

    def forward(self, image: Tensor, text: Tensor) -> Encoded:
        """Both sides of a batch of pairs, as an objective takes them."""
        return Encoded(self.encode_image(image), self.encode_text(text), self.logit_scale, self.logit_bias)


def padded(text: Tensor, *, width: int, pad: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """(b, l) with zeros after the end to (b, width) with ``pad``, and a mask that is True for what is no padding."""
    count = lengths(text)[:, None]
    place = torch.arange(width, device=text.device)
    from_start = place - (width - count) if left else place.expand(text.shape[0], -1)
    real = (from_start >= 0) & (from_start < count)
    return text.gather(1, from_start.clamp(0, text.shape[1] - 1)).where(real, pad), real


class OpenClipEncoder(WrappedEncoder):
    """Any open_clip model; ``config`` is its ``model_cfg``."""

    sides: Mapping[str, Sequence[str]] = {
        "image": ("visual",),
        "text": (
            "text", "text_decoder", "transformer", "token_embedding", "positional_embedding", "ln_final",
            "text_projection",
        ),
        "both": ("logit_scale", "logit_bias"),
    }  # fmt: skip

    def __init__(self, model: nn.Module, **given: Any) -> None:
        """Hold the model and what belongs to it; see ``WrappedEncoder``."""
        super().__init__(model, **given)
        self._text_config: dict[str, Any] | None = None
        if "hf_model_name" in self.config["text_cfg"]:
            tower: Any = self.model.get_submodule("text")
            self._text_config = json.loads(tower.config.to_json_string(use_diff=False))

    def hub_text_config(self) -> dict[str, Any] | None:
        """The whole configuration of a Hugging Face text tower, which ``config`` knows by its name alone; or None."""
        return self._text_config

    @property
    def patch_side(self) -> int | None:
        """Side of a patch in pixels; None for convolutional networks."""
        vision = self.config["vision_cfg"]
        if "timm_model_name" in vision:
            return patch_of(self.model.get_submodule("visual.trunk"))
        return None if isinstance(vision.get("layers"), list) else vision.get("patch_size", 16)

    @property
    def stride(self) -> int | None:
        """Pixels from one position of the image tower to the next; open_clip's ResNets pool over steps of 32."""
        return 32 if isinstance(self.config["vision_cfg"].get("layers"), list) else self.patch_side

    @property
    def table_size(self) -> tuple[int, int]:
        """Height and width of the images that the image tower has positions for."""
        trunk = "timm_model_name" in self.config["vision_cfg"]
        return (size_of(self.model.get_submodule("visual.trunk")) if trunk else None) or self.image_spec.size

    @property
    def text_rows(self) -> int:
        """Tokens that the text tower has positions for."""
        return self.config["text_cfg"].get("context_length", 77)

    def at_sizes(self, sizes: Sizes) -> OpenClipEncoder:
        """See ``Resizes``."""
        config, now = copy.deepcopy(self.config), self.image_spec.size
        vision, size, text = config["vision_cfg"], sizes.image.size, self._text_config
        if size[0] != size[1] and isinstance(vision.get("layers"), list):
            raise refused_size("square", self, f"{size}")
        if size != now:
            vision["image_size"] = size[0] if size[0] == size[1] else list(size)
        if "timm_model_name" in vision:
            if (size != now or sizes.patch) and takes_sizes(self.model.get_submodule("visual.trunk")):
                vision[RESIZED] = {"image_size": list(size), "patch_size": sizes.patch or self.patch_side}
        elif sizes.patch is not None:
            vision["patch_size"] = sizes.patch
        for part in ("text_cfg", "multimodal_cfg"):
            if part in config and sizes.context != self.tokenizer.context_length:
                config[part]["context_length"] = sizes.context
        if text is not None and sizes.context > position_rows(text):
            raise refused_size("table", self, f"{position_rows(text)} positions")
        return OpenClipEncoder(
            open_clip_model(config, text),
            dim=self.dim,
            image_spec=sizes.image,
            tokenizer=tokenizer_at(self.tokenizer, sizes.context),
            pad=self.pad,
            config=config,
        )

    def image_features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Normalised images to embeddings, not normalised."""
        return cast(Any, self.model).encode_image(image, False)

    def text_features(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        """(b, l) token ids, zero after the end, to embeddings, not normalised."""
        wide, _ = padded(text, width=self.tokenizer.context_length, pad=self.pad)
        return cast(Any, self.model).encode_text(wide, False)


class TransformersEncoder(WrappedEncoder):
    """A dual encoder of transformers; ``config`` is the contents of its ``config.json``.

    Attributes:
        family: what tells its class from others.
        text_padding: how its texts are padded.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        dim: int,
        image_spec: ImageSpec,
        tokenizer: Tokenizer,
        config: Mapping[str, Any],
        text_padding: TextPadding,
    ) -> None:
        """Hold the model and what belongs to it."""
        super().__init__(
            model, dim=dim, image_spec=image_spec, tokenizer=tokenizer, config=config, pad=text_padding.pad
        )
        self.family, self.text_padding = family_of(config), text_padding
        self.sides = self.family.sides

    @property
    def patch_side(self) -> int | None:
        """Side of a patch in pixels; None where any number of patches is taken, and for convolutional networks."""
        side = self.config["vision_config"].get("patch_size")
        return side if isinstance(side, int) else None

    @property
    def table_size(self) -> tuple[int, int]:
        """Height and width of the images that the image tower has positions for."""
        side = self.config["vision_config"].get("image_size")
        return (side, side) if isinstance(side, int) else self.image_spec.size

    @property
    def text_rows(self) -> int:
        """Tokens that the text tower has positions for."""
        return tower_sizes(self.model)[0]

    def at_sizes(self, sizes: Sizes) -> TransformersEncoder:
        """See ``Resizes``; of images that are not square transformers resizes the positions itself, in every pass."""
        config, size, rows = copy.deepcopy(self.config), sizes.image.size, self.text_rows
        vision, now = config["vision_config"], self.tokenizer.context_length
        if self.image_spec.patches is not None and sizes.patch is not None:
            raise refused_size("patch", self, "its patches are rows of pixels")
        if self._side is not None and size[0] == size[1]:
            vision["image_size"] = size[0]
        elif self._side is not None and (sizes.grid is not None or self._side % (sizes.patch or 1)):
            raise refused_size("square", self, f"{size}; it resizes them itself in every pass, without how")
        if sizes.patch is not None:
            vision["patch_size"] = sizes.patch
        if sizes.context > rows or now == rows:  # a longer table than the tokenizer's texts stays
            config["text_config"]["max_position_embeddings"] += sizes.context - rows
        return TransformersEncoder(
            transformers_model(config),
            dim=self.dim,
            image_spec=sizes.image,
            tokenizer=tokenizer_at(self.tokenizer, sizes.context),
            config=config,
            text_padding=self.text_padding,
        )

    @property
    def knows_its_size(self) -> bool:
        """Whether its configuration says the size of its images, which one of square images alone cannot."""
        return self._side is None or self.image_spec.size == (self._side, self._side)

    @property
    def _side(self) -> int | None:
        """Of the square images that the tower has positions for; None where it takes any size."""
        fixed = self.image_spec.patches is None and not self.family.any_size
        return self.config["vision_config"].get("image_size") if fixed else None

    def behaviour(self) -> dict[str, Any]:
        """What its configuration says other than its class's defaults, and how texts are padded."""
        return {"config": without_records(cast(Any, self.model).config.to_diff_dict()), "text": repr(self.text_padding)}

    @property
    def scale(self) -> nn.Parameter:
        """What the logit scale is made of, one element."""
        return self.model.get_parameter(self.family.scale)

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """0-d multiplier of cosines, with gradient."""
        return 1 / self.scale.reshape(()) if self.family.scale == "temperature" else super().logit_scale

    @torch.no_grad()
    def clamp_logit_scale_(self) -> None:
        """Keep the scale in [1, 100]."""
        if self.family.scale == "temperature":
            self.scale.clamp_(0.01, 1.0)
        else:
            super().clamp_logit_scale_()

    def pixels(self, image: Tensor) -> Float[Tensor, "b 3 h w"]:
        """Images as the tower takes them, normalised; those in patches may have any size that has few enough."""
        if self.image_spec.patches is None:
            return super().pixels(image)
        side, most = self.image_spec.patches
        if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] % side or image.shape[3] % side:
            raise InputError(f"image: expected (b, 3, h, w) in patches of {side} pixels, got {tuple(image.shape)}")
        if image.shape[2] * image.shape[3] > most * side * side or not image.shape[2] * image.shape[3]:
            raise InputError(
                f"image: expected 1 to {most} patches of {side} pixels, got {tuple(image.shape)}; for more take "
                "model.resized(image_size=...)"
            )
        return self.image_spec.normalise(image, dtype=self.scale.dtype)

    def image_features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Normalised images to embeddings, not normalised."""
        return _pooled(cast(Any, self.model).get_image_features(**self._tower_images(image)))

    def text_features(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        """(b, l) token ids, zero after the end, to embeddings, not normalised."""
        return _pooled(cast(Any, self.model).get_text_features(**self.text_inputs(text)))

    def image_inputs(self, image: Tensor) -> dict[str, Any]:
        """Images, uint8 or normalised, as its image tower is called with them."""
        return self._tower_images(self.pixels(image))

    def _tower_images(self, image: Float[Tensor, "b 3 h w"]) -> dict[str, Any]:
        if self.image_spec.patches is None:
            return {"pixel_values": image} | ({} if self.knows_its_size else {"interpolate_pos_encoding": True})
        side = self.image_spec.patches[0]
        shape = torch.tensor([length // side for length in image.shape[2:]], device=image.device)
        patches = image.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
        return {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.int64, device=image.device),
            "spatial_shapes": shape.expand(image.shape[0], 2),
        }

    def text_inputs(self, text: Int[Tensor, "b l"]) -> dict[str, Any]:
        """(b, l) token ids, zero after the end, as its text tower is called with them."""
        width = self.tokenizer.context_length if self.family.full_context else text.shape[1]
        ids, words = padded(text, width=width, pad=self.pad, left=self.text_padding.left)
        return {"input_ids": ids, "attention_mask": words.long() if self.text_padding.masked else None}


def _pooled(found: Any) -> Tensor:
    """What transformers 5 gives inside an output, and versions before as it is."""
    return found if isinstance(found, Tensor) else found.pooler_output


def check_forward(encoder: WrappedEncoder) -> None:
    """Run a model of the meta device once, which computes shapes alone."""
    context = encoder.tokenizer.context_length
    check_pad(encoder)
    sides = {
        "image": lambda: encoder.image_features(torch.empty(1, 3, *encoder.image_spec.size)),
        "text": lambda: encoder.text_features(torch.zeros(1, context, dtype=torch.int64)),
    }
    encoder.eval()
    for side, run in sides.items():
        try:
            with torch.no_grad(), torch.device("meta"):
                got = run()
        except RuntimeError as error:
            if "item() cannot be called on meta tensors" in str(error):
                continue  # a text tower of transformers that looks at its mask; its shapes are known by its names
            raise
        if not isinstance(got, Tensor) or tuple(got.shape) != (1, encoder.dim):
            shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
            raise InputError(f"its {side} tower gives {shape}, expected (1, {encoder.dim})")


def check_pad(encoder: WrappedEncoder) -> None:
    """Refuse a padding that is no id of the model's."""
    vocabulary = encoder.tokenizer.vocab_size
    if not 0 <= encoder.pad < vocabulary:
        raise InputError(f"pad: expected an id below the vocabulary of {vocabulary}, got {encoder.pad}")

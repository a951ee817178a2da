"""An exported folder as an encoder: both towers in a runtime, behind the protocol of every other model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.geometry import Geometry
from tether.models.config_check import blamed_on
from tether.models.encoders.onnx.description import CONFIG_FILE, Description, read_description
from tether.models.encoders.onnx.sessions import GraphTower
from tether.models.encoders.onnx.tokenizer_json import kept_tokenizer
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.sizes import Sizes, refused_size


class _Towers(nn.Module):
    """Both graphs and the numbers that belong to neither."""

    def __init__(self, image: GraphTower, text: GraphTower, described: Description) -> None:
        super().__init__()
        self.image, self.text = image, text
        scale = torch.tensor(described.logit_scale).log()
        self.logit_scale = nn.Parameter(scale, requires_grad=False)
        bias = described.logit_bias
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias), requires_grad=False)


class ExportedEncoder(WrappedEncoder):
    """A ``core.protocols.DualEncoder`` on onnxruntime or OpenVINO, for all that reads embeddings.

    The graphs run on the CPU in their own precision, wherever the model is put. There are no gradients, tokens or
    blocks inside, and what needs them is refused.
    """

    sides: Mapping[str, Sequence[str]] = {
        "image": ("image",),
        "text": ("text",),
        "both": ("logit_scale", "logit_bias"),
    }
    unsaved = "the model is an exported folder; copy that, or save the model that it came from"

    def __init__(self, folder: Path, described: Description) -> None:
        """Open both graphs of a folder; see ``load_exported``."""
        height, width = (None, None) if described.any_size else described.image.size
        inputs = {"image": (None, 3, height, width), "text": (None, None)}
        rows = {"image": (1, 3, *described.image.size), "text": (1, described.context)}
        image, text = (
            GraphTower(
                folder / described.files[side],
                runtime=described.runtime,
                shape=inputs[side],
                largest=rows[side],
                dim=described.dim,
            )
            for side in ("image", "text")
        )
        super().__init__(
            _Towers(image, text, described),
            dim=described.dim,
            image_spec=described.image,
            tokenizer=kept_tokenizer(
                described.tokenizer, folder, context=described.context, vocabulary=described.vocabulary
            ),
            config=described.to_dict(),
        )
        self.described = described
        with blamed_on(folder / CONFIG_FILE):
            self._geometry = Geometry(described.geometry, described.curvature)  # pyrefly: ignore - checked inside
        if described.templates is not None:
            self.templates = described.templates

    @property
    def geometry(self) -> Geometry:
        """What the embeddings are compared with."""
        return self._geometry

    @property
    def patch_side(self) -> int | None:
        """None: nobody looks into the graph."""
        return None

    @property
    def text_rows(self) -> int:
        """Tokens that the text tower has positions for."""
        return self.described.context

    def at_sizes(self, sizes: Sizes) -> ExportedEncoder:
        """Always refused."""
        raise refused_size("exported", self)

    def train(self, mode: bool = True) -> ExportedEncoder:
        """Only evaluation mode is there."""
        if mode:
            raise UnsupportedModelError(
                "an exported model cannot be trained: its graphs have no gradients; train the model that it came from"
            )
        super().train(False)
        return self

    def pixels(self, image: Tensor) -> Float[Tensor, "b 3 h w"]:
        """Images as the graph takes them, normalised, in float32."""
        _refuse_gradient(image)
        if self.described.any_size and image.ndim == 4 and image.shape[1] == 3 and 0 not in image.shape[2:]:
            return self.image_spec.normalise(image)
        return super().pixels(image).float()

    def image_features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Normalised images to embeddings, not normalised."""
        return self.model.get_submodule("image")(image)

    def text_features(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        """(b, l) token ids, zero after the end, to embeddings, not normalised."""
        if text.numel() and not 0 <= int(text.min()) <= int(text.max()) < self.described.vocabulary:
            most = self.described.vocabulary - 1
            raise InputError(f"text: expected ids 0 to {most}, got {int(text.min())} to {int(text.max())}")
        return self.model.get_submodule("text")(text)


def _refuse_gradient(image: Tensor) -> None:
    if image.requires_grad and torch.is_grad_enabled():
        raise UnsupportedModelError(
            "an exported model has no gradients, and this asks for those of images; take the model that it came from"
        )


def load_exported(folder: Path) -> ExportedEncoder:
    """The encoder in a folder of ``tether export --format onnx`` or ``openvino``, anyone's.

    Raises:
        InputError: a file that is missing, truncated, of something else, or that reaches out of the folder.
        MissingExtraError: the runtime is not installed.
    """
    described = read_description(folder)
    scale, bias = described.logit_scale, described.logit_bias
    if scale <= 0 or not math.isfinite(scale):
        raise InputError(f"{folder / CONFIG_FILE}: logit_scale: expected a finite number above 0, got {scale}")
    if bias is not None and not math.isfinite(bias):
        raise InputError(f"{folder / CONFIG_FILE}: logit_bias: expected a finite number, got {bias}")
    return ExportedEncoder(folder, described)

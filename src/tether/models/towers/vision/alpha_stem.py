"""A second input of an image tower, a map of where to look, added to what its first layer gives."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Positive, checked
from tether.models.refusals import refusal
from tether.models.towers.vision.stem import Stem

ALPHA_MEAN, ALPHA_STD = 0.5, 0.26
"""What a mask of 0 and 1 is normalised by: outside is -1.923, inside +1.923 (arXiv 2312.03818, released code)."""
_ROUNDING = 1e-3


class AlphaStem(Stem):
    """The layer that an image tower begins with, and a convolution of the same places over alpha, added to it.

    Inside of ``seeing`` it adds that of the alpha given, outside of it that of an alpha which is all inside.

    Source: Alpha-CLIP (arXiv 2312.03818), section 3.2.

    Attributes:
        layer: the tower's own.
        alpha: (w, 1, kh, kw) kernel of the second convolution, (w, p * p) where the layer reads patches as rows; zeros
            at first, so that the tower computes what it did.
        settings: ``mean`` and ``std`` that masks are normalised by.
    """

    @checked
    def __init__(
        self,
        layer: nn.Module,
        *,
        size: tuple[int, int] | None = None,
        mean: Annotated[float, Ge(0), Le(1)] = ALPHA_MEAN,
        std: Positive = ALPHA_STD,
    ) -> None:
        """Stand around a layer.

        Args:
            layer: a convolution over 3 channels, or a linear one over patches of 3 * p * p numbers.
            size: height and width of the tower's images, for towers that pad them before their first layer.
            mean: of masks.
            std: of masks.
        """
        super().__init__()
        self.layer, self.size, self.settings = layer, size, {"mean": mean, "std": std}
        weight = layer.get_parameter("weight")
        shape = (len(weight), 1, *weight.shape[2:]) if weight.ndim == 4 else (len(weight), weight.shape[1] // 3)
        self.alpha = nn.Parameter(weight.new_zeros(shape))
        self._seen: Tensor | None = None

    def behaviour(self) -> dict[str, Any]:
        """Plain values that decide its outputs beside its weights, for ``core.model_digest``."""
        return {"alpha": self.settings}

    def around(self, layer: nn.Module, *, size: tuple[int, int] | None) -> AlphaStem:
        """One like it, with an alpha of zeros, around another layer."""
        return AlphaStem(layer, size=size, **self.settings)

    def normalise(self, mask: Tensor) -> Tensor:
        """Shares in [0, 1] as alpha."""
        return (mask - self.settings["mean"]) / self.settings["std"]

    @contextlib.contextmanager
    def seeing(self, alpha: Tensor | None) -> Iterator[None]:
        """Images that are encoded inside have this alpha, normalised and of their size; None is all inside.

        Raises:
            InputError: another number of channels, NaN, or values that no mask in [0, 1] becomes.
        """
        if alpha is not None:
            self._check(alpha)
        before, self._seen = self._seen, alpha
        try:
            yield
        finally:
            self._seen = before

    def _check(self, alpha: Tensor) -> None:
        if alpha.ndim != 4 or alpha.shape[1] != 1 or not alpha.is_floating_point():
            got = f"{alpha.dtype} {tuple(alpha.shape)}"
            raise InputError(f"alpha: expected normalised floats (b, 1, h, w) as alpha_from_mask gives, got {got}")
        low, high = ((end - self.settings["mean"]) / self.settings["std"] for end in (0, 1))
        if not ((alpha >= low - _ROUNDING) & (alpha <= high + _ROUNDING)).all():  # which NaN is not
            ends = f"{alpha.min().item():.3f} to {alpha.max().item():.3f}"
            raise InputError(f"alpha: expected {low:.3f} (outside) to {high:.3f} (inside), got {ends}")

    def _load_from_state_dict(self, state_dict: Any, prefix: Any, *args: Any, **keywords: Any) -> None:
        """Read what a tower without alpha has at this place as well; its alpha is 0."""
        if f"{prefix}weight" in state_dict:
            for name in ("weight", "bias"):
                if f"{prefix}{name}" in state_dict:
                    state_dict[f"{prefix}layer.{name}"] = state_dict.pop(f"{prefix}{name}")
            state_dict.setdefault(f"{prefix}alpha", torch.zeros_like(self.alpha))
        super()._load_from_state_dict(state_dict, prefix, *args, **keywords)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives, and alpha's part."""
        rows = self.layer(x)
        if self.alpha.ndim == 2:
            return rows + self._of_patches(len(x), rows.shape[1]).to(rows.dtype)
        return rows + self._of_places(x, places=(rows.shape[2], rows.shape[3])).to(rows.dtype)

    def _inside(self, *shape: int) -> Tensor:
        return self.normalise(self.alpha.new_ones(shape))

    def _given(self, images: int) -> Tensor:
        assert self._seen is not None
        if len(self._seen) != images:
            raise InputError(f"alpha: expected one for each of {images} images, got {len(self._seen)}")
        return self._seen.to(self.alpha)

    def _of_patches(self, images: int, patches: int) -> Tensor:
        side = math.isqrt(self.alpha.shape[1])
        if self._seen is None:
            return F.linear(self._inside(1, 1, side * side), self.alpha)
        alpha = self._given(images)
        if self.size is not None and tuple(alpha.shape[2:]) != self.size:
            raise InputError(f"alpha: expected the images' size {self.size}, got {tuple(alpha.shape[2:])}")
        cut = F.unfold(alpha, kernel_size=side, stride=side).transpose(1, 2)
        if cut.shape[1] != patches:
            raise InputError(
                f"alpha: expected {patches} patches, got {cut.shape[1]}; images that leave patches out take none"
            )
        return F.linear(cut, self.alpha)

    def _of_places(self, x: Tensor, *, places: tuple[int, int]) -> Tensor:
        layer = cast(nn.Conv2d, self.layer)
        size, kernel = (x.shape[2], x.shape[3]), (self.alpha.shape[2], self.alpha.shape[3])
        more = [0, 0]  # what the tower has padded
        if self.size is not None and all(
            0 <= now - own < most for now, own, most in zip(size, self.size, kernel, strict=True)
        ):
            more = [now - own for now, own in zip(size, self.size, strict=True)]
        own = size[0] - more[0], size[1] - more[1]
        if self._seen is None:
            alpha = self._inside(1, 1, *own)
        else:
            alpha = self._given(len(x))
            if tuple(alpha.shape[2:]) != own:
                raise InputError(f"alpha: expected the images' size {own}, got {tuple(alpha.shape[2:])}")
        if any(more):
            alpha = F.pad(alpha, _around(more[1]) + _around(more[0]))
        found = F.conv2d(alpha, self.alpha, None, layer.stride, layer.padding, layer.dilation)
        if tuple(found.shape[2:]) != places:  # TensorFlow's "same", which timm's layers pad themselves
            lacks = [
                max((n - 1) * step + (k - 1) * apart + 1 - now, 0)
                for n, step, k, apart, now in zip(places, layer.stride, kernel, layer.dilation, size, strict=True)
            ]
            alpha = F.pad(alpha, _around(lacks[1]) + _around(lacks[0]))
            found = F.conv2d(alpha, self.alpha, None, layer.stride, 0, layer.dilation)
        return found


def _around(pixels: int) -> tuple[int, int]:
    """Left and right, or above and below."""
    return pixels // 2, pixels - pixels // 2


def stem_of(model: nn.Module) -> AlphaStem | None:
    """The stem of an image tower that takes alpha, or None."""
    return next((module for module in model.modules() if isinstance(module, AlphaStem)), None)


def add_alpha_(
    model: nn.Module, *, mean: float = ALPHA_MEAN, std: float = ALPHA_STD, like: AlphaStem | None = None
) -> AlphaStem:
    """Let an image tower take alpha, in place; what it computes stays the same. One that does stays as it is.

    Args:
        model: any encoder of ``tether.load``, or an image tower, whose images meet one layer first: a convolution over
            3 channels, or a linear one over patches.
        mean: of masks.
        std: of masks.
        like: a stem whose settings are taken instead.

    Raises:
        UnsupportedModelError: no such layer, or several, with the reason of ``models.refusals``.
    """
    if (found := stem_of(model)) is not None:
        return found
    name, layer = _first_layer(model)
    spec: Any = getattr(model, "image_spec", None)
    size = None if spec is None or spec.patches is not None else spec.size
    stem = AlphaStem(layer, size=size, mean=mean, std=std) if like is None else like.around(layer, size=size)
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, stem)
    return stem


def carry_alpha_(old: nn.Module, new: nn.Module) -> None:
    """Let one tower take alpha where another does; its kernel is zeros."""
    if (stem := stem_of(old)) is not None:
        add_alpha_(new, like=stem)


def described_alpha(model: nn.Module) -> dict[str, Any]:
    """What a model's description says of its alpha: nothing where it takes none."""
    stem = stem_of(model)
    return {} if stem is None else {"alpha": stem.settings}


def add_described_(model: nn.Module, values: Mapping[str, Any]) -> None:
    """Let a model take alpha where its description says so.

    Raises:
        InputError: settings that are none.
    """
    if (settings := values.get("alpha")) is None:
        return
    known = isinstance(settings, Mapping) and settings.keys() == {"mean", "std"}
    if not known or not all(isinstance(value, float) for value in settings.values()):
        raise InputError(f"alpha: expected mean and std, two numbers, got {settings!r:.100}")
    add_alpha_(model, **settings)


def _first_layer(model: nn.Module) -> tuple[str, nn.Module]:
    """The one layer that images meet, with its name."""
    found = [(name, module) for name, module in model.named_modules() if _reads_images(name, module)]
    if len(found) != 1 or not found[0][0]:
        raise refusal("first layer", f"{type(model).__name__} with {len(found)} such layers")
    return found[0]


def _reads_images(name: str, module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.in_channels == 3 and module.groups == 1 and module.padding_mode == "zeros"
    patches = isinstance(module, nn.Linear) and f".{name}".endswith((".patch", ".patch_embedding"))
    side = math.isqrt(module.get_parameter("weight").shape[1] // 3) if patches else 0
    return patches and 3 * side * side == module.get_parameter("weight").shape[1]

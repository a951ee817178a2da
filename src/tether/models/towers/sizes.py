"""A model at other sizes: a copy for other images, patches or longer texts."""

from __future__ import annotations

import abc
import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar, cast

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from tether.core.component import build, closest
from tether.core.errors import InputError, UnsupportedModelError, reason_of
from tether.core.protocols import Tokenizer
from tether.core.ranges import checked
from tether.core.types import ImageSpec, Side
from tether.models.tokenizer import lengths
from tether.models.towers.positions import (
    GRIDS,
    LINES,
    Bicubic,
    CutPositions,
    GridMethod,
    LineMethod,
    Pair,
    RotaryPositions,
    StretchedPositions,
)
from tether.models.towers.vision.stems import carry_stems_

MAX_PATCH, MAX_PATCHES, MAX_CONTEXT = 256, 2**14, 2**14
"""Longest side of a patch, most patches of an image, and longest text that a model is made for."""

TRIED = 1024**2
"""Pixels of the largest image that a copy is tried on at once."""

How = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]

REASONS: Mapping[str, str] = {
    "edited": "its layers are not those of its description, so it was edited; fold or take back the edit first",
    "patch": "its image tower has no patches of one size",
    "shape": "no grid or line of positions, so it is not known how it changes with the size",
    "forward": "its image tower does not run at this size",
    "square": "its library makes tables of positions for square images alone",
    "rotary": "its text tower is another library's, and only Tether's own can turn by place instead of its table",
    "exported": "its graphs were exported at their sizes; resize the model that it came from, and export that",
    "table": "its text tower is another library's and has no more positions",
}
"""Why a model has no copy at other sizes; the error names the model and what did not fit."""


def refused_size(reason: str, model: object, what: str = "") -> UnsupportedModelError:
    """The error for one of ``REASONS``."""
    said = f" ({what})" if what else ""
    return UnsupportedModelError(f"resized: {type(model).__name__}: {REASONS[reason]}{said}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the copy is to have.

    Attributes:
        image: how its images are prepared.
        patch: side of its patches, or None where they stay.
        context: its longest text.
        grid: how the image tower's positions change; None where nothing was asked for.
        line: the same of the text tower's.
    """

    image: ImageSpec
    patch: int | None
    context: int
    grid: GridMethod | None
    line: LineMethod | RotaryPositions | None


Model = TypeVar("Model", bound="Resizes")
"""A model's own class; checks at run time do not know ``Self``."""


class Resizes(abc.ABC):
    """Gives a ``DualEncoder`` its method ``resized``."""

    image_spec: ImageSpec
    tokenizer: Tokenizer

    @checked
    def resized(
        self: Model,
        *,
        image_size: Side | Sequence[Side] | None = None,
        patch: Annotated[int, Ge(1), Le(MAX_PATCH)] | None = None,
        context: Annotated[int, Ge(1), Le(MAX_CONTEXT)] | None = None,
        how: How | None = None,
    ) -> Model:
        """A copy for images or texts of another size; this model stays as it is.

        Learned positions are resized, and everything that says the size agrees with it: ``image_spec``, the tokenizer,
        and the description that is saved. At its own sizes the copy gives the same embeddings, bit for bit.

        Args:
            image_size: pixels of a side, or height and width; multiples of the patch.
            patch: side of a patch in pixels; its kernel is resized.
            context: longest text in tokens, start and end included.
            how: a name, or a mapping with ``name`` and settings, or a list of two: one for images and one for texts.

                - images: ``bicubic`` (the default) or ``bilinear`` with ``antialias``, ``align_corners`` and ``kernel``
                  (``inverse`` or ``plain``), or ``sincos`` with ``order`` (``torch`` or ``jax``);
                - texts: ``cut`` (the default for shorter ones) and ``stretch`` with ``keep`` and ``ratio`` (for longer
                  ones), which leave short texts as they are, ``linear``, or ``rotary`` with ``base``.

        Raises:
            UnsupportedModelError: the model's library has no such size; one of ``models.towers.sizes.REASONS``.
            InputError: sizes that do not fit each other or are out of range, or an unknown ``how``.

        Example:
            >>> import tether
            >>> model = tether.load("tiny", random_weights=True)
            >>> wide = model.resized(image_size=(48, 96), context=60)
            >>> wide.image_spec.size, wide.tokenizer.context_length, model.image_spec.size
            ((48, 96), 60, (32, 32))
        """
        sizes = self._sizes(image_size, patch, context, how)
        scale = cast(Any, self).logit_scale
        with torch.inference_mode(False):  # a copy made in inference could not be trained
            made = self.at_sizes(sizes)
            patches = None if made.stride is None else math.prod(_cells(made.table_size, made.stride))
            carry_stems_(cast(nn.Module, self), cast(nn.Module, made), patches=patches)
            cast(nn.Module, made).to(device=scale.device, dtype=scale.dtype)
            self._carry_over(made, sizes)
            self._try(made, sizes)
        cast(nn.Module, made).train(cast(nn.Module, self).training)
        return made

    @abc.abstractmethod
    def at_sizes(self: Model, sizes: Sizes) -> Model:
        """The same architecture at other sizes; its weights are any."""

    @property
    @abc.abstractmethod
    def patch_side(self) -> int | None:
        """Side of a patch in pixels; None for an image tower without patches of one size."""

    @property
    def kernel_side(self) -> int:
        """Side of the kernel that cuts patches, in places of what it reads: pixels, or latents."""
        return self.patch_side or 0

    @property
    def stride(self) -> int | None:
        """Pixels from one position of the image tower to the next; None for one without positions."""
        return self.patch_side

    @property
    def table_size(self) -> Pair:
        """Height and width of the images that the image tower has positions for."""
        return self.image_spec.size

    @property
    @abc.abstractmethod
    def text_rows(self) -> int:
        """Tokens that the text tower has positions for; what it has none for is any."""

    @property
    @abc.abstractmethod
    def image_weights(self) -> tuple[str, ...]:
        """Beginnings of the names of the image tower's weights."""

    def _sizes(self, image_size: Any, patch: int | None, context: int | None, how: How | None) -> Sizes:
        now, before = self.tokenizer.context_length, self.image_spec
        size = before.size if image_size is None else _pair(image_size)
        if patch == self.patch_side:
            patch = None
        if patch is not None and self.patch_side is None:
            raise refused_size("patch", self, f"patch {patch}")
        side = patch or self.stride
        if side is not None and any(length % side for length in size):
            raise InputError(f"image_size: expected multiples of {side} (the patch), got {size}")
        if side is not None and size[0] * size[1] > MAX_PATCHES * side**2:
            raise InputError(f"image_size: expected at most {MAX_PATCHES:,} patches of {side} pixels, got {size}")
        if context is not None and context < now and context <= (least := _empty(self.tokenizer)):
            raise InputError(f"context: an empty text has {least} tokens; expected at least {least + 1}, got {context}")
        grid, line = read_how(how)
        longest = now if context is None else context
        return Sizes(image=_spec(before, size), patch=patch, context=longest, grid=grid, line=line)

    @torch.no_grad()
    def _carry_over(self: Model, made: Model, sizes: Sizes) -> None:
        """Give the copy this model's weights, those with another shape resized."""
        old, new = cast(nn.Module, self), cast(nn.Module, made)
        state, wanted = old.state_dict(), new.state_dict()
        rotary = isinstance(sizes.line, RotaryPositions)
        dropped = {name for name in state if rotary and name not in wanted and name.endswith("text.position")}
        if rotary and not dropped:
            raise refused_size("rotary", self)
        if state.keys() - dropped != wanted.keys():
            other = sorted((state.keys() - dropped) ^ wanted.keys())
            raise refused_size("edited", self, ", ".join(other[:3]))
        kinds = {name: type(module) for name, module in new.named_modules()}
        if other := [name for name, module in old.named_modules() if kinds.get(name) is not type(module)]:
            raise refused_size("edited", self, ", ".join(other[:3]))
        buffers = {name for name, _ in new.named_buffers()}
        filled = {}
        for name, value in wanted.items():
            found = state[name]
            if found.shape != value.shape:
                found = value if name in buffers else self._resized_weight(name, found, value.shape, made, sizes)
            filled[name] = found
        new.load_state_dict(filled)
        learning = {name: parameter.requires_grad for name, parameter in old.named_parameters()}
        for name, parameter in new.named_parameters():
            parameter.requires_grad_(learning.get(name, parameter.requires_grad))

    def _resized_weight(self: Model, name: str, value: Tensor, shape: torch.Size, made: Model, sizes: Sizes) -> Tensor:
        """One weight at the size that the copy has it."""
        found = None
        if name.startswith(self.image_weights):
            grid = sizes.grid or Bicubic()
            if value.ndim == 4 and value.shape[:2] == shape[:2]:
                found = grid.kernel_of(value, new=(shape[2], shape[3]))
            elif self.stride is not None and made.stride is not None and value.shape[-1] == shape[-1]:
                old, new = (_cells(model.table_size, model.stride) for model in (self, made))
                found = grid.table(value, old=old, new=new) if value.shape[-2] >= old[0] * old[1] else None
            elif sizes.patch is not None and self.patch_side is not None and value.ndim == 2:
                kernel = value.unflatten(1, (-1, self.kernel_side, self.kernel_side))  # of Tether's own towers
                found = grid.kernel_of(kernel, new=(made.kernel_side, made.kernel_side)).flatten(1)
        elif value.ndim == 2 and value.shape[1] == shape[1]:
            found = self._resized_line(name, value, shape[0], sizes)
        if found is None or found.shape != shape:
            raise refused_size("shape", self, f"{name} is {tuple(value.shape)} now and {tuple(shape)} then")
        return found

    def _resized_line(self, name: str, value: Tensor, rows: int, sizes: Sizes) -> Tensor | None:
        """A text's table; RoBERTa's towers begin with unused rows, CoCa's ends with one for the class token."""
        owner = cast(nn.Module, self).get_submodule(name.rpartition(".")[0])
        padding = owner.padding_idx if isinstance(owner, nn.Embedding) else None
        unused = 0 if padding is None else padding + 1
        more = len(value) - unused - self.text_rows
        length = rows - unused - max(more, 0)
        if more < 0 or length < 1:
            return None
        first, table, last = value.split([unused, self.text_rows, more])
        line = sizes.line or (CutPositions() if length <= len(table) else StretchedPositions())
        if isinstance(line, RotaryPositions):
            raise refused_size("rotary", self)
        return torch.cat([first, line.line(table, length=length), last])

    def _try(self: Model, made: Model, sizes: Sizes) -> None:
        """Run the copy once: a library's tower may say only then that it cannot. A large image would cost minutes."""
        model, size = cast(Any, made).eval(), sizes.image.size
        if (sizes.image == self.image_spec and sizes.patch is None) or size[0] * size[1] > TRIED:
            return
        pixels = torch.zeros(1, 3, *size, dtype=torch.uint8, device=model.logit_scale.device)
        try:
            with torch.no_grad():
                model.encode_image(pixels)
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
            raise refused_size("forward", self, f"{size}: {reason_of(error):.200}") from error


def read_how(how: How | None) -> tuple[GridMethod | None, LineMethod | RotaryPositions | None]:
    """The ways for images and for texts that ``resized(how=...)`` names, at most one of each."""
    specs: Sequence[Any] = [] if how is None else how if isinstance(how, (list, tuple)) else [how]
    found: dict[str, Any] = {}
    for spec in specs:
        name = spec.get("name") if isinstance(spec, Mapping) else spec
        if not isinstance(name, str) or name not in (*GRIDS, *LINES):
            raise InputError(f"how: unknown {name!r}; {closest(str(name), [*GRIDS, *LINES])}")
        side, parts = ("images", GRIDS) if name in GRIDS else ("texts", LINES)
        if side in found:
            raise InputError(f"how: expected one way for {side}, got {len(specs)}, the last {name!r}")
        found[side] = build(spec, parts, where="how")
    return found.get("images"), found.get("texts")


def tokenizer_at(tokenizer: Tokenizer, context: int) -> Tokenizer:
    """A tokenizer like another for texts of another length."""
    if context == tokenizer.context_length:
        return copy.copy(tokenizer)
    if not hasattr(tokenizer, "with_context"):
        raise InputError(f"context: cannot give {type(tokenizer).__name__} another length")
    return cast(Any, tokenizer).with_context(context)


def _pair(size: int | Sequence[int]) -> Pair:
    if isinstance(size, int):
        return size, size
    if len(size) != 2:
        raise InputError(f"image_size: expected pixels of a side, or height and width, got {size!r:.100}")
    return int(size[0]), int(size[1])


def _cells(size: Pair, stride: int | None) -> Pair:
    assert stride is not None
    return size[0] // stride, size[1] // stride


def _empty(tokenizer: Tokenizer) -> int:
    """Tokens of a text without words; 0 where the model has no tokenizer."""
    try:
        found = tokenizer([""])
    except InputError:
        return 0
    return int(lengths(found)[0]) if found.shape[1] else 0


def _spec(spec: ImageSpec, size: Pair) -> ImageSpec:
    """Preparation for another size; the margin that is cropped away keeps its share."""
    if size == spec.size:
        return spec
    if spec.patches is not None:
        side = spec.patches[0]
        return replace(spec, size=size, patches=(side, (size[0] // side) * (size[1] // side)))
    if spec.resized is None:
        return replace(spec, size=size)
    down, across = (round(margin * new / old) for margin, new, old in zip(spec.resized, size, spec.size, strict=True))
    return replace(spec, size=size, resized=(down, across))

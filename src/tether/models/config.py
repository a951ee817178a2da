"""What a model is made of, as frozen values that travel in ``model.json``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.geometry import GeometryName, check_geometry
from tether.core.types import ImageSpec
from tether.models.blocks.block import BlockConfig
from tether.models.blocks.presets import BLOCK_PRESETS, BlockPreset, block_stack

CLIP_VOCABULARY = 49_408
CLIP_END = 49_407
LARGEST_SCALE = 100.0  # arXiv 2103.00020, section 2.5
MAX_LAYERS, MAX_SIZE, MAX_SIDE = 256, 2**24, 8_192
"""Most layers of a tower, largest width, vocabulary or context, and longest side of an image that a model may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """The image tower.

    Attributes:
        image: how pictures are prepared; its size must be a multiple of the patch.
        patch: side of a square patch in pixels.
        width: channels of the token stream.
        layers: number of blocks.
        heads: attention heads; must divide the width.
        hidden: width of the feed-forward nets.
        block: options of every block, or a preset, which may differ from layer to layer.
        gate: ``none``, or ``mirror``: each token learns which middle layers to leave out (train with the step
            ``skip_middle``); it needs an even number of layers, and blocks that a token can pass unchanged.
        final_layernorm: ``keep``, or ``drop`` the norm before the projection, so that embeddings differ in length
            (for ``euclidean`` and ``hyperbolic`` geometries).
    """

    image: ImageSpec = field(default_factory=lambda: ImageSpec(size=(64, 64)))
    patch: int = 8
    width: int = 192
    layers: int = 6
    heads: int = 6
    hidden: int = 768
    block: BlockConfig | BlockPreset = field(default_factory=BlockConfig)
    gate: Literal["none", "mirror"] = "none"
    final_layernorm: Literal["keep", "drop"] = "keep"

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other."""
        _positive(self, "patch", "width", "layers", "heads", "hidden")
        check_image(self.image)
        if any(side % self.patch or side < self.patch for side in self.image.size):
            raise InputError(f"patch: expected a divisor of the image size {self.image.size}, got {self.patch}")
        _check_blocks(self)

    @property
    def blocks(self) -> tuple[BlockConfig, ...]:
        """The options of each block, first to last."""
        return block_stack(self.block, layers=self.layers)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image.size[0] // self.patch, self.image.size[1] // self.patch


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """The text tower.

    Attributes:
        context: longest text in tokens, start and end included.
        vocabulary: number of token ids.
        end: id of the end token, whose state is the text's.
        width: channels of the token stream.
        layers: number of blocks.
        heads: attention heads; must divide the width.
        hidden: width of the feed-forward nets.
        block: options of every block, or a preset, which may differ from layer to layer.
        gate: ``none``, or ``mirror``: each token learns which middle layers to leave out (train with the step
            ``skip_middle``); it needs an even number of layers, and blocks that a token can pass unchanged.
        final_layernorm: ``keep``, or ``drop`` the norm before the projection, so that embeddings differ in length
            (for ``euclidean`` and ``hyperbolic`` geometries).
        position: ``learned``, a vector for each of ``context`` places, or ``none``: the blocks alone tell the order, by
            turning queries and keys (``block: {rope: half}``), and the context can be any.
    """

    context: int = 24
    vocabulary: int = CLIP_VOCABULARY
    end: int = CLIP_END
    width: int = 192
    layers: int = 4
    heads: int = 6
    hidden: int = 768
    block: BlockConfig | BlockPreset = field(default_factory=BlockConfig)
    gate: Literal["none", "mirror"] = "none"
    final_layernorm: Literal["keep", "drop"] = "keep"
    position: Literal["learned", "none"] = "learned"

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other."""
        if self.position not in ("learned", "none"):
            raise InputError(f"position: unknown choice {self.position!r}; known: learned, none")
        _positive(self, "context", "vocabulary", "width", "layers", "heads", "hidden")
        if not 0 <= self.end < self.vocabulary:
            raise InputError(f"end: expected an id below vocabulary={self.vocabulary}, got {self.end}")
        _check_blocks(self)

    @property
    def blocks(self) -> tuple[BlockConfig, ...]:
        """The options of each block, first to last."""
        return block_stack(self.block, layers=self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A whole model.

    Attributes:
        dim: size of the shared space.
        vision: the image tower.
        text: the text tower.
        logit_scale: multiplier of the similarity at the start.
        logit_bias: offset of the logits at the start, or None for a model without one (SigLIP starts at -10).
        geometry: what embeddings are compared with, one of ``core.geometry.GEOMETRIES``; train others than ``clip``
            with the objective ``geometry``. Points are divided by the root of ``dim`` where lengths count; hyperbolic
            models learn that factor for each tower, and their curvature.
        towers: ``two``, or ``shared``: one stack of blocks, one final norm and one projection read both pictures and
            texts, and only the stems differ (SharedCLIP, arXiv 2406.17639); both sides must then be of one make.
        logit_scale_range: least and greatest multiplier in training; None is (1, 100), and (0, 100) for the squared
            distances.
    """

    dim: int = 192
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    logit_scale: float = 1 / 0.07
    logit_bias: float | None = None
    geometry: GeometryName = "clip"
    towers: Literal["two", "shared"] = "two"
    logit_scale_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse an empty space and a scale that has no logarithm."""
        _positive(self, "dim")
        if not (isinstance(self.logit_scale, (int, float)) and 0 < self.logit_scale < math.inf):
            raise InputError(f"logit_scale: expected a positive number, got {self.logit_scale!r}")
        if self.logit_bias is not None and not _finite(self.logit_bias):
            raise InputError(f"logit_bias: expected a number or nothing, got {self.logit_bias!r}")
        check_geometry(self.geometry)
        if self.towers not in ("two", "shared"):
            raise InputError(f"towers: expected two or shared, got {self.towers!r}")
        if self.towers == "shared":
            _check_shared(self.vision, self.text)
        if self.logit_scale_range is not None:
            object.__setattr__(self, "logit_scale_range", _scale_range(self.logit_scale_range))

    @property
    def log_scale_range(self) -> tuple[float, float]:
        """Between which the logarithm of the scale is kept in training; minus infinity for a least scale of 0."""
        least, most = self.logit_scale_range or (0.0 if self.geometry.endswith("-squared") else 1.0, LARGEST_SCALE)
        return -math.inf if least == 0 else math.log(least), math.log(most)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = dataclasses.asdict(self)
        for name, tower in (("vision", self.vision), ("text", self.text)):
            if isinstance(tower.block, BlockPreset):
                values[name]["block"] = {"preset": tower.block.preset, **tower.block.options}
        return values


def _scale_range(values: Any) -> tuple[float, float]:
    """Two numbers in order, whatever kind of list they came as."""
    pair = tuple(values) if isinstance(values, (list, tuple)) else ()
    if len(pair) != 2 or not all(isinstance(value, (int, float)) for value in pair) or not 0 <= pair[0] < pair[1]:
        raise InputError(f"logit_scale_range: expected two numbers with 0 <= least < greatest, got {values!r}")
    if not pair[1] < math.inf:
        raise InputError(f"logit_scale_range: expected a finite greatest scale, got {values!r}")
    return float(pair[0]), float(pair[1])


def _positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name}: expected a positive whole number, got {value!r}")
        most = MAX_LAYERS if name == "layers" else MAX_SIZE
        if value > most:
            raise InputError(f"{name}: expected at most {most:,}, got {value}")


def _finite(value: object) -> bool:
    """Whether a value is a number that float32 holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 3e38


def check_image(image: ImageSpec) -> None:
    """Refuse a preparation of images that cannot be done: the values may come from a file.

    Raises:
        InputError: sides that are not whole numbers up to ``MAX_SIDE``, a mean, deviation or filling that is no
            number, or an unknown word.
    """
    sides = all(isinstance(side, int) and not isinstance(side, bool) and 0 < side <= MAX_SIDE for side in image.size)
    if len(image.size) != 2 or not sides:
        raise InputError(f"size: expected two positive whole numbers up to {MAX_SIDE:,}, got {list(image.size)}")
    for name, values in (("mean", image.mean), ("std", image.std)):
        if len(values) != 3 or not all(_finite(value) and (name == "mean" or value > 0) for value in values):
            raise InputError(f"{name}: expected three finite numbers{' above 0' * (name == 'std')}, got {list(values)}")
    for name, value, known in (
        ("resize", image.resize, ("shortest", "squash", "longest")),
        ("interpolation", image.interpolation, ("bicubic", "bilinear")),
    ):
        if value not in known:
            raise InputError(f"{name}: expected {', '.join(known[:-1])} or {known[-1]}, got {value!r}")
    if not 0 <= image.fill <= 255:
        raise InputError(f"fill: expected 0 to 255, got {image.fill}")


def _check_blocks(tower: VisionConfig | TextConfig) -> None:
    """Refuse blocks that do not fit the tower: heads that do not divide, a preset that needs more layers."""
    for block in tower.blocks:
        block.check(width=tower.width, heads=tower.heads)
    if isinstance(tower, TextConfig) and any(block.needs_grid for block in tower.blocks):
        raise InputError("block: 2d rope and convolutions need a picture; set them for the vision tower alone")
    if tower.final_layernorm not in ("keep", "drop"):
        raise InputError(f"final_layernorm: expected keep or drop, got {tower.final_layernorm!r}")
    if tower.gate not in ("none", "mirror"):
        raise InputError(f"gate: unknown choice {tower.gate!r}; known: mirror, none")
    if tower.gate == "mirror" and tower.layers % 2:
        raise InputError(f"gate: a mirror needs an even number of layers, got {tower.layers}")
    if tower.gate == "mirror" and not all(block.skippable for block in tower.blocks):
        raise InputError("gate: blocks with post norms, residual_scale or convolutions cannot be skipped")


SHARED = ("width", "layers", "heads", "hidden", "block", "final_layernorm")
"""What both sides of a shared tower must have alike."""


def _check_shared(vision: VisionConfig, text: TextConfig) -> None:
    """Refuse sides that one stack cannot serve."""
    for name in SHARED:
        ours, theirs = getattr(vision, name), getattr(text, name)
        if ours != theirs:
            raise InputError(f"towers: shared needs equal sides, {name} is {ours!r} for vision and {theirs!r} for text")
    if vision.gate != "none" or text.gate != "none":
        raise InputError("towers: shared takes no gate, which learns for one modality what to leave out")
    if any(block.needs_grid for block in vision.blocks):
        raise InputError("towers: shared needs blocks that read texts too: no 2d rope and no convolutions")


_NESTED: Mapping[str, type] = {"vision": VisionConfig, "text": TextConfig, "image": ImageSpec}
_PRESET = "preset"


def read_config(values: Mapping[str, Any], *, where: str, base: ModelConfig | None = None) -> ModelConfig:
    """A configuration from nested plain values, checked key by key.

    Args:
        values: keys of ``ModelConfig``; ``vision``, ``text``, ``block`` and ``image`` hold mappings of their own. A
            block may name a ``preset`` and options on top of it.
        where: file or call, for the error message.
        base: what stands where ``values`` says nothing; the defaults if None.

    Raises:
        InputError: an unknown key or a value of the wrong kind; it says where and lists what is known.
    """
    return _merge(ModelConfig() if base is None else base, values, where=where)


def read_image(values: Mapping[str, Any], *, where: str) -> ImageSpec:
    """An ``ImageSpec`` from plain values, checked like ``read_config``; ``size`` must be given."""
    spec: ImageSpec = _merge(ImageSpec(size=(0, 0)), values, where=where)
    try:
        check_image(spec)
    except InputError as error:
        raise InputError(f"{where}.{error}") from None
    return spec


def _merge(base: Any, values: Mapping[str, Any], *, where: str) -> Any:
    changes = _changes(base, values, where=where)
    try:
        return dataclasses.replace(base, **changes)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _changes(base: Any, values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Checked values of the fields that ``values`` names."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected a mapping, got {values!r}")
    known = {field.name for field in dataclasses.fields(base)}
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            extra = {_PRESET} if isinstance(base, BlockConfig) else set()
            raise InputError(f"{where}: unknown key {key!r}; {closest(key, known | extra)}")
        current = getattr(base, key)
        if key == "block":
            changes[key] = _block(current, value, where=f"{where}.{key}")
        elif key in _NESTED and not isinstance(value, _NESTED[key]):
            changes[key] = _merge(current, value, where=f"{where}.{key}")
        else:
            changes[key] = _plain(value, like=current, where=f"{where}.{key}")
    return changes


def _block(
    base: BlockConfig | BlockPreset, values: BlockConfig | BlockPreset | Mapping[str, Any], *, where: str
) -> BlockConfig | BlockPreset:
    """Blocks from plain values: a preset with options on top, or options of all blocks alike."""
    if isinstance(values, (BlockConfig, BlockPreset)):
        return values
    if not isinstance(values, Mapping):
        hint = f"; a preset is written {{{_PRESET}: {values}}}" if isinstance(values, str) else ""
        raise InputError(f"{where}: expected a mapping, got {values!r}{hint}")
    if _PRESET not in values and isinstance(base, BlockConfig):
        return _merge(base, values, where=where)
    options = dict(values)
    preset, kept = options.pop(_PRESET, None), {}
    if preset is None and isinstance(base, BlockPreset):
        preset, kept = base.preset, dict(base.options)
    options = _changes(BlockConfig(), options, where=where)
    if not isinstance(preset, str):
        raise InputError(f"{where}.{_PRESET}: expected a name, got {preset!r}; known: {', '.join(BLOCK_PRESETS)}")
    try:
        return BlockPreset(preset, {**kept, **options})
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _plain(value: Any, *, like: Any, where: str) -> Any:
    """A value of the same kind as the one it replaces; JSON's lists become tuples."""
    if isinstance(like, tuple):
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where}: expected a list, got {value!r}")
        return tuple(value)
    kinds: tuple[type, ...] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}.get(type(like), (object,))
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds and like is not None):
        raise InputError(f"{where}: expected {kinds[-1].__name__}, got {value!r}")
    if isinstance(like, float) and not _finite(value):
        raise InputError(f"{where}: expected a finite number, got {value!r}")
    return value

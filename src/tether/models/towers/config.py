"""What a model is made of, as frozen values that travel in ``model.json``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.geometry import GeometryName
from tether.core.printable import quoted
from tether.core.ranges import NonNegative, PositiveSingle, Single, Whole, checked
from tether.core.types import ImageSpec
from tether.models.config_check import MAX_LAYERS, MAX_SIZE, mapping, of_kind
from tether.models.towers.blocks.block import BlockConfig
from tether.models.towers.blocks.moe import MoeConfig
from tether.models.towers.blocks.presets import BLOCK_PRESETS, BlockPreset, block_stack
from tether.models.towers.positions import LineMethod, RotaryPositions

CLIP_VOCABULARY = 49_408
CLIP_END = 49_407
LARGEST_SCALE = 100.0  # arXiv 2103.00020, section 2.5
Size = Annotated[int, Ge(1), Le(MAX_SIZE)]
Layers = Annotated[int, Ge(1), Le(MAX_LAYERS)]


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """What both towers have.

    Attributes:
        width: channels of the token stream.
        layers: number of blocks.
        heads: attention heads; must divide the width.
        hidden: width of the feed-forward nets.
        block: options of every block, or a preset, which may differ from layer to layer.
        gate: ``none``, or ``mirror``: each token learns which middle layers to skip (train with the step
            ``skip_middle``); it needs an even number of layers, and blocks that a token can pass unchanged.
        final_layernorm: ``keep``, or ``drop`` the norm before the projection, so that embeddings differ in length
            (for ``euclidean`` and ``hyperbolic`` geometries).
        without_attention: indices of the blocks that have none, whatever ``block`` says of it (``attention: none``);
            see ``models.towers.attention_free``.
        moe: experts in place of the feed-forward nets of some blocks; see ``methods.clip_up.upcycle``.
    """

    width: Size = 192
    layers: Layers
    heads: Size = 6
    hidden: Size = 768
    block: BlockConfig | BlockPreset = field(default_factory=BlockConfig)
    gate: Literal["none", "mirror"] = "none"
    final_layernorm: Literal["keep", "drop"] = "keep"
    without_attention: tuple[Whole, ...] = ()
    moe: MoeConfig = field(default_factory=MoeConfig)

    def __post_init__(self) -> None:
        """Refuse blocks that do not fit the tower."""
        none = tuple(self.without_attention)
        if list(none) != sorted(set(none)) or max(none, default=0) >= self.layers:
            raise InputError(f"without_attention: expected rising indices below {self.layers}, got {none}")
        object.__setattr__(self, "without_attention", none)
        for block in self.blocks:
            block.check(width=self.width, heads=self.heads)
        if self.gate == "mirror" and self.layers % 2:
            raise InputError(f"gate: a mirror needs an even number of layers, got {self.layers}")
        if self.gate == "mirror" and not all(block.skippable for block in self.blocks):
            raise InputError("gate: blocks with post norms, residual_scale or convolutions cannot be skipped")
        self._check_experts()

    def _check_experts(self) -> None:
        """Refuse experts in blocks that cannot have them."""
        if max(self.moe.blocks, default=0) >= self.layers:
            raise InputError(f"moe: blocks: expected indices below layers={self.layers}, got {self.moe.blocks}")
        if self.moe.blocks and self.gate != "none":
            raise InputError(
                "moe: experts go by whole sequences, of which a gate leaves tokens out; expected gate: none"
            )
        if any(self.blocks[index].ffn_mid_norm or self.blocks[index].ffn_conv for index in self.moe.blocks):
            raise InputError("moe: expected blocks without ffn_mid_norm and ffn_conv, which experts do not have")

    @property
    def blocks(self) -> tuple[BlockConfig, ...]:
        """The options of each block, first to last."""
        stack = enumerate(block_stack(self.block, layers=self.layers))
        none = self.without_attention
        return tuple(replace(block, attention="none") if index in none else block for index, block in stack)

    @property
    def experts(self) -> tuple[MoeConfig | None, ...]:
        """Those of each block, first to last; None for one feed-forward net."""
        return tuple(self.moe if index in self.moe.blocks else None for index in range(self.layers))


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig(TowerConfig):
    """The image tower; its other options are those of ``TowerConfig``.

    Attributes:
        image: how images are prepared; its size must be a multiple of the patch.
        patch: side of a square patch in pixels.
        made_by: the class of the tower, ``module:Class``.
        reads: ``pixels``, or what else the tower takes.
    """

    made_by: ClassVar[str] = "tether.models.towers.vision.tower:VisionTower"
    reads: ClassVar[str] = "pixels"
    image: ImageSpec = field(default_factory=lambda: ImageSpec(size=(64, 64)))
    patch: Size = 8
    layers: Layers = 6

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other."""
        if any(side % self.patch for side in self.image.size):
            raise InputError(f"patch: expected a divisor of the image size {self.image.size}, got {self.patch}")
        TowerConfig.__post_init__(self)

    @classmethod
    def prepared(cls, image: ImageSpec) -> ImageSpec:
        """How such a tower takes the images that another takes so."""
        return image

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image.size[0] // self.patch, self.image.size[1] // self.patch


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig(TowerConfig):
    """The text tower; its other options are those of ``TowerConfig``.

    Attributes:
        context: longest text in tokens, start and end included.
        vocabulary: number of token ids.
        end: id of the end token, whose state is the text's.
        position: ``learned``, a vector for each of ``context`` positions, or ``none``: the blocks alone tell the order
            by rotary embeddings (``block: {rope: half}``), and the context can be any.
    """

    context: Size = 24
    vocabulary: Size = CLIP_VOCABULARY
    end: Whole = CLIP_END
    layers: Layers = 4
    position: Literal["learned", "none"] = "learned"

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other."""
        if self.end >= self.vocabulary:
            raise InputError(f"end: expected an id below vocabulary={self.vocabulary}, got {self.end}")
        TowerConfig.__post_init__(self)
        if any(block.needs_grid for block in self.blocks):
            raise InputError("block: 2d rope and convolutions need an image; set them for the vision tower alone")

    def at_context(self, context: int, *, line: LineMethod | RotaryPositions | None) -> TextConfig:
        """The same for texts of another length; blocks that turn by place instead of a table where ``line`` says so."""
        if not isinstance(line, RotaryPositions):
            return replace(self, context=context)
        if self.position == "none" or any(block.rope != "none" for block in self.blocks):
            raise InputError("how: rotary: the text tower has rotary positions already")
        turns: Any = {"rope": "half", "rope_theta": line.base}
        if isinstance(self.block, BlockPreset):
            block: Any = replace(self.block, options={**self.block.options, **turns})
        else:
            block = replace(self.block, **turns)
        return replace(self, context=context, position="none", block=block)


@checked
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
        towers: ``two``, or ``shared``: one stack of blocks, one final norm and one projection read both images and
            texts, and only the stems differ (SharedCLIP, arXiv 2406.17639); both sides must then be of one make.
        logit_scale_range: least and greatest multiplier in training; None is (1, 100), and (0, 100) for the squared
            distances.
    """

    dim: Size = 192
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    logit_scale: PositiveSingle = 1 / 0.07
    logit_bias: Single | None = None
    geometry: GeometryName = "clip"
    towers: Literal["two", "shared"] = "two"
    logit_scale_range: tuple[NonNegative, PositiveSingle] | None = None

    def __post_init__(self) -> None:
        """Refuse a shared stack that cannot serve both sides, and a range that is empty."""
        if self.towers == "shared":
            _check_shared(self.vision, self.text)
        if self.logit_scale_range is not None:
            least, most = map(float, self.logit_scale_range)
            if not least < most:
                raise InputError(f"logit_scale_range: expected least < greatest, got {self.logit_scale_range!r}")
            object.__setattr__(self, "logit_scale_range", (least, most))

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


SHARED = ("width", "layers", "heads", "hidden", "block", "final_layernorm", "without_attention", "moe")
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


_NESTED: Mapping[str, type] = {"vision": VisionConfig, "text": TextConfig, "image": ImageSpec, "moe": MoeConfig}
_PRESET = "preset"


def read_config(values: Mapping[str, Any], *, where: str, base: ModelConfig | None = None) -> ModelConfig:
    """A configuration from nested plain values, checked key by key.

    Args:
        values: keys of ``ModelConfig``; ``vision``, ``text``, ``block`` and ``image`` hold mappings of their own. A
            block may name a ``preset`` and options on top of it.
        where: file or call, for the error message.
        base: what stands where ``values`` says nothing; the defaults if None.
    """
    return _merge(ModelConfig() if base is None else base, values, where=where)


def read_image(values: Mapping[str, Any], *, where: str) -> ImageSpec:
    """An ``ImageSpec`` from plain values, checked like ``read_config``; ``size`` must be given."""
    spec = _merge(ImageSpec(size=(1, 1)), values, where=where)
    if "size" not in values:
        raise InputError(f"{where}.size: expected height and width in pixels, got none")
    return spec


def _merge(base: Any, values: Mapping[str, Any], *, where: str) -> Any:
    changes = _changes(base, values, where=where)
    try:
        return dataclasses.replace(base, **changes)
    except InputError as error:
        raise InputError(f"{where}.{error}") from None


def _changes(base: Any, values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The fields that ``values`` names: nested ones read, words and switches checked, JSON's lists made tuples."""
    known = {field.name for field in dataclasses.fields(base)}
    changes: dict[str, Any] = {}
    for key, value in mapping(values, where=where).items():
        if key not in known:
            extra = {_PRESET} if isinstance(base, BlockConfig) else set()
            raise InputError(f"{where}: unknown key {quoted(key)}; {closest(key[:80], known | extra)}")
        current, inside = getattr(base, key), f"{where}.{key}"
        if key == "block":
            value = _block(current, value, where=inside)
        elif key in _NESTED and not isinstance(value, _NESTED[key]):
            value = _merge(current, value, where=inside)
        elif isinstance(current, bool | str):
            of_kind(value, type(current), where=inside)
        changes[key] = tuple(value) if isinstance(value, list) else value
    return changes


def _block(
    base: BlockConfig | BlockPreset, values: BlockConfig | BlockPreset | Mapping[str, Any], *, where: str
) -> BlockConfig | BlockPreset:
    """Blocks from plain values: a preset with options on top, or options of all blocks alike."""
    if isinstance(values, (BlockConfig, BlockPreset)):
        return values
    if isinstance(values, str):
        raise InputError(f"{where}: expected a mapping, got {values!r}; a preset is written {{{_PRESET}: {values}}}")
    if _PRESET not in mapping(values, where=where) and isinstance(base, BlockConfig):
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

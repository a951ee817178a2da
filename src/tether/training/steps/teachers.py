"""Who reads a view besides the model that is trained: frozen encoders, one that trails the model, a count of words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.ranges import Share, checked
from tether.core.registry import Registry
from tether.core.types import Batch, Features, Side
from tether.models.load import load
from tether.models.towers.frozen_copy import frozen_copy
from tether.models.towers.positions import Pair
from tether.training.ema import MovingEncoder, Shape
from tether.training.steps.module import Encoder, ViewRows, joined_features, run_tower
from tether.training.steps.views import TEACHER, captions_of
from tether.training.terms.term import LOGIT_SCALE

if TYPE_CHECKING:
    from tether.models.features.patch_attention import Attended
    from tether.training.resized_reader import ResizedReader

WORDS = "words"
BUCKETS = 1024
"""Of the counts of a caption's tokens; two of a vocabulary's words share one by chance."""
_MIX = -7046029254386353131  # the odd constant of SplitMix64; products wrap around on purpose


class Teacher(Protocol):
    """What a step's setting ``teacher`` names.

    Attributes:
        model: who reads, once there is one.
        like_student: whether it reads the student's own tokens.
    """

    model: Encoder | None
    like_student: bool

    def see_start(self, student: Encoder) -> None:
        """Look at the model before it has learnt anything; called again by a run that goes on."""
        ...

    def see_now(self, student: Encoder, *, steps: int) -> None:
        """Look at the model where this run takes it up; its weights change from here on."""
        ...


class LoadedTeacher:
    """``{load: NAME}``: any encoder that ``tether.load`` takes."""

    like_student = False

    def __init__(self, *, name_or_folder: str) -> None:
        """Args: name_or_folder: for ``tether.load``."""
        self.name, self.model = name_or_folder, cast("Encoder | None", None)

    def see_start(self, student: Encoder) -> None:
        """See Teacher."""
        self.model = load(self.name).requires_grad_(False)

    def see_now(self, student: Encoder, *, steps: int) -> None:
        """See Teacher."""


class StartTeacher:
    """``start``: the model as it was before the run."""

    like_student = True

    def __init__(self) -> None:
        """There is nothing to set."""
        self.model: Encoder | None = None

    def see_start(self, student: Encoder) -> None:
        """See Teacher."""
        self.model = frozen_copy(student)

    def see_now(self, student: Encoder, *, steps: int) -> None:
        """See Teacher."""


class MovingTeacher:
    """``{ema: {momentum: [0.996, 1.0]}}``: an average of the model's weights that trails it, see ``MovingEncoder``."""

    like_student = True

    @checked
    def __init__(
        self,
        *,
        momentum: Share | tuple[Share, Share] = (0.996, 1.0),
        shape: Shape = "cosine",
        buffers: Literal["copied", "averaged"] = "copied",
        exclude: list[str] | None = None,
        image_size: Side | None = None,
    ) -> None:
        """See ``MovingEncoder`` for the other settings.

        Args:
            momentum: of the average.
            shape: of the momentum's change.
            buffers: copied or averaged.
            exclude: patterns of parameters that are taken as they are.
            image_size: pixels of a side of the images that it reads; None, the model's. Fewer cost less, as in A-CLIP's
                efficient variant, whose exact size is not known; positions are resized after each step.
        """
        self._settings: dict[str, Any] = {
            "momentum": momentum,
            "shape": shape,
            "buffers": buffers,
            "exclude": exclude or [],
        }
        self._image_size = image_size
        self.model, self.moving = cast("Encoder | None", None), cast("MovingEncoder | None", None)
        self._resized = cast("ResizedReader | None", None)

    def see_start(self, student: Encoder) -> None:
        """See Teacher."""

    def see_now(self, student: Encoder, *, steps: int) -> None:
        """See Teacher."""
        self.moving = MovingEncoder(student, steps=steps, **self._settings)
        self.model = cast(Encoder, self.moving.model)
        if self._image_size is not None:
            from tether.training.resized_reader import ResizedReader

            self._resized = ResizedReader(self.model, image_size=self._image_size)
            self.model = self._resized.model

    def follow_(self, *, step: int) -> None:
        """Follow one optimiser step."""
        if self.moving is not None:
            self.moving.update_(step=step)

    def momentum_at(self, step: int) -> float:
        """Of the average, also for heads that trail with it."""
        return 1.0 if self.moving is None else self.moving.momentum_at(step)

    def at_(self, device: torch.device) -> None:
        """Be ready to read on a device."""
        if self.moving is not None:
            self.moving.model.to(device)
        if self._resized is not None:
            self._resized.follow_()

    def tensors(self) -> dict[str, Tensor]:
        """The average, on the CPU, by name."""
        return {} if self.moving is None else self.moving.tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``tensors`` gave."""
        if self.moving is not None:
            self.moving.load(dict(tensors))


TEACHERS: Registry[Teacher] = Registry(
    "teachers",
    {
        "load": "tether.training.steps.teachers:LoadedTeacher",
        "start": "tether.training.steps.teachers:StartTeacher",
        "ema": "tether.training.steps.teachers:MovingTeacher",
    },
)
"""Teachers by the key that a step's ``teacher`` has."""


def build_teacher(spec: str | Mapping[str, Any], *, where: str) -> Teacher:
    """The teacher that ``start``, ``{load: NAME}`` or ``{ema: {...}}`` describes.

    Raises:
        InputError: anything else, or a setting out of its range.
    """
    values = {spec: {}} if isinstance(spec, str) else dict(spec)
    if len(values) != 1 or not values.keys() <= TEACHERS.keys() or spec == "load":
        raise InputError(f"{where}: expected start, {{load: NAME}} or {{ema: {{momentum: 0.99}}}}, got {spec!r:.200}")
    ((kind, more),) = values.items()
    if kind == "load":
        if not isinstance(more, str):
            raise InputError(f"{where}: load: expected a name or a folder, got {more!r:.200}")
        return LoadedTeacher(name_or_folder=more)
    if not isinstance(more or {}, Mapping):
        raise InputError(f"{where}: {kind}: expected settings by name, got {more!r:.200}")
    return build({"name": kind, **(more or {})}, TEACHERS, where=where)


class Teachers:
    """All who read a step's views without learning: none of them is saved with the model.

    Frozen encoders have the names that ``tether.load`` takes, each loaded once; ``teacher`` is the step's own.
    """

    def __init__(self, teacher: Teacher | None = None) -> None:
        """Args: teacher: of the step."""
        self.teacher = teacher
        self.moving = teacher if isinstance(teacher, MovingTeacher) else None
        self._loaded: dict[str, Encoder] = {}
        self._digest: str | None = None

    def load(self, name: str) -> Encoder:
        """The encoder of a name, in evaluation mode and without gradient."""
        if name == TEACHER:
            if self.teacher is None or self.teacher.model is None:
                raise InputError("step: teacher: not there yet; a run calls new_heads(model) before its first step")
            return self.teacher.model
        if name not in self._loaded:
            self._loaded[name] = load(name).requires_grad_(False)
        return self._loaded[name]

    def _reader(self, name: str, device: torch.device) -> Encoder:
        if name == TEACHER and self.moving is not None:
            self.moving.at_(device)
        return self.load(name).to(device)

    def check(self, name: str, view: ViewRows, *, where: str) -> None:
        """Refuse images of a size that their reader does not take."""
        if name == WORDS or view.side == "text":
            return
        spec = self.load(name).image_spec
        if spec.resize != "patches" and tuple(view.rows.shape[2:]) != spec.size:
            (height, width), got = spec.size, " x ".join(map(str, view.rows.shape[2:]))
            more = f"give the view size: {height}" if height == width else "a view's own size is a square"
            raise InputError(f"{where}: encoder {name} takes images of {height} x {width}, got {got}; {more}")

    def scale(self, name: str) -> dict[str, Tensor]:
        """What a reader multiplies its cosines by, under the name that terms look for; nothing of one that has none."""
        return {} if name == WORDS else {LOGIT_SCALE: self.load(name).logit_scale.detach()}

    @torch.no_grad()
    def read(self, name: str, view: ViewRows, batch: Batch, *, micro_batch: int | None = None) -> Features:
        """What a reader makes of a view, a slice at a time; captions are read as its own tokenizer has them."""
        if name == WORDS:
            return Features(count_words(view.rows))
        device, rows = view.rows.device, view.rows
        reader = self._reader(name, device)
        if view.side == "text" and not (name == TEACHER and self.teacher is not None and self.teacher.like_student):
            rows = reader.tokenizer(captions_of(batch)).to(device, non_blocking=True)
        slices = rows.split(micro_batch or max(1, len(rows)))
        found = joined_features([run_tower(reader, view.side, some, None, view.want) for some in slices])
        return replace(found, pooled=found.pooled.float())

    def attended(self, images: Tensor, *, micro_batch: int | None) -> tuple[Attended, Pair]:
        """What the step's teacher makes of images and attends to in them, and the grid of its patches."""
        from tether.models.features.find import anatomy_of
        from tether.models.features.patch_attention import Attended, attended

        reader = self._reader(TEACHER, images.device)
        parts = [attended(reader, some) for some in images.split(micro_batch or max(1, len(images)))]
        found = joined_features([part.features for part in parts])
        look = Attended(replace(found, pooled=found.pooled.float()), torch.cat([part.scores for part in parts]))
        return look, anatomy_of(reader, "image").grid(images)

    def digest(self) -> str | None:
        """Of the teacher's weights, for those that stay; a run goes on with the same ones only."""
        if self.teacher is None or self.teacher.model is None or self.moving is not None:
            return None
        if self._digest is None:
            self._digest = model_digest(nn.ModuleList([self.teacher.model]))  # whatever the size of its images
        return self._digest


def count_words(text: Int[Tensor, "b l"]) -> Float[Tensor, "b 1024"]:
    """How often each token stands in each caption, in 1024 buckets by hash; without the start, the end and padding.

    The same on every process and for any padding. A caption without words counts in a bucket of its own.
    """
    places = torch.arange(text.shape[1], device=text.device)
    length = torch.where(text != 0, places, -1).amax(dim=1) + 1  # 0 is padding, and inside a caption CLIP's token "!"
    word = (places > 0) & (places < (length - 1)[:, None])
    mixed = text.to(torch.int64) * _MIX
    bucket = ((mixed ^ (mixed >> 29)) % (BUCKETS - 1)) + 1
    counts = torch.zeros(len(text), BUCKETS, device=text.device)
    counts.scatter_add_(1, bucket * word, word.to(counts.dtype))
    counts[:, 0] = (~word.any(dim=1)).to(counts.dtype)
    return counts

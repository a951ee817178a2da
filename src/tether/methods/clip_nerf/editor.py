"""Scenes edited by words: two small maps from a CLIP's rows to changes of codes, learnt once, used in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.cameras import Lens
from tether.core.errors import InputError, NotFiniteError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, PositiveRate, Whole, checked
from tether.core.state_file import check_encoder, encoder_digest, read_state, wide_array, write_state
from tether.generation.canvases.canvas import FRONT, Canvas, Viewpoint
from tether.generation.goals import ClipGoal, PlainView, TextAim
from tether.generation.painting import PaintingProgress, paint
from tether.generation.seen import unit_images
from tether.methods.clip_nerf.field import CodeMapper, Codes, Width
from tether.methods.clip_nerf.scenes import FieldScenes
from tether.models.embed import encode_texts

Which = Literal["appearance", "shape", "both"]
FORMAT = "tether-field-editor-1"


class FieldEditor(nn.Module):
    """Changes the codes of scenes by a text or an image, through any encoder of ``tether.load``.

    Source: CLIP-NeRF (arXiv 2112.05139, section 3.2 and 3.3).

    Attributes:
        scenes: the field and its scenes, which rest.
        shape: the map of shapes.
        appearance: the map of colours.

    Example:
        >>> from tether.methods.clip_nerf import ConditionalField, FieldEditor, FieldScenes, March
        >>> from tether.models import create
        >>> from tether.data.sets.solids import solid_views
        >>> views = solid_views(["red cone", "blue box"], poses=2, size=8)
        >>> scenes = FieldScenes(ConditionalField(4, 4, width=8, depth=1), views, march=March(samples=4))
        >>> editor = FieldEditor(scenes, create("tiny").eval())
        >>> losses = editor.learn_(["a red box", "a blue cone"], which="appearance", steps=2, images=1)
        >>> codes = editor.edit("a blue cone", scenes.codes("red cone"), which="appearance")
        >>> bool((codes.shape == scenes.codes("red cone").shape).all())
        True
    """

    model: DualEncoder

    @checked
    def __init__(self, scenes: FieldScenes, model: DualEncoder, *, width: Width = 64, seed: Whole = 0) -> None:
        """Draw the maps.

        Args:
            scenes: learnt.
            model: any encoder, in evaluation mode; it is no part of the state.
            width: of the maps' hidden layer.
            seed: of their weights.
        """
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.scenes, self.width = scenes, width
        self.__dict__["model"] = model  # not registered as a module
        widths = (scenes.field.shape_dim, scenes.field.appearance_dim)
        self.shape, self.appearance = (CodeMapper(model.dim, wide, width=width, generator=draws) for wide in widths)

    @checked
    def learn_(
        self,
        prompts: Sequence[str] | Sequence[Sequence[str]],
        *,
        which: Which,
        steps: Count = 400,
        images: Count = 2,
        height: Count | None = None,
        rate: PositiveRate = 1e-3,
        keep: NonNegative = 0.0,
        seed: Whole = 0,
        progress: PaintingProgress | None = None,
        save: Callable[[PaintingProgress], None] | None = None,
        on_progress: Callable[[int, int | None], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[float]:
        """Learn a map: views of edited scenes shall be near the texts for the model. All else rests.

        It is ``generation.paint`` with a scene, a text and a known pose drawn for each image.

        Args:
            prompts: what edits may ask for: of any scene, or a list of texts for each scene, in their order. Texts that
                agree with all that the map cannot change of a scene teach faster.
            which: map; ``both`` moves the two at once.
            steps: of Adam.
            images: of a step.
            height: of these in pixels; None takes that of the views.
            rate: of Adam.
            keep: weight of the squared length of what is added to a code.
            seed: of the draws.
            progress: of a run to go on with; see ``generation.paint``, as for the rest.
            save: called with the progress every 50 steps.
            on_progress: called with steps done and in all.
            should_stop: asked after each step.

        Returns:
            Minus the cosine of view and text of each step, summed over images.

        Raises:
            InputError: no texts, one without words, or not a list for each scene.
        """
        said = self._of_each_scene(prompts)
        texts = list(dict.fromkeys(text for some in said for text in some))
        with torch.no_grad():
            rows = F.normalize(encode_texts(self.model, texts), dim=1).float()
        asked = [[texts.index(text) for text in some] for some in said]
        lens = self.scenes.lens if height is None else self.scenes.lens.scaled(height)
        canvas = _MapsCanvas(self, rows, asked, which=which, images=images, lens=lens, rate=rate)
        goals = {
            "prompt": ClipGoal(self.model, [TextAim(rows, reduction="mean")], views=PlainView()),
            "keep": lambda image, moment: keep * canvas.added(moment.look),
        }
        learning = [value for value in self.scenes.parameters() if value.requires_grad]
        for value in learning:
            value.requires_grad_(False)
        try:
            found = paint(
                canvas, goals, steps=steps, seed=seed, frames=0, progress=progress, save=save,
                on_progress=on_progress, should_stop=should_stop,
            )  # fmt: skip
        finally:
            for value in learning:
                value.requires_grad_(True)
        return found.losses["prompt"]

    def _of_each_scene(self, prompts: Sequence[str] | Sequence[Sequence[str]]) -> list[list[str]]:
        count, one = len(self.scenes.names), all(isinstance(text, str) for text in prompts)
        said = [list(prompts)] * count if one else [list(some) for some in prompts]
        if len(said) != count:
            raise InputError(f"prompts: expected texts, or a list for each of {count} scenes, got {prompts!r:.200}")
        for number, some in enumerate(said):
            if not some or not all(isinstance(text, str) and text.strip() for text in some):
                raise InputError(f"prompts, scene {number}: expected at least one text with words, got {some!r:.200}")
        return cast("list[list[str]]", said)

    @torch.no_grad()
    def edit(self, prompt: str | Float[Tensor, "3 h w"], codes: Codes, which: Which = "appearance") -> Codes:
        """Codes changed by what a text says, or by what an image in 0 to 1 shows.

        Args:
            prompt: a text, or an image.
            codes: of one scene, learnt or found by ``invert_view``.
            which: code to change; the other one is given back as it is.

        Raises:
            InputError: a text without words, an unknown ``which``, or codes of another width.
        """
        if which not in ("appearance", "shape", "both"):
            raise InputError(f"which: expected appearance, shape or both, got {which!r:.80}")
        row = self.row(prompt)
        shape = codes.shape if which == "appearance" else self.shape(row, codes.shape)
        return Codes(shape, codes.appearance if which == "shape" else self.appearance(row, codes.appearance))

    def row(self, prompt: str | Float[Tensor, "3 h w"]) -> Float[Tensor, " d"]:
        """The model's unit row of a text or an image."""
        if isinstance(prompt, str):
            if not prompt.strip():
                raise InputError("prompt: expected a text with words, got none")
            return F.normalize(encode_texts(self.model, [prompt])[0], dim=0).to(self.scenes.shape)
        if prompt.ndim != 3 or prompt.shape[0] != 3:
            raise InputError(f"prompt: expected a text or an image (3, h, w), got {tuple(prompt.shape)}")
        return unit_images(self.model, prompt[None])[0].to(self.scenes.shape)

    def save(self, path: Path | str) -> None:
        """Write field, codes, maps and the digest of the encoder to one safetensors file, atomically."""
        settings = {"encoder": encoder_digest(self.model, None), "width": self.width, "scenes": self.scenes.plain()}
        arrays = {name: wide_array(value) for name, value in self.state_dict().items()}
        write_state(path, format=FORMAT, settings=settings, arrays=arrays)

    @classmethod
    def load(cls, path: Path | str, *, model: DualEncoder) -> FieldEditor:
        """Read what ``save`` wrote, with nothing unpickled.

        Raises:
            InputError: another kind of file, or one of another encoder.
        """
        plain, arrays = read_state(path, what="field with maps", format=FORMAT)
        check_encoder(path, recorded=str(plain.get("encoder")), encoder=model, digest=None)
        own = {name.removeprefix("scenes."): value for name, value in arrays.items() if name.startswith("scenes.")}
        try:
            made = cls(FieldScenes.of_plain(plain["scenes"], own, where=path), model, width=plain["width"])
            made.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
            if bad := [name for name, value in arrays.items() if not np.isfinite(value).all()]:
                raise NotFiniteError(f"{path}: {bad[0]}: expected finite numbers; the weights are damaged")
        except (KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{path}: expected a field with maps: {error!s:.300}") from error
        return made


@dataclass(frozen=True, slots=True)
class _EditLook(Viewpoint):
    scene: int = 0
    prompt: int = 0
    pose: int = 0


class _MapsCanvas(Canvas):
    """Maps as a canvas: a step sees scenes edited by texts, from known poses."""

    scenes: FieldScenes

    def __init__(
        self,
        editor: FieldEditor,
        rows: Float[Tensor, "n d"],
        asked: list[list[int]],
        *,
        which: Which,
        images: int,
        lens: Lens,
        rate: float,
    ) -> None:
        super().__init__()
        maps = {"shape": editor.shape, "appearance": editor.appearance}
        self.maps = nn.ModuleDict({name: part for name, part in maps.items() if which in (name, "both")})
        self.__dict__["scenes"], self._rows, self._images = editor.scenes, rows.to(editor.scenes.shape), images
        self._asked, self._lens = asked, lens
        self.rates = dict.fromkeys(self.maps, rate)

    def parameters_by_role(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {name: list(part.parameters()) for name, part in self.maps.items()}

    def looks(self, step: int, draws: torch.Generator) -> Sequence[Viewpoint]:
        def drawn(count: int) -> int:
            return int(torch.randint(count, (), generator=draws))

        found = list[Viewpoint]()
        for _ in range(self._images):
            scene = drawn(len(self._asked))
            prompt = self._asked[scene][drawn(len(self._asked[scene]))]
            share, pose = (prompt + 0.5) / len(self._rows), drawn(len(self.scenes.poses))
            found.append(_EditLook(share=share, scene=scene, prompt=prompt, pose=pose))
        return found

    def render(
        self, look: Viewpoint = FRONT, *, keep: Bool[Tensor, " elements"] | None = None
    ) -> Float[Tensor, "3 h w"]:
        edit = look if isinstance(look, _EditLook) else _EditLook()
        return self.scenes.view(self._codes(edit)[1], self.scenes.poses[edit.pose], lens=self._lens).image

    def added(self, look: Viewpoint) -> Tensor:
        """Squared length of what a look's text adds to the codes."""
        assert isinstance(look, _EditLook)
        before, after = self._codes(look)
        return (after.shape - before.shape).square().sum() + (after.appearance - before.appearance).square().sum()

    def _codes(self, look: _EditLook) -> tuple[Codes, Codes]:
        before, row = self.scenes.codes(look.scene), self._rows[look.prompt]
        changed = {name: part(row, getattr(before, name)) for name, part in self.maps.items()}
        return before, Codes(changed.get("shape", before.shape), changed.get("appearance", before.appearance))

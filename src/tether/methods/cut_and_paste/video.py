"""One object of a short clip replaced by words, with the maps of attention of the clip as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Share, Whole, checked
from tether.generation.diffuse.text_diffusion import TextDiffusion
from tether.methods.cut_and_paste.attention_maps import blend, fuse_frames, inject, token_mask
from tether.methods.cut_and_paste.attention_store import AttentionStore, Beside
from tether.methods.cut_and_paste.pipeline import PipelineDiffusion
from tether.methods.cut_and_paste.reference import ReferencePrompt, reference_size, with_tokens


@dataclass(frozen=True, slots=True)
class EditResult:
    """A clip after an edit.

    Attributes:
        frames: in -1 to 1.
        masks: True where the object was seen.
    """

    frames: Float[Tensor, "f 3 h w"]
    masks: Bool[Tensor, "f h w"]


class VideoEditor:
    """Replaces what one word of a clip's caption names, frame by frame with one diffusion of images.

    Every frame is inverted under the caption, with the maps of its attention kept. Under the caption of the edit, the
    clip's maps, fused with those of the frame before, stand in for the edit's at the tokens that both share, in the
    first part of the steps; and what lies outside the fused map of the word is put back after each step.

    Source: arXiv 2311.11697, from its abstract; shares, threshold, and the rules of fusing and injecting are ours.

    Example:
        >>> import torch
        >>> from tether.generation import TextDiffusion
        >>> from tether.methods.cut_and_paste import VideoEditor
        >>> from tether.models import create
        >>> diffusion = TextDiffusion(create("tiny").eval(), size=8, channels=(8, 16))
        >>> editor = VideoEditor(diffusion, steps=2)
        >>> clip = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        >>> editor.edit(clip, "a red circle", "a red star", word="circle").frames.shape
        torch.Size([3, 3, 8, 8])
    """

    @checked
    def __init__(
        self,
        diffusion: TextDiffusion | PipelineDiffusion,
        references: ReferencePrompt | None = None,
        *,
        fuse: Share = 0.5,
        inject_share: Share = 0.8,
        threshold: Share = 0.3,
        grow: Whole = 0,
        steps: Count = 25,
        blending: bool = True,
        beside: tuple[Beside, ...] = ("first", "previous"),
        half: bool = False,
    ) -> None:
        """Choose how.

        Args:
            diffusion: trained on images with captions, or a pipeline of diffusers; no clips are needed.
            references: what makes tokens of reference images; None takes tokens alone.
            fuse: share of the frame before in a frame's maps.
            inject_share: share of the steps, noise first, in which maps are put in.
            threshold: of the map of the word, from 0 to 1 in each frame, above which the object is seen.
            grow: pixels by which its mask is dilated.
            steps: of inversion and of denoising.
            blending: whether what lies outside the mask is put back.
            beside: whose keys and values stand beside a frame's own in self-attention; none for frames on their own.
            half: keep the clip's maps at half precision, for long clips.

        Raises:
            InputError: something else than a ``ReferencePrompt`` in its place, such as an encoder.
        """
        if not isinstance(references, ReferencePrompt | None):
            raise InputError(
                f"references: expected a ReferencePrompt or None, got {type(references).__name__}; the diffusion has "
                "its encoder with it"
            )
        self.diffusion, self.references, self.half = diffusion, references, half
        self.fuse, self.inject_share = fuse, inject_share
        self.threshold, self.grow, self.steps = threshold, grow, steps
        self.blending, self.beside = blending, tuple(beside)

    @torch.no_grad()
    def edit(
        self,
        frames: Tensor,
        source_prompt: str,
        edit_prompt: str,
        reference: Tensor | None = None,
        *,
        word: str,
        alignment: Mapping[int, int] | None = None,
    ) -> EditResult:
        """The clip with another object.

        Args:
            frames: (f, 3, h, w) in -1 to 1, of the diffusion's size.
            source_prompt: what the clip shows.
            edit_prompt: what it shall show.
            reference: an image (3, h, w) uint8 that the edit also looks at, or its tokens (r, width).
            word: of the source prompt, that names what is replaced.
            alignment: for prompts of unequal length: the place of each shared token in the edit's to that in the
                source's, the beginning of the text being 0. None takes places where both have the same token.

        Raises:
            InputError: frames of another shape, one frame with ``fuse`` above 0, a word that the prompt has not,
                prompts of unequal length without ``alignment``, or reference tokens of another width.
        """
        count = len(frames)
        self.diffusion.check_images(frames, [source_prompt] * count)
        if self.fuse and count < 2:
            raise InputError(f"frames: expected at least 2 to fuse with fuse={self.fuse:g}, got {count}")
        places, tokens = self.places(source_prompt, word), self.tokens_of(reference)
        keep = self.shared(source_prompt, edit_prompt, alignment)
        clip, levels = self._inverted(frames, source_prompt)
        masks = self._masks(clip, places, size=tuple(levels[0].shape[2:]))
        most = round(self.inject_share * self.steps)

        def replace(call: int, layer: str, found: Tensor) -> Tensor | None:
            if call >= most:
                return None
            source = fuse_frames(clip.maps[self.steps - 1 - call, layer].to(found), w=self.fuse)
            return inject(found, source, keep)

        def put_back(left: int, x: Tensor) -> Tensor | None:
            if not self.blending:
                return None
            return blend(x, levels[left], masks)

        said = with_tokens(self.diffusion.read([edit_prompt] * count), tokens)
        with AttentionStore(self.diffusion.unet, record=False, replace=replace, beside=self.beside):
            made = self.diffusion.denoise(levels[self.steps], said, steps=self.steps, on_step=put_back)
        shown = F.interpolate(masks[:, None].float(), size=frames.shape[2:], mode="nearest")[:, 0] > 0
        return EditResult(self.diffusion.to_images(made).clamp(-1, 1).to(frames), shown)

    @torch.no_grad()
    def masks(self, frames: Tensor, prompt: str, *, word: str) -> Bool[Tensor, "f h w"]:
        """Where a word of a clip's caption is seen, at the size of the samples; arguments and errors as of ``edit``."""
        self.diffusion.check_images(frames, [prompt] * len(frames))
        places = self.places(prompt, word)
        clip, levels = self._inverted(frames, prompt)
        return self._masks(clip, places, size=tuple(levels[0].shape[2:]))

    def tokens_of(self, reference: Tensor | None) -> Tensor | None:
        """Tokens of a reference image; tokens, and none, as they are.

        Raises:
            InputError: an image where the editor has no ``references``, or one of another shape.
        """
        if reference is None or reference.is_floating_point():
            return reference
        if self.references is None:
            raise InputError("reference: an image needs VideoEditor(diffusion, references); got None for these")
        return self.references.tokens(reference_size(reference, size=self.references.reader.image_spec.size))[0]

    def _inverted(self, frames: Tensor, prompt: str) -> tuple[AttentionStore, dict[int, Tensor]]:
        """Maps of every call and the samples at every level, 0 being the clip itself."""
        levels = {0: self.diffusion.to_samples(frames)}

        def note(left: int, x: Tensor) -> None:
            levels[self.steps - left] = x

        said = self.diffusion.read([prompt] * len(frames))
        with AttentionStore(self.diffusion.unet, beside=self.beside, half=self.half) as store:
            self.diffusion.inverted(levels[0], said, steps=self.steps, on_step=note)
        return store, levels

    def _masks(self, clip: AttentionStore, places: Sequence[int], *, size: tuple[int, ...]) -> Bool[Tensor, "f h w"]:
        """Where a word is seen, by the mean over calls, layers and heads of its fused maps, enlarged to the image."""
        found: list[Tensor] = []
        for layer in clip.layers():
            maps = torch.stack([value for (_, one), value in clip.maps.items() if one == layer]).float().mean(0)
            shown = fuse_frames(maps, w=self.fuse)[..., list(places)].sum(-1).mean(1)
            tall = round((shown.shape[1] * size[0] / size[1]) ** 0.5)
            grid = shown.view(len(shown), 1, tall, -1)
            found.append(F.interpolate(grid, size=size, mode="bilinear", align_corners=False))
        mean = torch.stack(found).mean(0).flatten(2)[..., None]
        return token_mask(mean, 0, self.threshold, grow=self.grow).view(-1, *size)

    def places(self, prompt: str, word: str) -> list[int]:
        """Places of a word's tokens in a prompt, the first time that it stands there.

        Raises:
            InputError: the prompt does not have it.
        """
        ids, empty, own = (self.diffusion.ids(text) for text in (prompt, "", word))
        wanted = own[len(empty) - 1 : len(own) - 1]
        starts = range(len(ids) - len(wanted) + 1)
        start = next((at for at in starts if wanted and ids[at : at + len(wanted)] == wanted), None)
        if start is None:
            raise InputError(f"word: expected one of the prompt {prompt!r}, got {word!r}")
        return list(range(start, start + len(wanted)))

    def shared(self, source: str, edit: str, alignment: Mapping[int, int] | None) -> dict[int, int]:
        """Places in the edit's prompt to those in the source's, of the tokens that both share.

        Raises:
            InputError: prompts of unequal length without an alignment.
        """
        if alignment is not None:
            return dict(alignment)
        before, after = self.diffusion.ids(source), self.diffusion.ids(edit)
        if len(before) != len(after):
            raise InputError(
                f"alignment: expected one for prompts of unequal length, {len(before)} and {len(after)} tokens; "
                "got None"
            )
        return {place: place for place, (one, other) in enumerate(zip(before, after, strict=True)) if one == other}

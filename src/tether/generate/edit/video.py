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
from tether.core.types import Features
from tether.generate.diffuse.attention_store import AttentionStore, Beside
from tether.generate.diffuse.text_diffusion import TextDiffusion
from tether.generate.edit.attention_maps import blend, fuse_frames, inject, token_mask
from tether.models.tokenizer import lengths


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
        >>> from tether.generate import TextDiffusion, VideoEditor
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
        diffusion: TextDiffusion,
        *,
        fuse: Share = 0.5,
        inject_share: Share = 0.8,
        threshold: Share = 0.3,
        grow: Whole = 0,
        steps: Count = 25,
        blending: bool = True,
        beside: tuple[Beside, ...] = ("first", "previous"),
    ) -> None:
        """Choose how.

        Args:
            diffusion: trained on images with captions; no clips are needed.
            fuse: share of the frame before in a frame's maps.
            inject_share: share of the steps, noise first, in which maps are put in.
            threshold: of the map of the word, from 0 to 1 in each frame, above which the object is seen.
            grow: pixels by which its mask is dilated.
            steps: of inversion and of denoising.
            blending: whether what lies outside the mask is put back.
            beside: whose keys and values stand beside a frame's own in self-attention; none for frames on their own.
        """
        self.diffusion, self.fuse, self.inject_share = diffusion, fuse, inject_share
        self.threshold, self.grow, self.steps = threshold, grow, steps
        self.blending, self.beside = blending, tuple(beside)

    @torch.no_grad()
    def edit(
        self,
        frames: Float[Tensor, "f 3 h w"],
        source_prompt: str,
        edit_prompt: str,
        *,
        word: str,
        alignment: Mapping[int, int] | None = None,
        reference: Tensor | None = None,
    ) -> EditResult:
        """The clip with another object.

        Args:
            frames: in -1 to 1, of the diffusion's size.
            source_prompt: what the clip shows.
            edit_prompt: what it shall show.
            word: of the source prompt, that names what is replaced.
            alignment: for prompts of unequal length: the place of each shared token in the edit's to that in the
                source's, the beginning of the text being 0. None takes places where both have the same token.
            reference: (r, width) tokens of a reference image in the width of texts, which the edit also looks at, such
                as patches through a map that was trained with the diffusion.

        Raises:
            InputError: frames of another shape, one frame with ``fuse`` above 0, a word that the prompt has not,
                prompts of unequal length without ``alignment``, or reference tokens of another width.
        """
        count = len(frames)
        self.diffusion.check_images(frames, [source_prompt] * count)
        if self.fuse and count < 2:
            raise InputError(f"frames: expected at least 2 to fuse with fuse={self.fuse:g}, got {count}")
        places = self.places(source_prompt, word)
        keep = self.shared(source_prompt, edit_prompt, alignment)
        clip, levels = self._inverted(frames, source_prompt)
        masks = self._masks(clip, places, side=frames.shape[2])
        most = round(self.inject_share * self.steps)

        def replace(call: int, layer: str, found: Tensor) -> Tensor | None:
            if call >= most:
                return None
            source = fuse_frames(clip.maps[self.steps - 1 - call, layer], w=self.fuse)
            return inject(found, source, keep)

        def put_back(left: int, x: Tensor) -> Tensor | None:
            if not self.blending:
                return None
            return blend(x.flatten(2), levels[left].flatten(2), masks.flatten(1)).view_as(x)

        def read(texts: Sequence[str]) -> Features:
            return with_tokens(self.diffusion.read(texts), reference)

        with AttentionStore(self.diffusion.unet, record=False, replace=replace, beside=self.beside):
            made = self.diffusion.generate(
                [edit_prompt] * count, steps=self.steps, noise=levels[self.steps], read=read, on_step=put_back
            )
        return EditResult(made, masks)

    def _inverted(self, frames: Tensor, prompt: str) -> tuple[AttentionStore, dict[int, Tensor]]:
        """Maps of every call and the samples at every level, 0 being the clip itself."""
        levels = {0: frames}

        def note(left: int, x: Tensor) -> None:
            levels[self.steps - left] = x

        with AttentionStore(self.diffusion.unet, beside=self.beside) as store:
            self.diffusion.invert(frames, [prompt] * len(frames), steps=self.steps, on_step=note)
        return store, levels

    def _masks(self, clip: AttentionStore, places: Sequence[int], *, side: int) -> Bool[Tensor, "f h w"]:
        """Where a word is seen, by the mean over calls, layers and heads of its fused maps, enlarged to the image."""
        found: list[Tensor] = []
        for layer in clip.layers():
            maps = torch.stack([value for (_, one), value in clip.maps.items() if one == layer]).float().mean(0)
            shown = fuse_frames(maps, w=self.fuse)[..., list(places)].sum(-1).mean(1)
            grid = shown.view(len(shown), 1, round(shown.shape[1] ** 0.5), -1)
            found.append(F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False))
        mean = torch.stack(found).mean(0).flatten(2)[..., None]
        return token_mask(mean, 0, self.threshold, grow=self.grow).view(-1, side, side)

    def places(self, prompt: str, word: str) -> list[int]:
        """Places of a word's tokens in a prompt, the first time that it stands there.

        Raises:
            InputError: the prompt does not have it.
        """
        ids, empty, own = (self._ids(text) for text in (prompt, "", word))
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
        before, after = self._ids(source), self._ids(edit)
        if len(before) != len(after):
            raise InputError(
                f"alignment: expected one for prompts of unequal length, {len(before)} and {len(after)} tokens; "
                "got None"
            )
        return {place: place for place, (one, other) in enumerate(zip(before, after, strict=True)) if one == other}

    def _ids(self, text: str) -> list[int]:
        ids = self.diffusion.model.tokenizer([text], long_text="raise")
        return ids[0, : int(lengths(ids)[0])].tolist()


def with_tokens(texts: Features, more: Tensor | None) -> Features:
    """Token states with the same further ones behind each text's.

    Raises:
        InputError: tokens of another width.
    """
    assert texts.tokens is not None
    assert texts.mask is not None
    if more is None:
        return texts
    if more.ndim != 2 or more.shape[1] != texts.tokens.shape[2]:
        raise InputError(f"reference: expected (r, {texts.tokens.shape[2]}) tokens, got {tuple(more.shape)}")
    added = more.to(texts.tokens).expand(len(texts.tokens), -1, -1)
    mask = F.pad(texts.mask, (0, len(more)), value=True)
    return Features(texts.pooled, torch.cat([texts.tokens, added], dim=1), mask)

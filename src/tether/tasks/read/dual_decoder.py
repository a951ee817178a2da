"""Two decoders of words: one reads the image, the other corrects it with what a text tower makes of the guess."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Whole, checked
from tether.tasks.read.charset import EOS
from tether.tasks.read.orders import cloze_mask, permutation_masks
from tether.tasks.read.permuted_decoder import PermutedDecoder

TextMemory = Callable[[Int[Tensor, "b l"]], Float[Tensor, "b t d"]]
"""What a text tower makes of guessed words, given as the ids of a decoder's choice, 0 for the end."""


class DualLogits(NamedTuple):
    """What both branches say.

    Attributes:
        visual: (b, l, c) of the image alone.
        cross: (b, l, c) of the image and the guess, the answer.
    """

    visual: Float[Tensor, "b l c"]
    cross: Float[Tensor, "b l c"]


class DualDecoder(nn.Module):
    """Reads a word from an image, then reads it once more beside its own guess.

    The second branch's memory is the image's rows, through which it gives no gradient, and the text tower's of what the
    first branch chose; that choice has no gradient.

    Source: CLIP4STR (arXiv 2305.14014) and its released code, commit 7497c15.

    Example:
        >>> import torch
        >>> from tether.tasks.read import Charset, DualDecoder, PermutedDecoder, permutations
        >>> charset, image, text = Charset("abc"), torch.randn(2, 9, 16), torch.randn(2, 4, 16)
        >>> branches = [PermutedDecoder(16, heads=2, charset=charset, max_length=4) for _ in range(2)]
        >>> decoder = DualDecoder(visual=branches[0], cross=branches[1]).eval()
        >>> ids = charset.encode(["cab", "b"], longest=4)
        >>> bool(decoder.loss(ids, image, text_memory=lambda guess: text, orders=permutations(3)) > 0)
        True
        >>> decoder.read(image, text_memory=lambda guess: text, length=4).cross.shape
        torch.Size([2, 5, 4])
    """

    def __init__(self, *, visual: PermutedDecoder, cross: PermutedDecoder) -> None:
        """Take both branches.

        Raises:
            InputError: branches of other characters or another longest word.
        """
        super().__init__()
        if (visual.charset, visual.max_length) != (cross.charset, cross.max_length):
            raise InputError("cross: expected the charset and max_length of visual")
        self.visual, self.cross = visual, cross

    def loss(
        self,
        ids: Int[Tensor, "b l"],
        image_memory: Float[Tensor, "b n d"],
        *,
        text_memory: TextMemory,
        orders: Int[Tensor, "k l"],
    ) -> Float[Tensor, ""]:
        """Cross-entropy of both branches over all orders, given the true characters as context.

        Orders count by their targets; after two of them the end is none. It is the sum of two means, one a branch.

        Args:
            ids: of ``Charset.encode``.
            image_memory: tokens of the images.
            text_memory: tells of each order's guess.
            orders: of ``permutations`` for the longest word of the batch.

        Raises:
            InputError: orders of another length.
        """
        if orders.ndim != 2 or not len(orders) or orders.shape[1] != ids.shape[1]:
            raise InputError(f"orders: expected (k, {ids.shape[1]}) with k above 0, got {tuple(orders.shape)}")
        pad = self.visual.charset.pad
        context, targets = ids[:, :-1], ids[:, 1:]
        there = (context != pad) & (context != EOS)
        total, count = image_memory.new_zeros(()), 0
        for turn, order in enumerate(orders.to(ids.device)):
            if turn == 2:
                targets = torch.where(targets == EOS, pad, targets)
            seen = permutation_masks(order)
            masks = {"query_mask": seen.query, "content_mask": seen.content, "token_mask": there}
            visual = self.visual(context, image_memory, **masks)
            cross = self.cross(context, self._both(image_memory, visual, text_memory), **masks)
            for logits in (visual, cross):
                total = total + F.cross_entropy(
                    logits.flatten(0, 1), targets.flatten(), ignore_index=pad, reduction="sum"
                )
            count += int((targets != pad).sum())
        return total / count

    @checked
    @torch.no_grad()
    def read(
        self,
        image_memory: Float[Tensor, "b n d"],
        *,
        text_memory: TextMemory,
        refine: Whole = 1,
        length: Count | None = None,
    ) -> DualLogits:
        """Read greedily from left to right with each branch, then again with all other characters in view.

        The correcting branch sees the guess of the first one, and when refined that of the refined first one.

        Args:
            image_memory: tokens of the images.
            text_memory: tells of a guess.
            refine: how often all is read again.
            length: places to read, without the end's; None stops once every word has ended, at the longest at
                ``max_length``.

        Returns:
            Logits of ``length + 1`` places, or, with None and no refinement, of those until all words had ended.
        """
        steps = min(length or self.visual.max_length, self.visual.max_length) + 1
        visual = self._greedy(self.visual, image_memory, steps=steps, stop=length is None)
        both = self._both(image_memory, visual, text_memory)
        cross = self._greedy(self.cross, both, steps=visual.shape[1], stop=False)
        for _ in range(refine):
            visual = self._again(self.visual, image_memory, visual, steps=steps)
            both = self._both(image_memory, visual, text_memory)
            cross = self._again(self.cross, both, cross, steps=steps)
        return DualLogits(visual, cross)

    def _both(self, image_memory: Tensor, visual: Tensor, text_memory: TextMemory) -> Tensor:
        text = text_memory(visual.detach().argmax(-1))
        return torch.cat([image_memory.detach(), text.to(image_memory.dtype)], dim=1)

    @staticmethod
    def _greedy(decoder: PermutedDecoder, memory: Tensor, *, steps: int, stop: bool) -> Tensor:
        ids = torch.full((len(memory), 1), decoder.charset.bos, device=memory.device)
        earlier = torch.ones(steps, steps, dtype=torch.bool, device=memory.device).tril()
        found: list[Tensor] = []
        for step in range(steps):
            seen = earlier[: step + 1, : step + 1]
            found.append(decoder(ids, memory, places=slice(step, step + 1), content_mask=seen))
            ids = torch.cat([ids, found[-1].argmax(-1)], dim=1)
            if stop and bool((ids == EOS).any(1).all()):
                break
        return torch.cat(found, dim=1)

    @staticmethod
    def _again(decoder: PermutedDecoder, memory: Tensor, logits: Tensor, *, steps: int) -> Tensor:
        begin = torch.full((len(memory), 1), decoder.charset.bos, device=memory.device)
        ids = torch.cat([begin, logits[:, :-1].argmax(-1)], dim=1)
        seen = cloze_mask(steps, ids.shape[1], device=ids.device)
        # The released code hands the same mask to the context, which matters for several layers only.
        return decoder(
            ids,
            memory,
            places=slice(steps),
            query_mask=seen,
            content_mask=seen[: ids.shape[1]],
            token_mask=(ids == EOS).cumsum(1) == 0,
        )

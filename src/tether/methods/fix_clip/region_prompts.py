"""Learnt tokens of an image tower that read one region each, and pass it to the class token alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.encoder_wrapper import EncoderAround
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, checked
from tether.core.state_file import check_encoder, read_state, wide_array, write_state
from tether.core.types import Features
from tether.models.composed.cached import side_digest
from tether.models.embed_anything import Embeds
from tether.models.features.find import anatomy_of
from tether.models.features.parts import TokenStream, hiding
from tether.models.features.tower import TowerAnatomy

_FORMAT = "tether-region-prompts-1"


@checked
def regional_attention_mask(n_patches: Count, *, n_prompts: Count, n_class: Count = 1) -> Bool[Tensor, "s s"]:
    """Who may attend to whom, of class tokens, prompts and patches in this order (arXiv 2507.10095, section 3.3).

    Class tokens attend to all, patches to class tokens and patches, and prompt j to itself and to its own run of
    ``n_patches // n_prompts`` patches, row by row from the top left; what is left over belongs to none.

    Args:
        n_patches: of an image.
        n_prompts: at most as many.
        n_class: leading tokens that are no patches.

    Returns:
        True where a token (row) may attend to another (column).

    Raises:
        InputError: more prompts than patches.

    Example:
        >>> from tether.methods.fix_clip.region_prompts import regional_attention_mask
        >>> regional_attention_mask(4, n_prompts=2).int().tolist()[1:3]
        [[0, 1, 0, 1, 1, 0, 0], [0, 0, 1, 0, 0, 1, 1]]
    """
    if n_prompts > n_patches:
        raise InputError(f"n_prompts: expected at most the {n_patches} patches, got {n_prompts}")
    first = n_class + n_prompts
    seen = torch.ones(first + n_patches, first + n_patches, dtype=torch.bool)
    seen[n_class:, n_class:first] = False
    seen[n_class:first, :n_class] = False
    run = n_patches // n_prompts
    owner = torch.arange(n_patches).div(run, rounding_mode="floor")
    seen[n_class:first, n_class:first] = torch.eye(n_prompts, dtype=torch.bool)
    seen[n_class:first, first:] = owner == torch.arange(n_prompts)[:, None]
    return seen


@final
class RegionPromptEncoder(EncoderAround, Embeds):
    """An encoder whose image tower has regional prompts in every block; a ``core.protocols.DualEncoder``.

    Each block is given vectors of its own, and what it makes of them is dropped, so they reach the embedding through
    the class token alone. They stay at test time: without them the model gives other embeddings.

    Source: arXiv 2507.10095, section 3.3; their number is not published. The paper multiplies the scores by its mask,
    which would hide nothing; here what is hidden scores minus infinity.

    Attributes:
        vectors: (layers, count, width) the prompts.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.fix_clip.region_prompts import RegionPromptEncoder
        >>> reader = RegionPromptEncoder(create("tiny"), count=4)
        >>> reader.layer_states(torch.rand(2, 3, 32, 32)).shape  # the class token after each block
        torch.Size([2, 2, 64])
    """

    @checked
    def __init__(
        self,
        model: DualEncoder,
        *,
        count: Count = 4,
        std: NonNegative = 0.02,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the prompts.

        Args:
            model: any whose image tower can be looked into and has a class token and learned positions.
            count: prompts of a block, at most as many as patches.
            std: standard deviation of the drawn vectors.
            generator: of the draws, on the CPU; torch's own if None.

        Raises:
            InputError: more prompts than patches.
            UnsupportedModelError: a tower without a class token, or whose blocks turn or look at neighbours.
        """
        super().__init__(model)
        tower = self._tower()
        with torch.no_grad():
            stream = tower.embed(torch.zeros(1, 3, *model.image_spec.size, device=model.logit_scale.device))
        odd = stream.layout.grid is None or any(getattr(one.block, "needs_grid", False) for one in tower.blocks)
        turns = not hasattr(stream.layout.turn, "columns") and stream.layout.turn is not None
        if not tower.prefix or odd or turns:
            raise UnsupportedModelError(
                f"regional prompts: {tower.what} has no class token, or places that turn or neighbours in its blocks"
            )
        patches = math.prod(stream.layout.grid or ())
        mask = regional_attention_mask(patches, n_prompts=count, n_class=tower.prefix)
        self.register_buffer("mask", mask.to(stream.x.device), persistent=False)
        drawn = std * torch.randn(len(tower.blocks), count, tower.width, generator=generator)
        self.vectors = nn.Parameter(drawn.to(stream.x))
        self.settings = {"count": count}

    def behaviour(self) -> dict[str, Any]:
        """What decides its rows besides the model inside, for the digest."""
        return {"region_prompts": self.settings}

    def _tower(self) -> TowerAnatomy:
        return anatomy_of(self.inside, "image")

    def encode_image(self, image: Tensor, *, mask: Tensor | None = None) -> Features:
        """(b, 3, h, w) uint8 pixels or normalised floats; there is no mask."""
        if mask is not None:
            raise InputError("mask: regional prompts take none; expected None")
        stream = self._run(image)[-1]
        return Features(self._tower().read_out(stream), extra=stream.extra)

    def encode_text(self, text: Tensor, *, mask: Tensor | None = None) -> Features:
        """As the model inside does."""
        return self.inside.encode_text(text, mask=mask)

    def layer_states(self, image: Tensor) -> Float[Tensor, "l b w"]:
        """The class token after each block, before any norm."""
        return torch.stack([stream.layout.read(stream.x) for stream in self._run(image)])

    def _run(self, image: Tensor) -> list[TokenStream]:
        """The stream after each block, without the prompts."""
        tower = self._tower()
        stream, first = tower.embed(image), tower.prefix
        bias = hiding(self.get_buffer("mask"), stream.x.dtype)
        layout = replace(stream.layout, bias=bias, turn=None)
        found, last = [], first + self.vectors.shape[1]
        for block, vectors in zip(tower.blocks, self.vectors, strict=True):
            added = vectors.to(stream.x.dtype).expand(len(stream.x), -1, -1)
            x = torch.cat([stream.x[:, :first], added, stream.x[:, first:]], dim=1)
            x = x + block.attention(x, layout)
            x = x + block.feed_forward(x, layout)
            stream = stream.to(torch.cat([x[:, :first], x[:, last:]], dim=1))
            found.append(stream)
        return found

    def save(self, path: Path | str) -> None:
        """Write the prompts and the digest of the encoder's image side to one safetensors file, atomically."""
        settings = {"encoder": side_digest(self.model, "image"), "settings": self.settings}
        write_state(path, format=_FORMAT, settings=settings, arrays={"vectors": wide_array(self.vectors)})

    @classmethod
    def load(cls, path: Path | str, *, model: Any) -> RegionPromptEncoder:
        """Read what ``save`` wrote, with nothing unpickled; files of another kind or image side are an InputError."""
        written, arrays = read_state(path, what=cls.__name__, format=_FORMAT, arrays=frozenset({"vectors"}))
        digest = side_digest(model, "image")
        check_encoder(path, recorded=str(written.get("encoder")), encoder=None, digest=digest, name="an image tower")
        try:
            found = cls(model, **written["settings"])
            with torch.no_grad():
                found.vectors.copy_(torch.from_numpy(arrays["vectors"]))
        except (KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{path}: expected the settings and vectors of a {cls.__name__}: {error}") from error
        return found


def text_layer_states(model: DualEncoder, text: Tensor) -> Float[Tensor, "l b w"]:
    """The token that a text tower reads after each block, before any norm, for ``methods.fix_clip.loss.GroupHeads``."""
    tower = anatomy_of(model, "text")
    stream, found = tower.embed(text), []
    for index in range(len(tower.blocks)):
        stream = tower.step(stream, index)
        found.append(stream.layout.read(stream.x))
    return torch.stack(found)

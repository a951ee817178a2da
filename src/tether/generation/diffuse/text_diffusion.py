"""A small diffusion of pixels that is told the tokens of a text, on diffusers' network and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, MaxLen, MinLen
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError, MissingExtraError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Share, Whole, checked
from tether.core.types import Features
from tether.generation.diffuse.nag import CFG, NAG
from tether.generation.diffuse.nag_guidance import NAGGuidance
from tether.generation.diffuse.sampler import Objective, Sampler, Seen
from tether.generation.text_generator import TextGenerator
from tether.models.texts.text_state import text_tokens
from tether.models.tokenizer import lengths
from tether.models.train_mode import eval_mode

Betas = Literal["squaredcos_cap_v2", "scaled_linear", "linear"]
Reader = Callable[[Sequence[str]], Features]
"""Texts to ``Features`` with tokens and their mask."""
Width = Annotated[int, Ge(1), Le(8192)]
_GROUPS = 8


class TextDiffusion(Sampler, TextGenerator):
    """A UNet of diffusers that tells noise from image, conditioned on the tokens of an encoder's text tower.

    It learns in a minute or two on the processor at 8 to 32 px, and stands for a large diffusion model where a method
    is tried. What steers it works on diffusers' own pipelines, too.

    Source: arXiv 2112.10752 (Stable Diffusion's network and its conditioning), at a thousandth of the size.

    Attributes:
        unet: diffusers' ``UNet2DConditionModel``.
        abar: (timesteps,) share of the image's variance at each step, falling.

    Example:
        >>> import torch
        >>> from tether.generation.diffuse.text_diffusion import TextDiffusion
        >>> from tether.models import create
        >>> diffusion = TextDiffusion(create("tiny").eval(), size=8, channels=(8, 16))
        >>> diffusion.generate(["a cat"], steps=2, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([1, 3, 8, 8])
    """

    name = "diffusion"
    abar: Tensor

    @checked
    def __init__(
        self,
        model: DualEncoder,
        *,
        size: Annotated[int, Ge(1), Le(4096)] = 32,
        channels: Annotated[tuple[Width, ...], MinLen(1), MaxLen(16)] = (32, 64, 96),
        plain: Whole = 1,
        layers: Annotated[int, Ge(1), Le(64)] = 1,
        head_width: Count = 16,
        betas: Betas = "squaredcos_cap_v2",
        objective: Objective = "v_prediction",
        timesteps: Annotated[int, Ge(1), Le(100_000)] = 1000,
        drop: Share = 0.1,
    ) -> None:
        """Make the network, with weights from torch's generator.

        Args:
            model: any encoder of ``tether.load`` with a text tower that ``anatomy_of`` opens.
            size: side of its images; halved once a level after the first.
            channels: of each level, multiples of 8.
            plain: levels, from the largest, whose layers do not look at the text.
            layers: residual blocks of a level.
            head_width: of attention.
            betas: schedule of the noise, as diffusers names it.
            objective: what the network tells; ``v_prediction`` (arXiv 2202.00512) stands few steps.
            timesteps: of the training.
            drop: share of texts that training replaces with the empty one, for classifier-free guidance.

        Raises:
            MissingExtraError: diffusers is not installed.
            UnsupportedModelError: the text tower cannot be looked into, with a reason of ``models.refusals``.
            InputError: channels or a size that cannot be halved so often.
        """
        try:
            from diffusers import DDIMScheduler, UNet2DConditionModel
        except ImportError:
            raise MissingExtraError("diffusers", extra="generate") from None
        levels = len(channels)
        if any(width % _GROUPS for width in channels) or size % 2 ** (levels - 1) or plain > levels:
            raise InputError(
                f"channels, size, plain: expected multiples of {_GROUPS}, a side that can be halved {levels - 1} times "
                f"and at most {levels} plain levels, got {channels}, {size} and {plain}"
            )
        settings: dict[str, Any] = {"size": size, "channels": list(channels), "plain": plain, "layers": layers}
        settings |= {"head_width": head_width, "betas": betas, "objective": objective, "timesteps": timesteps}
        super().__init__(model, settings=settings | {"drop": drop})
        self.size, self.drop, self.objective = (size, size), drop, objective
        with torch.device(model.logit_scale.device):  # also where the network itself is made on another
            width = self.read([""]).tokens
        assert width is not None  # text_tokens gives them
        down = ["DownBlock2D"] * plain + ["CrossAttnDownBlock2D"] * (levels - plain)
        self.unet: Any = UNet2DConditionModel(
            sample_size=size,
            block_out_channels=tuple(channels),
            down_block_types=tuple(down),
            up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(down)),
            layers_per_block=layers,
            norm_num_groups=_GROUPS,
            cross_attention_dim=width.shape[-1],
            attention_head_dim=tuple(max(1, one // head_width) for one in channels),
            in_channels=3,
            out_channels=3,
        )
        scheduler = DDIMScheduler(num_train_timesteps=timesteps, beta_schedule=betas)
        self.register_buffer("abar", scheduler.alphas_cumprod, persistent=False)

    def read(self, texts: Sequence[str]) -> Features:
        """Tokens of texts with their mask, through the encoder at rest; texts past its context raise.

        Raises:
            InputError: no list of texts, or one past the context.
        """
        ids = self.model.tokenizer(self.check_texts(texts), long_text="raise").to(self.model.logit_scale.device)
        with torch.no_grad(), eval_mode(self.model):
            return text_tokens(self.model, ids)

    def ids(self, text: str) -> list[int]:
        """Ids of a text with those before and after it; past the context they are an InputError."""
        ids = self.model.tokenizer([text], long_text="raise")
        return ids[0, : int(lengths(ids)[0])].tolist()

    def to_samples(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """What is noised: the images themselves."""
        return images

    def to_images(self, samples: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Images of samples: these themselves."""
        return samples

    def loss(
        self,
        images: Float[Tensor, "b 3 h w"],
        texts: Sequence[str],
        *,
        generator: torch.Generator,
        read: Reader | None = None,
    ) -> Float[Tensor, ""]:
        """Mean squared error of what the network tells at one drawn time step for each image.

        Args:
            images: in -1 to 1.
            texts: one for each.
            generator: of time steps, noise and texts that are dropped, on the CPU.
            read: reads texts in the place of ``self.read``, with gradient, such as one that knows new words; no text
                is dropped then.
        """
        self.check_images(images, self.check_texts(texts))
        shape, device = images.shape, images.device
        t = torch.randint(len(self.abar), shape[:1], generator=generator).to(device)
        noise = torch.randn(shape, generator=generator).to(images)
        dropped = (torch.rand(shape[0], generator=generator) < self.drop).tolist()
        if read is None:
            found = self.read(["" if gone else text for text, gone in zip(texts, dropped, strict=True)])
        else:
            found = read(texts)
        share = self.abar.to(device)[t].view(-1, 1, 1, 1)
        keep, add = share.sqrt(), (1 - share).sqrt()
        x = keep * images + add * noise
        said = self.unet(x, t, encoder_hidden_states=found.tokens, encoder_attention_mask=found.mask).sample
        return (said - (noise if self.objective == "epsilon" else keep * noise - add * images)).square().mean()

    @torch.no_grad()
    @checked
    def generate(
        self,
        texts: Sequence[str],
        *,
        generator: torch.Generator | None = None,
        steps: Count = 25,
        negative: str | Sequence[str] | None = None,
        guidance: NAG | CFG | None = None,
        noise: Float[Tensor, "b 3 h w"] | None = None,
        read: Reader | None = None,
        on_step: Seen | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Images of texts, by DDIM.

        Args:
            texts: one for each image.
            generator: of the noise, on the CPU.
            steps: of denoising; it divides ``timesteps``.
            negative: what they shall not show, one text for all or one each; None leaves it to ``guidance``.
            guidance: how it leads away from it; None for ``NAG()`` with a negative, and for none without. ``CFG``
                without a negative leads away from the empty text.
            noise: to begin with, in the place of a draw.
            read: as for ``loss``.
            on_step: looks at samples after each step and may replace them.

        Returns:
            Images in -1 to 1; what the network made beyond is cut off.

        Raises:
            InputError: no texts, an empty negative, another number of them, ``NAG`` without one, noise of another
                shape or nothing to draw it with.
        """
        found = (read or self.read)(self.check_texts(texts))
        shape = (len(texts), 3, *self.size)
        if noise is None:
            if generator is None:
                raise InputError("generator: expected one, or noise, for nothing is drawn from the global one")
            noise = torch.randn(shape, generator=generator)
        if tuple(noise.shape) != shape:
            raise InputError(f"noise: expected {shape}, one for each text, got {tuple(noise.shape)}")
        other = self._negative(negative, guidance, count=len(texts))
        x, guidance = noise.to(next(self.parameters()).device), guidance or NAG()
        if other is None or guidance.scale == 1:
            return self.denoise(x, found, steps=steps, on_step=on_step).clamp(-1, 1)
        if isinstance(guidance, CFG):
            both = joined(other, found)
            made = self.denoise(x, both, steps=steps, on_step=on_step, scale=guidance.scale)
        else:
            assert other.tokens is not None  # read gives them
            with NAGGuidance(self.unet, other.tokens, guidance, mask=other.mask):
                made = self.denoise(x, found, steps=steps, on_step=on_step)
        return made.clamp(-1, 1)

    def _negative(
        self, negative: str | Sequence[str] | None, guidance: NAG | CFG | None, *, count: int
    ) -> Features | None:
        """Tokens of the negative texts (one row for all if NAG got one text), or None without guidance."""
        if negative is None:
            if isinstance(guidance, NAG):
                raise InputError("negative: expected a text, which NAG leads away from, got None")
            return None if guidance is None else self.read([""] * count)
        said = [negative] if isinstance(negative, str) else list(negative)
        if not said or not all(one.strip() for one in said) or len(said) not in (1, count):
            raise InputError(f"negative: expected one text for all or one each of {count}, got {negative!r:.200}")
        return self.read(said * count if isinstance(guidance, CFG) and len(said) == 1 else said)

    @torch.no_grad()
    @checked
    def invert(
        self,
        images: Float[Tensor, "b 3 h w"],
        texts: Sequence[str],
        *,
        steps: Count = 25,
        read: Reader | None = None,
        on_step: Seen | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """The noise from which ``generate`` with the same texts and steps makes these images again, nearly.

        Each step asks for the noise at the level that it leads to, as diffusers' ``DDIMInverseScheduler``.

        Args:
            images: in -1 to 1.
            texts: one for each.
            steps: as of ``generate``.
            read: as for ``loss``.
            on_step: looks at samples after each step; the steps that are left come first.
        """
        self.check_images(images, self.check_texts(texts))
        return self.inverted(images, (read or self.read)(texts), steps=steps, on_step=on_step)


def joined(*parts: Features) -> Features:
    """Batches of tokens as one, padded to the longest."""
    tokens = [one.tokens for one in parts if one.tokens is not None]
    masks = [one.mask for one in parts if one.mask is not None]
    length = max(one.shape[1] for one in tokens)
    return Features(
        torch.cat([one.pooled for one in parts]),
        torch.cat([F.pad(one, (0, 0, 0, length - one.shape[1])) for one in tokens]),
        torch.cat([F.pad(one, (0, length - one.shape[1])) for one in masks]),
    )

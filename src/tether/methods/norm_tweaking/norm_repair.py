"""Norm tweaking of whole models whose weights ``Octav`` rounds: both towers of an encoder, or a language model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast, final

import torch
import torch.nn.functional as F
from annotated_types import Ge, MinLen
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.compression.quantise.few_bits import RoundedRows
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, PositiveRate, checked
from tether.core.types import Batch
from tether.methods.norm_tweaking.norm_tweak import Call, NormTweaker, TweakedLayer
from tether.models.encoders.causal_lm import CausalLM
from tether.models.encoders.tower_parts import SIDES, Side, side_parts
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.find import anatomy_of
from tether.models.features.lm_blocks import entering, repeated_blocks, stack_of
from tether.models.features.parametrization import exchanged
from tether.models.features.parts import TokenStream
from tether.models.features.weights import Weights, norms_within
from tether.models.towers.clip import Clip

Logits = Callable[[Tensor], Tensor]


@final
class NormTweak:
    """Mends a model after ``Octav`` by its norms, layer by layer, on images and texts or on texts of its own.

    Nothing but weights and biases of norms moves, so the model has as many bits as before. It comes between
    ``Octav.apply_`` and its ``merge_``.

    Attributes:
        calibrated: that it looks at data.
        layers: what became of every layer, by tower.
        said: the same in sentences.

    Source: arXiv 2309.02784; see ``NormTweaker``.

    Example:
        >>> import torch
        >>> from tether.methods.norm_tweaking import NormTweak
        >>> from tether.compression.quantise import Octav
        >>> from tether.core.types import Batch
        >>> from tether.models import create
        >>> model = create("tiny").eval()
        >>> batch = Batch(torch.rand(8, 3, 32, 32), model.tokenizer(["a red ball", "a dog"] * 4))
        >>> rounding, repair = Octav(bits=2), NormTweak(lr=1e-3)
        >>> _ = rounding.merge_(repair.apply_(rounding.apply_(model), [batch]))
        >>> len(repair.layers["image"]), all(one.after < one.before for one in repair.layers["image"])
        (2, True)
    """

    calibrated = True

    @checked
    def __init__(
        self,
        *,
        lr: PositiveRate = 1e-3,
        lr_scale: NonNegative = 1.0,
        iters: Count = 1,
        towers: Annotated[Sequence[Side], MinLen(1)] = SIDES,
        resume: str | None = None,
    ) -> None:
        """Take the settings.

        Args:
            lr: of the first layer, see ``NormTweaker``.
            lr_scale: how much faster the last layers learn.
            iters: passes over the calibration data.
            towers: of an encoder; those that cannot be looked into are left out, and ``said`` names them.
            resume: a folder for what an interrupted call goes on from.
        """
        self.lr, self.lr_scale, self.iters, self.towers = lr, lr_scale, iters, tuple(towers)
        self.resume = None if resume is None else Path(resume)
        self.layers: dict[str, list[TweakedLayer]] = {}
        self.said: list[str] = []

    def apply_(self, model: nn.Module, calibration: Iterable[Batch] = ()) -> nn.Module:
        """Tweak the norms of an encoder's towers.

        Raises:
            InputError: nothing is rounded, no calibration, a text of one token, or a block without a norm.
            UnsupportedModelError: no tower can be looked into.
        """
        if not isinstance(model, Clip | WrappedEncoder):
            raise UnsupportedModelError(f"{type(model).__name__}: expected an encoder of tether.load; see tweak_")
        batches = list(calibration)
        if not batches:
            raise InputError("calibration: expected images and texts, got none")
        refused: UnsupportedModelError | None = None
        for side in self.towers:
            try:
                self._tower(cast(DualEncoder, model), side, batches)
            except UnsupportedModelError as error:
                refused = error
                self.said.append(f"norm_tweak: the {side} tower is left as it is: {error}")
        if not self.layers and refused is not None:
            raise refused
        return model

    def merge_(self, model: nn.Module) -> nn.Module:
        """Nothing is left to fold: the norms' own weights have moved."""
        return model

    @torch.no_grad()
    def tweak_(self, model: nn.Module, sequences: Sequence[Int[Tensor, " l"]]) -> nn.Module:
        """Tweak the norms of a language model.

        Args:
            model: one that ``models.features.lm_blocks.stack_of`` knows, called with ids (1, l), or a ``CausalLM``.
            sequences: token ids without padding, such as those of ``own_texts``.

        Raises:
            InputError: nothing is rounded, no sequence or one of a single token, or a block without a norm.
        """
        blocks = stack_of(model)
        inner: Any = model.model if isinstance(model, CausalLM) else model
        norms = {id(block.module): block.norms for block in blocks}
        self._called("text", model, inner, [block.module for block in blocks], [ids[None] for ids in sequences], norms)
        return model

    def _called(
        self,
        name: str,
        model: nn.Module,
        call: Callable[[Tensor], object],
        blocks: Sequence[nn.Module],
        inputs: Sequence[Tensor],
        norms: Mapping[int, Mapping[str, Weights]],
    ) -> None:
        """Blocks as the model itself calls them, one input at a time."""
        with _unrounded(model) as rows, torch.no_grad():
            seen = [entering(call, blocks, one) for one in inputs]
        if any(x.ndim != 3 for x, _ in seen):
            raise UnsupportedModelError("its blocks take maps of places; expected tokens")
        where = {id(block): place for place, block in enumerate(blocks)}

        def run(block: nn.Module, x: Tensor, place: int) -> Tensor:
            out = block(x, **seen[place][1][where[id(block)]])
            return out[0] if isinstance(out, tuple) else out

        self._fit(name, blocks, [x for x, _ in seen], run, norms, rows)

    def _tower(self, model: DualEncoder, side: Side, batches: Sequence[Batch]) -> None:
        try:
            tower = anatomy_of(model, side)
        except UnsupportedModelError as unknown:
            self._unknown_tower(model, side, batches, unknown)
            return
        streams, masks = list[TokenStream](), list[Tensor | None]()
        with _unrounded(cast(nn.Module, model)) as rows, torch.no_grad():
            for batch in batches:
                for one in (batch.image if side == "image" else batch.text).split(1):
                    given = one.to(model.logit_scale.device)
                    count = max(1, int((given != 0).sum()))  # ids are zero after the end
                    stream = tower.embed(given if side == "image" else given[:, :count])
                    streams.append(stream)
                    places = torch.arange(stream.x.shape[1], device=given.device)
                    masks.append(None if side == "image" else places < count)
        modules = [cast(nn.Module, block.block) for block in tower.blocks]
        where = {id(module): place for place, module in enumerate(modules)}
        norms = {id(module): block.norms() for module, block in zip(modules, tower.blocks, strict=True)}

        def run(block: nn.Module, x: Tensor, place: int) -> Tensor:
            return tower.step(streams[place].to(x), where[id(block)]).x

        self._fit(side, modules, [stream.x for stream in streams], run, norms, rows, masks)

    def _unknown_tower(
        self, model: DualEncoder, side: Side, batches: Sequence[Batch], unknown: UnsupportedModelError
    ) -> None:
        """A tower that the anatomy refuses, such as BERT's: repeated blocks, as the model calls them."""
        parts = side_parts(cast(Clip | WrappedEncoder, model), side)
        given = [one for batch in batches for one in (batch.image if side == "image" else batch.text).split(1)]
        if side == "text":
            given = [ids[:, : max(1, int((ids != 0).sum()))] for ids in given]  # ids are zero after the end
        try:
            blocks = repeated_blocks(part for part in parts.values() if isinstance(part, nn.Module))
            norms = {id(block): norms_within(block, names={}) for block in blocks}
            call = model.encode_image if side == "image" else model.encode_text
            inputs = [one.to(model.logit_scale.device) for one in given]
            self._called(side, cast(nn.Module, model), call, blocks, inputs, norms)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{unknown}; {error}") from None

    def _fit(
        self,
        name: str,
        modules: Sequence[nn.Module],
        states: Sequence[Tensor],
        run: Call,
        norms: Mapping[int, Mapping[str, Weights]],
        rows: Sequence[RoundedRows],
        masks: Sequence[Tensor | None] | None = None,
    ) -> None:
        own = [{id(part) for part in module.modules()} for module in modules]
        if not any(id(one) in some for one in rows for some in own):
            raise InputError(f"no weight of the {name} tower is rounded; expected the edit octav before")

        def parameters(block: nn.Module) -> list[nn.Parameter]:
            held = [one for both in norms[id(block)].values() for one in (both.weight, both.bias) if one is not None]
            return [one.module.get_parameter(one.name) for one in held]

        def quantise(block: nn.Module) -> None:
            for part in block.modules():
                if isinstance(part, RoundedRows):
                    part.active = True

        tweaker = NormTweaker(quantise, lr=self.lr, lr_scale=self.lr_scale, iters=self.iters)
        file = None if self.resume is None else self.resume / f"{name}.safetensors"
        with _Unrounded(rows):
            found = tweaker.fit(modules, states, call=run, masks=masks, resume=file, norms=parameters)
        self.layers[name] = found
        before, after = (sum(getattr(one, when) for one in found) for when in ("before", "after"))
        self.said.append(
            f"norm_tweak: {name}: over {len(found)} layers and {len(states)} sequences the distance of means and "
            f"variances is {before:.4g} before and {after:.4g} after"
        )


class _Unrounded:
    """Rounding off inside, and on again after."""

    def __init__(self, rows: Sequence[RoundedRows]) -> None:
        self.rows = rows

    def __enter__(self) -> Sequence[RoundedRows]:
        for one in self.rows:
            one.active = False
        return self.rows

    def __exit__(self, *error: object) -> None:
        for one in self.rows:
            one.active = True


def _unrounded(model: nn.Module) -> _Unrounded:
    rows = [one for one in exchanged(model).values() if isinstance(one, RoundedRows)]
    if not rows:
        raise InputError("no weight is rounded; expected the edit octav before")
    return _Unrounded(rows)


@checked
@torch.no_grad()
def own_texts(
    logits: Logits,
    first: Int[Tensor, " n"],
    *,
    length: Annotated[int, Ge(2)],
    greedy: Count = 4,
    generator: torch.Generator,
) -> Int[Tensor, "n l"]:
    """Calibration texts that a language model writes itself.

    Args:
        logits: ids (n, l) to those of the next token (n, l, c).
        first: first tokens, drawn by the caller: the paper takes those of the training text's main languages.
        length: tokens of a text.
        greedy: tokens after the first that are the likeliest; the others are sampled.
        generator: of the samples.

    Source: arXiv 2309.02784, section 3.3, after LLM-QAT.
    """
    ids = first[:, None]
    for place in range(1, length):
        scores: Float[Tensor, "n c"] = logits(ids)[:, -1]
        if place <= greedy:
            new = scores.argmax(-1, keepdim=True)
        else:
            new = torch.multinomial(F.softmax(scores.float(), -1), 1, generator=generator)
        ids = torch.cat([ids, new], 1)
    return ids

"""Attention that weights alone say is weak, and a model without it (Gate-Norm)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, cast, final

import torch
from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Inner, checked
from tether.core.types import Batch
from tether.models.encoders.tower_parts import SIDES, Side
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.find import anatomy_of
from tether.models.features.lm_blocks import stack_of
from tether.models.features.weights import Weights
from tether.models.towers.attention_free import ATTENTION, NoAttention, drop_attention_, without_attention
from tether.models.towers.blocks.block import TransformerBlock
from tether.models.towers.clip import Clip

_QK_NORMS = ("q_norm", "k_norm", "ln_q", "ln_k", "norm_q", "norm_k", "q_layernorm", "k_layernorm", "qk_norm")
_Block = tuple[nn.Module, Mapping[str, Weights], Mapping[str, Weights], int]


@torch.no_grad()
def gate_norm(
    q: Float[Tensor, "hd w"], k: Float[Tensor, "kd w"], *, heads: int, per_head: bool = False
) -> Float[Tensor, ""]:
    """How strongly queries and keys of a layer are coupled: the Frobenius norm of ``Wq' Wk``, never built.

    Args:
        q: weights of the queries of all heads, rows as in ``nn.Linear``.
        k: those of the keys; fewer heads where queries share them.
        heads: of the queries.
        per_head: the root of the sum of each head's own squared norm, without what no attention ever multiplies: the
            queries of one head and the keys of another.

    Raises:
        InputError: widths or heads that do not fit, or weights that are not finite.

    Source: arXiv 2512.20636, section 3; whether heads are kept apart is not said there.
    """
    if q.ndim != 2 or k.ndim != 2 or q.shape[1] != k.shape[1] or len(q) % heads or len(k) % (len(q) // heads):
        raise InputError(f"k: expected heads like those of q, {tuple(q.shape)} in {heads}, got {tuple(k.shape)}")
    queries = q.detach().double().unflatten(0, (heads, -1))
    keys = k.detach().double().unflatten(0, (-1, queries.shape[1]))
    if heads % len(keys):
        raise InputError(f"k: expected a number of heads that divides {heads}, got {len(keys)}")
    if not bool(queries.isfinite().all() and keys.isfinite().all()):
        raise InputError("q, k: hold weights that are NaN or infinite; expected finite ones")
    keys = keys.repeat_interleave(heads // len(keys), dim=0)
    if not per_head:
        queries, keys = queries.reshape(1, len(q), -1), keys.reshape(1, len(q), -1)
    return ((queries @ queries.mT) * (keys @ keys.mT)).sum().clamp(min=0).sqrt()


@checked
def gate_norm_scores(
    model: nn.Module, per_head: bool = False, fold_norm: bool = False, *, towers: Sequence[Side] = SIDES
) -> dict[str, float]:
    """The coupling of each attention, by the name of its block: no data, no forward pass.

    Values and outputs do not count, so a layer of strong coupling that adds nothing has a high score. Biases, turning
    by position and the scale of scores are not looked at.

    Args:
        model: an encoder of ``tether.load``, any library's, or a model that ``models.features.lm_blocks.stack_of``
            knows.
        per_head: see ``gate_norm``.
        fold_norm: multiply the columns by the weight of the norm before attention, which hides a scale of theirs.
        towers: of an encoder.

    Returns:
        Scores of blocks that have attention, such as ``image.blocks.0``, in order.

    Raises:
        UnsupportedModelError: blocks that are not known, without queries and keys, or with norms of queries and keys,
            behind which the scale of the weights means nothing.

    Source: arXiv 2512.20636.

    Example:
        >>> from tether.methods.gate_norm import gate_norm_scores
        >>> from tether.models import create
        >>> list(gate_norm_scores(create("tiny", seed=0)))
        ['image.blocks.0', 'image.blocks.1', 'text.blocks.0', 'text.blocks.1']
    """
    found = dict[str, float]()
    for name, (module, linears, norms, heads) in _blocks(model, towers).items():
        if "q" not in linears or "k" not in linears:
            continue
        inside = [one for one, part in module.named_modules() if _is_norm(part) and one.split(".")[-1] in _QK_NORMS]
        if inside:
            raise UnsupportedModelError(
                f"gate_norm: {name}: queries or keys are normed ({inside[0]}), so the scale of their weights says "
                "nothing; expected attention without such norms"
            )
        q, k = (linears[part].weight.read() for part in "qk")
        if fold_norm and "norm1" in norms:
            before = norms["norm1"].weight.read()
            q, k = q * before, k * before
        try:
            found[name] = float(gate_norm(q, k, heads=heads, per_head=per_head))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    if not found:
        raise UnsupportedModelError(f"gate_norm: {type(model).__name__}: no block has queries and keys")
    return found


@checked
def prune_attention(
    model: nn.Module,
    n: Count | None = None,
    fraction: Inner | None = None,
    scores: Mapping[str, float] | None = None,
    *,
    towers: Sequence[Side] = SIDES,
) -> list[str]:
    """Leave out the attention of the blocks with the lowest scores, in place: ``x + attention(norm(x))`` becomes x.

    Weights and cost of what is left out are gone; feed-forward nets stay. One of Tether's own models says so in its
    description (``attention: none``), so it is saved and loaded as it is. A language model of transformers is changed
    in memory; generation with a cache needs the attention of its first layer.

    Args:
        model: one of Tether's own, or one that ``models.features.lm_blocks.stack_of`` knows.
        n: how many blocks of each tower.
        fraction: the same as a share of a tower's blocks, rounded down.
        scores: by name as ``gate_norm_scores`` gives them, which is the default; equal ones in order.
        towers: of an encoder.

    Returns:
        Names of the blocks, weakest first.

    Raises:
        InputError: neither or both of n and fraction, as many as there are or none, or scores that are NaN or of other
            blocks; the model is then as it was.
        UnsupportedModelError: an encoder of another library, which cannot say that a block has no attention; or no
            scores.
    """
    if (n is None) == (fraction is None):
        raise InputError("n, fraction: expected one of both")
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise InputError("weights are rounded or exchanged already; leave attention out first, and round then")
    if isinstance(model, WrappedEncoder):
        raise UnsupportedModelError(
            f"gate_norm: {type(model).__name__}: the library's description cannot say that a block has no attention; "
            "expected one of Tether's own models"
        )
    known = gate_norm_scores(model, towers=towers) if scores is None else dict(scores)
    there = [name for name, (_, linears, _, _) in _blocks(model, towers).items() if "q" in linears]
    if unknown := [name for name in known if name not in there]:
        raise InputError(f"scores: no block {unknown[0]!r} with attention; there are {', '.join(there)}")
    if bad := [name for name, score in known.items() if math.isnan(score)]:
        raise InputError(f"scores: {bad[0]}: expected a number, got NaN")
    chosen = list[str]()
    for tower in dict.fromkeys(name.rpartition("blocks.")[0] for name in known):
        inside = sorted((name for name in known if name.rpartition("blocks.")[0] == tower), key=known.__getitem__)
        count = n if n is not None else int(cast(float, fraction) * len(inside))
        if not 0 < count < len(inside):
            share = "" if n is not None else f" (fraction {fraction} of them, rounded down)"
            raise InputError(
                f"n, fraction: expected 1 to {len(inside) - 1} of {len(inside)} blocks, got {count}{share}"
            )
        chosen += inside[:count]
    if isinstance(model, Clip):
        made = model
        for side in SIDES:
            blocks = [int(name.rpartition(".")[2]) for name in chosen if name.startswith(f"{side}.")]
            made = without_attention(made, side=side, blocks=blocks) if blocks else made
        model.visual, model.text, model.config = made.visual, made.text, made.config
        return chosen
    every = stack_of(model)
    for name in chosen:
        block = every[int(name.rpartition(".")[2])]
        if isinstance(block.module, TransformerBlock):
            drop_attention_(block.module)
        else:
            block.module.set_submodule(cast(str, block.attention), NoAttention())
    return chosen


@final
class GateNorm:
    """Leaves out the attention of the blocks of each tower whose queries and keys are coupled most weakly.

    Nothing is trained and no data is looked at. Choosing the first block is usually a disaster; ``said`` names it then.

    Attributes:
        removed: names of the blocks, weakest first.
        said: the same in sentences.

    Source: arXiv 2512.20636; see ``prune_attention``.

    Example:
        >>> from tether.methods.gate_norm import GateNorm
        >>> from tether.models import create
        >>> model = create("tiny", seed=0)
        >>> edit = GateNorm(n=1, towers=["image"])
        >>> _ = edit.apply_(model)
        >>> len(edit.removed), len(model.config.vision.without_attention)
        (1, 1)
    """

    @checked
    def __init__(
        self,
        *,
        n: Count | None = None,
        fraction: Inner | None = None,
        per_head: bool = False,
        fold_norm: bool = False,
        keep: bool = False,
        towers: Annotated[Sequence[Side], MinLen(1)] = SIDES,
    ) -> None:
        """Take the settings.

        Args:
            n: blocks of each tower; one if ``fraction`` is None, too.
            fraction: of each tower's blocks.
            per_head: see ``gate_norm``.
            fold_norm: see ``gate_norm_scores``.
            keep: hold what is left out in memory, for ``restore``.
            towers: of an encoder.

        Raises:
            InputError: both n and fraction.
        """
        if n is not None and fraction is not None:
            raise InputError("n, fraction: expected one of both")
        self.n, self.fraction = (1 if fraction is None and n is None else n), fraction
        self.per_head, self.fold_norm, self.keep, self.towers = per_head, fold_norm, keep, tuple(towers)
        self._kept: Callable[[nn.Module], None] | None = None
        self.removed: list[str] = []
        self.said: list[str] = []

    def apply_(self, model: nn.Module, calibration: Iterable[Batch] = ()) -> nn.Module:
        """Leave them out; nothing is calibrated. Errors as ``prune_attention``."""
        del calibration
        if self.removed:
            raise InputError(f"{type(model).__name__}: attention is left out already: {', '.join(self.removed)}")
        if isinstance(model, WrappedEncoder):
            prune_attention(model, n=1)  # refuses it
        scores = gate_norm_scores(model, per_head=self.per_head, fold_norm=self.fold_norm, towers=self.towers)
        kept = _kept(model) if self.keep else None
        self.removed = prune_attention(model, n=self.n, fraction=self.fraction, scores=scores, towers=self.towers)
        self._kept = kept
        told = ", ".join(f"{name} ({scores[name]:.3g})" for name in self.removed)
        self.said = [f"gate_norm: no attention in {told}"]
        if first := [name for name in self.removed if name.endswith("blocks.0")]:
            self.said.append(f"gate_norm: {first[0]} is a first block, whose attention is usually needed; compare")
        return model

    def restore(self, model: nn.Module) -> nn.Module:
        """Put the attention back that ``apply_`` left out, with its weights of then; all else stays as it is now.

        Raises:
            InputError: nothing was left out, or it was not kept.
        """
        if self._kept is None:
            raise InputError("restore: nothing was kept; expected keep=True and apply_ before")
        self._kept(model)
        self._kept, self.removed, self.said = None, [], []
        return model

    def merge_(self, model: nn.Module) -> nn.Module:
        """What is left out is gone already.

        Raises:
            InputError: nothing was left out.
        """
        if not self.removed:
            raise InputError(f"{type(model).__name__} has all of its attention; apply_ comes first")
        return model


def _blocks(model: nn.Module, towers: Sequence[Side]) -> dict[str, _Block]:
    """Module, linear maps, norms and query heads of every block by name."""
    if not isinstance(model, Clip | WrappedEncoder):
        return {
            f"blocks.{index}": (block.module, block.linears, block.norms, block.heads)
            for index, block in enumerate(stack_of(model))
        }
    found = dict[str, _Block]()
    for side in towers:
        for index, block in enumerate(anatomy_of(cast(DualEncoder, model), side).blocks):
            found[f"{side}.blocks.{index}"] = (block.block, block.linears(), block.norms(), block.heads)
    return found


def _kept(model: nn.Module) -> Callable[[nn.Module], None]:
    """What puts attention back into the model; it holds the weights, which are not copied."""
    if isinstance(model, Clip):
        config, own = model.config, model.state_dict()
        learning = {name: value.requires_grad for name, value in model.named_parameters()}

        def rebuild(pruned: nn.Module) -> None:
            given = cast(Clip, pruned)
            made = Clip(config, tokenizer=given.tokenizer).to(given.log_logit_scale).train(given.training)
            made.load_state_dict({**own, **given.state_dict()})
            for name, value in made.named_parameters():
                value.requires_grad_(learning[name])
            given.visual, given.text, given.config = made.visual, made.text, made.config

        return rebuild
    held = list[tuple[nn.Module, dict[str, object]]]()
    for block in stack_of(model):
        names = ATTENTION if block.attention is None else (block.attention,)
        held.append(
            (block.module, {name: getattr(block.module, name) for name in names if hasattr(block.module, name)})
        )

    def put_back(_: nn.Module) -> None:
        for module, parts in held:
            for name, value in parts.items():
                setattr(module, name, value)

    return put_back


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()

"""The options of the one transformer block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tether.core.errors import InputError
from tether.core.ranges import PositiveSingle, Single, Whole, checked
from tether.models.towers.blocks.attention import ATTENTION
from tether.models.towers.blocks.layers import ACTIVATIONS, NORMS, pick
from tether.models.towers.blocks.rope import ROPE

Place = Literal["pre", "out", "post"]


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class BlockConfig:
    """How a block is built; the defaults are CLIP's own.

    Attributes:
        activation: a name in ``ACTIVATIONS``.
        norm: a name in ``NORMS``.
        norm_eps: added to the variance.
        attn_norm: where attention is normalised: ``pre`` its input, ``out`` its output, ``post`` the sum with the skip.
        ffn_norm: the same for the feed-forward net.
        qkv_norm: letters of what is normalised per head: ``q``, ``k``, ``v``, ``c`` (the head's output).
        ffn_mid_norm: a norm after the activation (NormFormer, arXiv 2110.09456).
        head_scale: one learned factor for each head, on its output (``heads``) or on its share of the channels after
            the output projection (``after_proj``).
        residual_scale: a learned factor for each channel of the feed-forward net's skip.
        attention: a name in ``ATTENTION``, or ``none``: the stream goes past, and no option of attention counts but a
            norm of the sum (Gate-Norm, arXiv 2512.20636).
        rope: a name in ``ROPE``.
        rope_theta: base of the rotary angles.
        kv_heads: number of key and value heads; 0 means as many as query heads.
        bias: whether the linear layers have one.
        out_gate: attention's output times the silu of a linear map of its input (NaLaFormer, arXiv 2506.21137).
        ctx_norm: a norm over all heads' outputs together, before that gate.
        ctx_norm_eps: added to its variance.
        lepe: side of a depthwise convolution of the values, added to attention's output; 0 means none. Like everything
            below that looks at neighbours, it needs an image's grid.
        position_conv: side of a depthwise convolution added to the stream before each sublayer; 0 means none.
        ffn_conv: side of one added after the activation; 0 means none.
        layer_scale: start of a learned factor for each channel of both sublayers' outputs; None means no factor.
        gated_key: what a token that skips a gated block is for the others: ``hidden`` (arXiv 2506.21103, section 3) or
            ``seen``, which is what the paper's released code comes to.
    """

    activation: str = "gelu"
    norm: str = "layer"
    norm_eps: PositiveSingle = 1e-5
    attn_norm: tuple[Place, ...] = ("pre",)
    ffn_norm: tuple[Place, ...] = ("pre",)
    qkv_norm: str = ""
    ffn_mid_norm: bool = False
    head_scale: Literal["none", "heads", "after_proj"] = "none"
    residual_scale: bool = False
    attention: str = "softmax"
    rope: str = "none"
    rope_theta: PositiveSingle = 10_000.0
    kv_heads: Whole = 0
    bias: bool = True
    out_gate: bool = False
    ctx_norm: bool = False
    ctx_norm_eps: PositiveSingle = 1e-5
    lepe: Whole = 0
    position_conv: Whole = 0
    ffn_conv: Whole = 0
    layer_scale: Single | None = None
    gated_key: Literal["hidden", "seen"] = "hidden"

    def __post_init__(self) -> None:
        """Refuse unknown words and placements."""
        for option in ("attn_norm", "ffn_norm"):
            positions = tuple(getattr(self, option))
            if len(set(positions)) < len(positions):
                raise InputError(f"{option}: expected each position once, got {', '.join(positions)}")
            object.__setattr__(self, option, positions)
        letters = self.qkv_norm
        if not isinstance(letters, str) or not set(letters) <= set("qkvc") or len(set(letters)) < len(letters):
            raise InputError(f"qkv_norm: expected letters of 'qkvc' once each, got {letters!r}")
        pick(self.activation, ACTIVATIONS, option="activation")
        pick(self.norm, NORMS, option="norm")
        core = pick(self.attention, {**ATTENTION, "none": None}, option="attention")
        pick(self.rope, ROPE, option="rope")
        if core is None:
            off = {"attn_norm": tuple(where for where in self.attn_norm if where == "post"), "qkv_norm": ""}
            off |= {
                "head_scale": "none",
                "rope": "none",
                "kv_heads": 0,
                "out_gate": False,
                "ctx_norm": False,
                "lepe": 0,
            }
            for option, value in off.items():
                object.__setattr__(self, option, value)
        elif core.reads_length and "q" in self.qkv_norm:
            raise InputError(
                f"qkv_norm: {self.attention} attention reads the length of each query, which a norm of 'q' makes "
                f"constant; got {self.qkv_norm!r}"
            )
        for option in ("lepe", "position_conv", "ffn_conv"):
            side = getattr(self, option)
            if side and side % 2 == 0:
                raise InputError(f"{option}: expected 0 or the odd side of a kernel, got {side!r}")

    @property
    def needs_grid(self) -> bool:
        """Whether tokens must be the patches of an image."""
        return bool(self.lepe or self.position_conv or self.ffn_conv) or ROPE[self.rope].axes == 2

    @property
    def skippable(self) -> bool:
        """Whether a token can go through unchanged and be hidden from the others, as a gate of 0 promises."""
        norms = "post" in (*self.attn_norm, *self.ffn_norm)
        return not (norms or self.residual_scale or self.position_conv or self.lepe or self.ffn_conv)

    def check(self, *, width: int, heads: int) -> None:
        """Refuse a width and a number of heads that these options do not go with.

        Args:
            width: channels of the stream.
            heads: query heads.
        """
        if heads < 1 or width % heads:
            raise InputError(f"heads: expected a divisor of the width {width}, got {heads}")
        if self.kv_heads and heads % self.kv_heads:
            raise InputError(f"kv_heads: expected a divisor of heads={heads}, got {self.kv_heads}")
        if width // heads % (divisor := ROPE[self.rope].divisor):
            raise InputError(
                f"rope: {self.rope!r} needs heads of a multiple of {divisor} channels, got {width // heads}"
            )

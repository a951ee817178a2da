"""TROLL in TRL: a ``GRPOTrainer`` whose clipped ratio is replaced by the exact trust region."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tether.core.errors import InputError, MissingExtraError
from tether.methods.troll.loss import EPS, TROLLLoss
from tether.methods.troll.sparse_policy import SparseDist

try:
    from trl import GRPOConfig, GRPOTrainer
except ImportError as error:
    raise MissingExtraError("trl", extra="llm") from error

_STORED = ("troll_ids", "troll_logp", "troll_tail", "troll_mass")


@dataclass
class TROLLConfig(GRPOConfig):
    """Settings of ``TROLLTrainer``: those of ``GRPOConfig``, and the trust region's.

    ``epsilon`` and its relatives have no effect, for nothing is clipped. To take several steps on each batch of
    completions, which is what a trust region is for, raise ``num_iterations`` or ``steps_per_generation``.

    Attributes:
        loss_type: only ``grpo``, the mean over each completion and then over completions, as in the paper.
        troll_eps: radius of the trust region in nats per token (> 0).
        troll_alpha: weight of the regression that draws the network back to the region (>= 0).
        troll_k: most tokens stored for each position of a completion.
        troll_delta: probability that may be left to all other tokens.
        troll_q_min: probability of each of those before all is renormalised.
    """

    loss_type: str = field(default="grpo", metadata={"help": "Only 'grpo': mean per completion, then over them."})
    troll_eps: float = field(default=EPS, metadata={"help": "Radius of the trust region, nats per token."})
    troll_alpha: float = field(default=1.0, metadata={"help": "Weight of the regression to the projection."})
    troll_k: int = field(default=64, metadata={"help": "Most tokens stored per position."})
    troll_delta: float = field(default=1e-5, metadata={"help": "Probability left to all other tokens."})
    troll_q_min: float = field(default=1e-12, metadata={"help": "Probability of a token that is not stored."})


class TROLLTrainer(GRPOTrainer):
    """Trains a language model by group-relative advantages inside a KL ball around the policy that sampled.

    Used as ``GRPOTrainer`` is, with a ``TROLLConfig``. When completions are sampled one further forward stores the
    next-token distributions of that moment, a few dozen numbers for each token (``SparseDist``); every step then takes
    its loss from ``TROLLLoss``. Its means over the tokens are logged as ``troll/projected``, ``troll/kl_before``,
    ``troll/kl_after``, ``troll/regression``, ``troll/ratio`` and ``troll/kept_mass``.

    Source: arXiv 2510.03817. Text only: pictures, a reference model (``beta``), entropy bonuses, losses per batch or
    sequence ratios are refused, for the paper's loss has no place for them.
    """

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        """Take what ``GRPOTrainer`` takes; ``args`` must be a ``TROLLConfig``.

        Raises:
            InputError: no ``TROLLConfig``, or a setting that the loss cannot honour.
        """
        config = args[1] if len(args) > 1 else kwargs.get("args")
        if not isinstance(config, TROLLConfig):
            raise InputError(f"args: expected a TROLLConfig, got {type(config).__name__}")
        _refuse(config)
        self.troll = TROLLLoss(eps=config.troll_eps, alpha=config.troll_alpha)
        self._sparsity = (config.troll_k, config.troll_delta, config.troll_q_min)
        super().__init__(model, *args, **kwargs)
        if self.aux_loss_enabled:
            raise InputError("router_aux_loss_coef: the router's loss is not part of TROLL; set it to 0")

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if "pixel_values" in output:
            raise InputError("TROLLTrainer takes text only, got prompts with pictures")
        rows = len(output["completion_ids"])
        training = self._mode() == "train"
        size = self.args.per_device_train_batch_size if training else self.args.per_device_eval_batch_size
        parts = []
        with torch.no_grad():
            for start in range(0, rows, size):
                some = {name: output[name][start : start + size] for name in _TOKENS}
                parts.append(self._sparse(self._completion_logits(self.model, some), some["completion_ids"]))
        width = max(part.ids.shape[-1] for part in parts)
        stored = [_widened(part, width) for part in parts]
        return {
            **output,
            **{name: torch.cat(column) for name, column in zip(_STORED, zip(*stored, strict=True), strict=True)},
        }

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        tokens, mask, advantages = (inputs[name] for name in ("completion_ids", "completion_mask", "advantages"))
        if "tool_mask" in inputs:
            mask = mask * inputs["tool_mask"]
        if "importance_sampling_ratio" in inputs:  # another engine sampled: its share in the ratio weighs the gain
            advantages = advantages.view(len(tokens), -1) * inputs["importance_sampling_ratio"]
            advantages = advantages.expand_as(tokens)
        logits = self._completion_logits(model, inputs)
        ids, logp, tail, kept = (inputs[name] for name in _STORED)
        old = SparseDist(ids, logp, tail, kept, logits.shape[-1], *self._sparsity)
        loss = self.troll(logits, old, tokens, advantages, mask)
        mode = self._mode()
        for name, value in loss.terms.items():
            self._metrics[mode][f"troll/{name}"].append(self.accelerator.gather(value).mean().item())
        return loss.total / (self.current_gradient_accumulation_steps if mode == "train" else 1.0)

    def _completion_logits(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """(b, l, v) logits that the completion's tokens were, or would be, drawn from."""
        prompt, completion = inputs["prompt_ids"], inputs["completion_ids"]
        with self.accelerator.autocast():
            logits = model(
                input_ids=torch.cat([prompt, completion], dim=1),
                attention_mask=torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
                logits_to_keep=completion.shape[1] + 1,
                use_cache=False,
            ).logits
        return logits[:, :-1] / self.temperature

    def _sparse(self, logits: Tensor, tokens: Tensor) -> SparseDist:
        k, delta, q_min = self._sparsity
        return SparseDist.from_logits(logits, tokens, k=k, delta=delta, q_min=q_min)

    def _mode(self) -> str:
        assert self.model is not None
        return "train" if self.model.training else "eval"


_TOKENS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")


def _widened(part: SparseDist, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, log-probabilities, tails and masses with ``width`` slots; the further ones are empty."""
    more = (0, width - part.ids.shape[-1])
    ids = torch.nn.functional.pad(part.ids, more, value=part.vocabulary)
    return ids, torch.nn.functional.pad(part.logp, more, value=-torch.inf), part.tail, part.mass


def _refuse(config: TROLLConfig) -> None:
    """Settings of ``GRPOConfig`` that would silently do nothing here."""
    wanted = {
        "loss_type": "grpo",
        "importance_sampling_level": "token",
        "beta": 0.0,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "entropy_coef": 0.0,
        "use_adaptive_entropy": False,
    }
    for name, value in wanted.items():
        got = getattr(config, name)
        if got != value:
            raise InputError(f"{name}: TROLL's loss needs {value!r}, got {got!r}")

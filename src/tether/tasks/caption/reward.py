"""What a sampled caption earns: how much nearer to its image it is than the greedy one, and how much better formed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import NonNegative, checked
from tether.models.texts.text_state import text_state
from tether.tasks.caption.clip_s import PREFIX, clip_s, ref_clip_s
from tether.tasks.caption.reward_grammar import GrammarHead, check_judge, prefixed

Score = Literal["clip_s", "ref_clip_s"]
CaptionScorer = Callable[[Sequence[str], Sequence[Sequence[str]]], Any]
"""From n captions and the references of each to n numbers, such as ``CiderReward``."""


@dataclass(frozen=True, slots=True, eq=False)
class Rewards:
    """What samples earned; without gradient.

    Attributes:
        total: (n,) the sum of what follows.
        clip: (n,) weighed difference of the CLIP scores.
        grammar: (n,) of the probabilities of being well formed, or None.
        score: (n,) CLIP score of the samples.
        greedy_score: (b,) of the greedy captions.
    """

    total: Float[Tensor, " n"]
    clip: Float[Tensor, " n"]
    grammar: Float[Tensor, " n"] | None
    score: Float[Tensor, " n"]
    greedy_score: Float[Tensor, " b"]


@torch.no_grad()
@checked
def self_critical_rewards(
    score: Float[Tensor, " n"],
    greedy_score: Float[Tensor, " b"],
    *,
    weight: NonNegative = 2.0,
    grammar: Float[Tensor, " n"] | None = None,
    greedy_grammar: Float[Tensor, " b"] | None = None,
) -> Rewards:
    """Rewards of K samples of each image, side by side, against its greedy caption.

    Source: arXiv 2205.13115, section 3, and the release's ``utils/rewards.py``, whose weight is on CLIP-S.

    Args:
        score: of the samples, such as ``clip_s``.
        greedy_score: of each image's greedy caption.
        weight: of the difference of scores.
        grammar: probability of each sample of being well formed; None leaves the term out.
        greedy_grammar: of the greedy captions; None subtracts nothing.

    Raises:
        InputError: numbers of samples that do not fit, or a reward that is not finite.

    Example:
        >>> import torch
        >>> from tether.tasks.caption import self_critical_rewards
        >>> self_critical_rewards(torch.tensor([0.5, 1.0]), torch.tensor([0.75])).total.tolist()
        [-0.5, 0.5]
    """
    samples, left = divmod(len(score), max(1, len(greedy_score)))
    if left or not samples:
        raise InputError(f"samples: expected K >= 1 for each of {len(greedy_score)} images, got {len(score)} in all")
    if grammar is not None and (
        grammar.shape != score.shape or (greedy_grammar is not None and greedy_grammar.shape != greedy_score.shape)
    ):
        raise InputError(f"grammar: expected one number for each caption, got {tuple(grammar.shape)}")
    clip = weight * (score - greedy_score.repeat_interleave(samples))
    if grammar is not None and greedy_grammar is not None:
        grammar = grammar - greedy_grammar.repeat_interleave(samples)
    total = clip if grammar is None else clip + grammar
    if bool((bad := ~torch.isfinite(total)).any()):
        row = int(bad.nonzero()[0])
        raise InputError(f"reward: expected finite numbers, got {float(total[row])} for sample {row}")
    return Rewards(total, clip, grammar, score, greedy_score)


class ClipReward:
    """Scores captions by a dual encoder, which never moves, and which should know more than the captioner.

    Source: arXiv 2205.13115 and its release. ``cider`` in place of ``grammar`` is the release's mixed variant.

    Attributes:
        model: the judge.

    Example:
        >>> import tether, torch
        >>> from tether.tasks.caption import ClipReward
        >>> reward = ClipReward(tether.load("tiny", random_weights=True))
        >>> found, info = reward(torch.rand(1, 3, 32, 32), ["a red ball", ""], ["a ball"])
        >>> found.shape, sorted(info)
        (torch.Size([2]), ['clip_s', 'greedy_clip_s', 'reward_clip'])
    """

    @checked
    def __init__(
        self,
        model: DualEncoder,
        *,
        grammar: GrammarHead | None = None,
        weight: NonNegative = 2.0,
        grammar_baseline: Literal["greedy", "none"] = "greedy",
        score: Score = "clip_s",
        prefix: str | None = None,
        cider: CaptionScorer | None = None,
        cider_weight: NonNegative = 1.0,
    ) -> None:
        """Take the parts.

        Args:
            model: any of ``tether.load`` that compares by cosine.
            grammar: a head on its text states, from ``fit_grammar``; the term has weight 1.
            weight: of the CLIP term.
            grammar_baseline: whether the greedy caption's probability is subtracted.
            score: with ``ref_clip_s`` references count too.
            prefix: words before every caption; None takes the grammar head's, or ``A photo depicts``.
            cider: gives a score against references, whose difference is added.
            cider_weight: of that.

        Raises:
            UnsupportedModelError: a model that does not compare by cosine, or with ``grammar`` has no text state.
            InputError: another prefix than the grammar head has seen.
        """
        check_judge(model, grammar=grammar is not None)
        own = PREFIX if grammar is None else grammar.prefix
        if prefix not in (None, own) and grammar is not None:
            raise InputError(f"prefix: the grammar head has seen {own!r}, got {prefix!r}")
        self.model, self.grammar, self.weight = model, grammar, weight
        self.grammar_baseline, self.score, self.prefix = grammar_baseline, score, own if prefix is None else prefix
        self.cider, self.cider_weight = cider, cider_weight

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        samples: Sequence[str],
        greedy: Sequence[str],
        *,
        references: Sequence[Sequence[str]] | None = None,
    ) -> tuple[Float[Tensor, " n"], Mapping[str, Tensor]]:
        """Rewards of K samples of each image, those of one side by side; an empty caption is scored as it is.

        Args:
            images: (b, 3, h, w) as the judge takes them, or (b, d) embeddings by it.
            samples: K for each image.
            greedy: one for each.
            references: of each image, for ``ref_clip_s`` and ``cider``.

        Returns:
            (b * K,) rewards on the judge's device, and its parts by name.

        Raises:
            InputError: numbers that do not fit, no references where they are needed, or a reward that is not finite.
        """
        device = self.model.logit_scale.device
        b, k = len(images), len(samples) // max(1, len(images))
        if len(greedy) != b or not b or not k or len(samples) != b * k:
            got = f"{b} images, {len(greedy)} greedy captions and {len(samples)} samples"
            raise InputError(f"samples: expected K >= 1 of each image and one greedy caption, got {got}")
        needed = self.score == "ref_clip_s" or self.cider is not None
        if needed and (references is None or len(references) != b or not all(references)):
            raise InputError(f"references: expected some for each of {b} images")
        rows = images.to(device)
        rows = (rows if rows.ndim == 2 else self.model.encode_image(rows).pooled).float()
        text, formed = self._read([*samples, *greedy])
        own = torch.cat([torch.arange(b).repeat_interleave(k), torch.arange(b)]).to(device)
        if self.score == "clip_s":
            score = clip_s(rows[own], text)
        else:
            known, mask = self._references(references or ())
            score = ref_clip_s(rows[own], text, known[own], mask=mask[own])
        n = len(samples)
        found = self_critical_rewards(
            score[:n],
            score[n:],
            weight=self.weight,
            grammar=None if formed is None else formed[:n],
            greedy_grammar=None if formed is None or self.grammar_baseline == "none" else formed[n:],
        )
        total, info = found.total, {"clip_s": score[:n], "greedy_clip_s": score[n:], "reward_clip": found.clip}
        if found.grammar is not None:
            info["reward_grammar"] = found.grammar
        if self.cider is not None and references is not None:
            given = self.cider([*samples, *greedy], [references[place] for place in own.tolist()])
            ciders = torch.as_tensor(given, dtype=torch.float32, device=device)
            part = self_critical_rewards(ciders[:n], ciders[n:], weight=self.cider_weight).total
            total, info["reward_cider"] = total + part, part
        return total, info

    @torch.no_grad()
    def scores(self, images: Tensor, captions: Sequence[str]) -> Float[Tensor, " n"]:
        """CLIP-S of one caption for each image, on the CPU."""
        if not captions:
            return torch.empty(0)
        rows = images.to(self.model.logit_scale.device)
        rows = (rows if rows.ndim == 2 else self.model.encode_image(rows).pooled).float()
        return clip_s(rows, self._read(captions)[0]).cpu()

    @torch.no_grad()
    def well_formed(self, captions: Sequence[str]) -> Float[Tensor, " n"]:
        """Probability of each caption of being well formed, on the CPU.

        Raises:
            InputError: there is no grammar head.
        """
        if self.grammar is None:
            raise InputError("well_formed: expected a reward with a grammar head")
        formed = self._read(captions)[1] if captions else None
        return torch.empty(0) if formed is None else formed.cpu()

    def _read(self, captions: Sequence[str]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"] | None]:
        """Unit rows, and the probability of being well formed if there is a head; each distinct caption once."""
        distinct = {text: place for place, text in enumerate(dict.fromkeys(captions))}
        ids = self.model.tokenizer(prefixed(list(distinct), prefix=self.prefix)).to(self.model.logit_scale.device)
        places = [distinct[text] for text in captions]
        if self.grammar is None:
            return F.normalize(self.model.encode_text(ids).pooled.float(), dim=1)[places], None
        read = text_state(self.model, ids)
        assert read.tokens is not None
        formed = self.grammar.probability(read.tokens[:, 0].float())
        return F.normalize(read.pooled.float(), dim=1)[places], formed[places]

    def _references(self, references: Sequence[Sequence[str]]) -> tuple[Float[Tensor, "b r d"], Bool[Tensor, "b r"]]:
        counts = torch.tensor([len(some) for some in references])
        mask = torch.arange(int(counts.max())) < counts[:, None]
        read = self._read([text for some in references for text in some])[0]
        rows = read.new_zeros(*mask.shape, read.shape[1])
        rows[mask.to(rows.device)] = read
        return rows, mask.to(rows.device)

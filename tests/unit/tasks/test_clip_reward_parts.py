"""Rewards from CLIP: scores, grammar, corruption, and a captioner that learns from them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.model_digest import model_digest
from tether.data.captions.corrupt import CORRUPTIONS, Corruption, corrupt
from tether.losses import self_critical_loss
from tether.models import create
from tether.models.encoders.causal_lm import small_causal_lm
from tether.models.texts.text_state import text_state
from tether.models.towers.clip import Clip
from tether.tasks.caption import (
    CiderReward,
    ClipReward,
    DrawnCaptions,
    GrammarHead,
    PrefixAdaptor,
    PrefixCaptioner,
    SelfCriticalTrainer,
    clip_s,
    fit_grammar,
    fit_pairs,
    ref_clip_s,
    self_critical_rewards,
)
from tether.tasks.caption.captioner import How
from tether.tasks.caption.reward_grammar import text_parameters

TEXTS = ["a red ball on the grass", "a blue cube", "two green stars in the sky", "one cat"]
WORDS = sorted({word for text in TEXTS for word in text.split()})


def clip(seed: int = 0) -> Clip:
    return create("tiny", seed=seed).eval()


class TestSelfCriticalLoss:
    def test_first_end_counts_and_padding_does_not(self) -> None:
        logp = torch.tensor([[-1.0, -2.0, -float("inf")], [-1.0, -1.0, -1.0]], requires_grad=True)
        tokens = torch.tensor([[3, 0, 0], [3, 3, 3]])
        loss = self_critical_loss(logp, tokens, torch.tensor([2.0, 1.0]))
        assert loss.item() == pytest.approx((2 * 3 + 3) / 5)
        loss.backward()
        assert logp.grad is not None
        assert torch.allclose(logp.grad, -torch.tensor([[2.0, 2.0, 0.0], [1.0, 1.0, 1.0]]) / 5)

    def test_no_gradient_through_the_reward(self) -> None:
        reward = torch.ones(1, requires_grad=True)
        loss = self_critical_loss(torch.zeros(1, 2, requires_grad=True), torch.ones(1, 2, dtype=torch.int64), reward)
        loss.backward()
        assert reward.grad is None

    def test_refuses(self) -> None:
        logp, tokens = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.int64)
        for bad in (math.nan, math.inf):
            with pytest.raises(InputError, match=r"reward: expected finite numbers, got .* for caption 1"):
                self_critical_loss(logp, tokens, torch.tensor([0.0, bad]))
        with pytest.raises(InputError, match=r"expected \(n, l\)"):
            self_critical_loss(logp, tokens[:, :2], torch.zeros(2))
        with pytest.raises(InputError, match="token that counts"):
            self_critical_loss(logp, tokens, torch.zeros(2), mask=torch.zeros(2, 3, dtype=torch.bool))


class TestClipS:
    def test_zero_where_either_is(self) -> None:
        image = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 0]])
        text = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [1, 0]])
        references = torch.tensor([[[-1.0, 0]], [[-1.0, 0]], [[1.0, 0]], [[1.0, 0]]])
        assert ref_clip_s(image, text, references).tolist() == [0, 0, 2.5, 0]
        assert ref_clip_s(image, text, references[:, :0]).tolist() == [0] * 4
        assert clip_s(image, text).tolist() == [2.5, 0, 2.5, 0]

    def test_refuses(self) -> None:
        with pytest.raises(InputError, match="CLIP-S"):
            clip_s(torch.ones(2, 3), torch.ones(1, 3))
        with pytest.raises(InputError, match="RefCLIP-S"):
            ref_clip_s(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 4, 3), mask=torch.ones(2, 3))


class TestCorrupt:
    @pytest.mark.parametrize("kind", CORRUPTIONS)
    @pytest.mark.parametrize("text", ["cat", "a cat", "the small cat sat on a mat"])
    def test_each_kind(self, kind: Corruption, text: str) -> None:
        words = text.split()
        for seed in range(40):
            broken = corrupt(text, vocabulary=WORDS, kind=kind, generator=random.Random(seed)).split()
            difference = len(broken) - len(words)
            if kind == "shuffle":
                assert sorted(broken) == sorted(words)
            elif kind == "swap":
                assert difference == 0
            else:
                low, high = {"repeat": (1, 9), "remove": (-3, -1), "insert": (1, 3)}[kind]
                assert low <= difference <= high
            if kind in ("repeat", "insert"):
                left = iter(broken)
                assert kind == "repeat" or all(word in left for word in words)
                assert set(broken) <= set(words) | (set(WORDS) if kind == "insert" else set())

    def test_draws_every_kind_and_the_same_again(self) -> None:
        found = {corrupt("a b c d e", vocabulary=["x", "y"], generator=random.Random(seed)) for seed in range(60)}
        assert {"x" in one or "y" in one for one in found} == {True, False}
        assert {len(one.split()) for one in found} > {3, 5, 8}
        one, other = (corrupt("a b c d", vocabulary=WORDS, generator=random.Random(5)) for _ in range(2))
        assert one == other

    def test_refuses(self) -> None:
        with pytest.raises(InputError, match="at least one word"):
            corrupt(" ", vocabulary=WORDS, generator=random.Random(0))
        for kind, vocabulary in (("insert", []), ("swap", ["cat"])):
            with pytest.raises(InputError, match=f"vocabulary: {kind} needs another word"):
                corrupt("cat", vocabulary=vocabulary, kind=kind, generator=random.Random(0))


class TestGrammarHead:
    def test_reads_the_state_before_the_projection(self) -> None:
        model = clip()
        ids = model.tokenizer(["A photo depicts a cat"])
        read = text_state(model, ids)
        assert torch.allclose(read.pooled, model.encode_text(ids).pooled, atol=1e-6)
        assert read.tokens is not None
        assert read.tokens.shape[-1] == model.config.text.width

    def test_learns_form_and_keeps_meaning(self) -> None:
        model = clip()
        with torch.no_grad():
            rows = model.encode_image(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))).pooled
        before = model_digest(model)
        terms: list[Mapping[str, Tensor]] = []
        judge, head = fit_grammar(
            model, rows, TEXTS, steps=60, batch_size=4, learning_rate=1e-3, on_step=lambda one: terms.append(one.terms)
        )
        assert model_digest(model) == before
        assert {"clip", "grammar"} == set(terms[0])
        assert float(terms[-1]["grammar"]) < 0.5 * float(terms[0]["grammar"])
        assert float(terms[-1]["clip"]) < float(terms[0]["clip"])
        pixels = torch.rand(1, 3, 32, 32)
        assert torch.equal(judge.encode_image(pixels).pooled, model.encode_image(pixels).pooled)
        good, bad = ClipReward(judge, grammar=head).well_formed(["a blue cube", "cube cube cube cube a cube"])
        assert good > bad

    def test_saved_and_bound(self, tmp_path: Path) -> None:
        model, head = clip(), GrammarHead(64, prefix="a drawing of")
        head.save(tmp_path / "head", encoder=model)
        again = GrammarHead.load(tmp_path / "head", encoder=model)
        assert again.prefix == "a drawing of"
        assert torch.equal(again.probability(torch.ones(1, 64)), head.probability(torch.ones(1, 64)))
        with pytest.raises(InputError, match="digest"):
            GrammarHead.load(tmp_path / "head", encoder=clip(1))

    def test_refuses(self) -> None:
        rows = torch.ones(2, 64)
        with pytest.raises(InputError, match="owner"):
            fit_grammar(clip(), rows, TEXTS)
        with pytest.raises(InputError, match="captions are empty"):
            fit_grammar(clip(), rows, ["a cat", ""])
        with pytest.raises(InputError, match="at least 2 words to break captions with, got 1"):
            fit_grammar(clip(), rows, ["cat", "cat"])


class TestSelfCriticalRewards:
    def test_weights_and_baselines(self) -> None:
        score, greedy = torch.tensor([1.0, 2.0, 0.0, 1.0]), torch.tensor([1.0, 0.5])
        formed, base = torch.tensor([0.5, 1.0, 0.25, 0.0]), torch.tensor([0.25, 0.5])
        plain = self_critical_rewards(score, greedy)
        assert plain.total.tolist() == [0, 2, -1, 1]
        assert plain.grammar is None
        assert self_critical_rewards(score, greedy, grammar=formed).total.tolist() == [0.5, 3, -0.75, 1]
        both = self_critical_rewards(score, greedy, grammar=formed, greedy_grammar=base)
        assert both.total.tolist() == [0.25, 2.75, -1.25, 0.5]

    def test_refuses(self) -> None:
        with pytest.raises(InputError, match="K >= 1 for each of 2 images, got 3"):
            self_critical_rewards(torch.ones(3), torch.ones(2))
        with pytest.raises(InputError, match="K >= 1 for each of 2 images, got 0"):
            self_critical_rewards(torch.ones(0), torch.ones(2))
        with pytest.raises(InputError, match="got nan for sample 1"):
            self_critical_rewards(torch.tensor([1, math.nan]), torch.ones(1))


class TestClipReward:
    def test_the_same_words_before_all(self) -> None:
        model, pixels = clip(), torch.rand(2, 3, 32, 32)
        reward = ClipReward(model)
        found, info = reward(pixels, ["a cat", "", "a dog", "a cat"], ["a cat", "a dog"])
        assert found[0].item() == pytest.approx(0, abs=1e-6)
        assert found[2].item() == pytest.approx(0, abs=1e-6)
        wanted = clip_s(
            model.encode_image(pixels[:1]).pooled, model.encode_text(model.tokenizer(["A photo depicts"])).pooled
        )
        assert info["clip_s"][1].item() == pytest.approx(wanted.item(), abs=1e-6)
        rows = model.encode_image(pixels).pooled
        assert torch.allclose(reward(rows, ["a cat", "x"], ["a cat", "a dog"])[1]["clip_s"], reward.scores(
            pixels, ["a cat", "x"]), atol=1e-6)  # fmt: skip

    def test_references_and_cider(self) -> None:
        references = [["a red ball lies here"], ["two cats in the sun", "cats"]]
        cider = CiderReward(references)
        reward = ClipReward(clip(), score="ref_clip_s", cider=cider, weight=0.0)
        samples = ["a red ball lies here", "cats"]
        found, info = reward(torch.rand(2, 3, 32, 32), samples, ["a", "cats"], references=references)
        assert torch.equal(found, info["reward_cider"])
        assert found[0] > 9
        assert found[1] == 0
        with pytest.raises(InputError, match="references: expected some for each of 2"):
            reward(torch.rand(2, 3, 32, 32), samples, ["a", "cats"], references=[["a"], []])

    def test_grammar_sees_the_prefix_it_learnt_with(self) -> None:
        head = GrammarHead(64, prefix="a drawing of")
        assert ClipReward(clip(), grammar=head).prefix == "a drawing of"
        with pytest.raises(InputError, match="prefix: the grammar head has seen"):
            ClipReward(clip(), grammar=head, prefix="A photo depicts")
        _, info = ClipReward(clip(), grammar=head, grammar_baseline="none")(torch.rand(1, 3, 32, 32), ["a"], ["a"])
        assert 0 < info["reward_grammar"].item() < 1

    def test_refuses(self) -> None:
        reward, pixels = ClipReward(clip()), torch.rand(2, 3, 32, 32)
        for samples, greedy in (([], ["a", "b"]), (["a"] * 3, ["a", "b"]), (["a", "b"], ["a"])):
            with pytest.raises(InputError, match="expected K >= 1 of each image"):
                reward(pixels, samples, greedy)
        with pytest.raises(InputError, match="expected K >= 1"):
            reward(pixels[:0], [], [])
        with pytest.raises(InputError, match="finite"):
            reward(torch.full((2, 64), math.nan), ["a", "b"], ["a", "b"])


class TestCiderReward:
    def test_as_pycocoevalcap_on_one_collection(self) -> None:
        scorers = pytest.importorskip("pycocoevalcap.cider.cider_scorer")
        references = [
            ["a red ball on the grass", "one red ball"],
            ["two cats sleep in the sun"],
            ["a tall tree a tree"],
        ]
        captions = ["a red ball on a ball", "two cats", "a tall tree a tall tree"]
        theirs = scorers.CiderScorer()
        for caption, some in zip(captions, references, strict=True):
            theirs += (caption, some)
        np.testing.assert_allclose(CiderReward(references)(captions, references), theirs.compute_score()[1], rtol=1e-9)

    def test_refuses(self) -> None:
        with pytest.raises(InputError, match="at least one of each image"):
            CiderReward([["a"], []])
        with pytest.raises(InputError, match="some for each of 2"):
            CiderReward([["a"]])(["a", "b"], [["a"]])


class Likes:
    """A reward for one word, which also looks at how captions were written."""

    def __init__(self, word: str, captioner: PrefixCaptioner) -> None:
        self.word, self.captioner, self.training = word, captioner, set()

    def __call__(
        self,
        images: Tensor,
        samples: Sequence[str],
        greedy: Sequence[str],
        *,
        references: Sequence[Sequence[str]] | None = None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        self.training.add(self.captioner.adaptor.training)
        score = torch.tensor([float(self.word in text.split()) for text in (*samples, *greedy)])
        return self_critical_rewards(score[: len(samples)], score[len(samples) :]).total, {"said": score.mean()}


class TestSelfCriticalTrainer:
    def captioner(self) -> PrefixCaptioner:
        torch.manual_seed(0)
        words = small_causal_lm(TEXTS, width=32, layers=1, heads=2)
        return PrefixCaptioner(PrefixAdaptor(8, lm_dim=32, n_queries=2, inner=32), words).eval()

    def test_says_more_often_what_is_rewarded(self) -> None:
        ours = self.captioner()
        memory = torch.eye(4, 8)[:, None]
        fit_pairs(ours, memory, TEXTS, steps=40, batch_size=4, learning_rate=1e-2)
        reward = Likes("ball", ours)
        said: list[float] = []
        trainer = SelfCriticalTrainer(ours, reward, n_samples=6, longest=12)
        trainer.fit(memory, torch.zeros(4, 1), steps=40, batch_size=4, learning_rate=5e-3,
                    on_step=lambda one: said.append(float(one.terms["said"])))  # fmt: skip
        assert sum(said[-5:]) > sum(said[:5]) + 1
        assert reward.training == {True}  # the greedy caption's mode is undone before samples are scored
        assert not ours.training

    def test_greedy_without_dropout_and_samples_with(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ours, modes = self.captioner(), []
        draw = ours.draw

        def watched(memory: Tensor, *, how: How, **given: Any) -> DrawnCaptions:
            modes.append((how, ours.adaptor.training))
            return draw(memory, how=how, **given)

        monkeypatch.setattr(ours, "draw", watched)
        SelfCriticalTrainer(ours, Likes("a", ours), longest=3).fit(torch.ones(2, 1, 8), torch.zeros(2, 1), steps=1)
        assert modes == [("greedy", False), ("sample", True)]

    def test_the_same_twice(self) -> None:
        digests = []
        for _ in range(2):
            ours = self.captioner()
            trainer = SelfCriticalTrainer(ours, Likes("a", ours), n_samples=2, longest=4)
            digests.append(
                model_digest(trainer.fit(torch.ones(3, 1, 8), torch.zeros(3, 1), steps=3, learning_rate=1e-3))
            )
        assert digests[0] == digests[1]

    def test_refuses(self) -> None:
        ours = self.captioner()
        with pytest.raises(InputError, match="n_samples"):
            SelfCriticalTrainer(ours, Likes("a", ours), n_samples=0)
        with pytest.raises(InputError, match="as many rows, images and references"):
            SelfCriticalTrainer(ours, Likes("a", ours)).fit(torch.ones(2, 1, 8), torch.zeros(3, 1))


class TestTextParameters:
    def test_the_image_side_and_the_scale_rest(self) -> None:
        model = clip()
        moving = text_parameters(model)
        assert moving
        assert not any("image" in name or "scale" in name for name in moving)
        assert {name for name, one in model.named_parameters() if one.requires_grad} == set(moving)

    def test_refuses_what_both_sides_need(self) -> None:
        model = clip()
        model.visual.projection = model.text.projection
        with pytest.raises(UnsupportedModelError, match="share parameters"):
            text_parameters(model)

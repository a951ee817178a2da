"""A prefix and a language model that goes on from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.losses.self_critical import until_end
from tether.models.encoders.causal_lm import CausalLM, load_causal_lm, small_causal_lm
from tether.tasks.caption import PrefixAdaptor, PrefixCaptioner, fit_pairs

TEXTS = ["a red ball", "a blue cube on a table", "two green stars"]


def words(**settings: int) -> CausalLM:
    return small_causal_lm(TEXTS, width=16, layers=1, heads=2, **settings)


def captioner(**settings: int) -> PrefixCaptioner:
    torch.manual_seed(0)
    return PrefixCaptioner(PrefixAdaptor(8, lm_dim=16, n_queries=3, inner=16), words(**settings)).eval()


class TestPrefixCaptioner:
    def test_log_probabilities_are_those_of_one_token_after_another(self) -> None:
        ours, memory = captioner(), torch.randn(2, 4, 8)
        tokens = ours.language_model.tokens(["a red ball", "a blue cube on"])
        found = ours.log_probabilities(memory, tokens)
        prefix = ours.adaptor(memory)
        for row, ids in enumerate(tokens):
            for place in range(len(ids)):
                rows = torch.cat([prefix[row : row + 1], ours.language_model.embed(ids[None, :place])], dim=1)
                wanted = ours.language_model.logits(rows)[0, -1].log_softmax(-1)[ids[place]]
                counts = until_end(tokens, end=0)[row, place]
                assert torch.allclose(found[row, place], wanted if counts else torch.tensor(0.0), atol=1e-5)
        found.sum().backward()
        assert ours.adaptor.decoder.queries.grad is not None

    def test_several_captions_of_a_memory(self) -> None:
        ours, memory = captioner(), torch.randn(2, 4, 8)
        drawn = ours.draw(memory, how="sample", samples=3, longest=5, generator=torch.Generator().manual_seed(0))
        found = ours.log_probabilities(memory, drawn.tokens)
        assert torch.allclose(found, ours.log_probabilities(memory.repeat_interleave(3, 0), drawn.tokens), atol=1e-6)
        assert drawn.mask.shape == drawn.tokens.shape == (6, drawn.tokens.shape[1])

    def test_greedy_takes_the_likeliest(self) -> None:
        ours, memory = captioner(), torch.randn(2, 4, 8)
        drawn = ours.draw(memory, longest=3)
        prefix = ours.adaptor(memory)
        assert torch.equal(drawn.tokens[:, 0], ours.language_model.logits(prefix)[:, -1].argmax(-1))
        likelier = ours.draw(memory, how="beams", samples=2, longest=3)
        sums = ours.log_probabilities(memory, likelier.tokens).sum(1).view(2, 2)
        assert (sums[:, 0] >= sums[:, 1] - 1e-5).all()

    def test_draws_come_from_the_generator_alone(self) -> None:
        ours, memory = captioner(), torch.randn(2, 4, 8)
        before = torch.get_rng_state()
        drawn = [
            ours.draw(memory, how="sample", longest=9, generator=torch.Generator().manual_seed(seed)).texts
            for seed in (1, 1, 2)
        ]
        assert drawn[0] == drawn[1] != drawn[2]
        assert torch.equal(before, torch.get_rng_state())

    def test_tokens_count_up_to_the_first_end(self) -> None:
        tokens = torch.tensor([[5, 0, 7, 0], [5, 6, 7, 8], [0, 0, 1, 1]])
        assert until_end(tokens, end=0).sum(1).tolist() == [2, 4, 1]

    def test_learns_pairs(self) -> None:
        ours, memory = captioner(), torch.eye(3, 8)[:, None]
        fit_pairs(ours, memory, TEXTS, steps=150, batch_size=3, learning_rate=1e-2, seed=0)
        assert list(ours.draw(memory, longest=24).texts) == TEXTS
        assert list(ours.draw(memory, how="beams", longest=24).texts) == TEXTS
        assert ours.draw(memory[:1], prompt="a red", longest=24).texts[0] == "ball"

    def test_only_the_adaptor_learns_when_asked(self) -> None:
        ours = captioner()
        before = model_digest(ours.language_model)
        fit_pairs(ours, torch.eye(3, 8)[:, None], TEXTS, steps=2, tune="adaptor")
        assert model_digest(ours.language_model) == before
        assert all(parameter.requires_grad for parameter in ours.parameters())

    def test_saved_and_read_again(self, tmp_path: Path) -> None:
        ours, memory = captioner(), torch.randn(2, 4, 8)
        ours.save(tmp_path, encoder="e" * 32, settings={"k": 3}, arrays={"gap": torch.ones(8)})
        again, settings, arrays = PrefixCaptioner.load(tmp_path, encoder="e" * 32)
        assert settings == {"k": 3}
        assert arrays["gap"].tolist() == [1.0] * 8
        tokens = again.language_model.tokens(TEXTS[:2])
        assert torch.equal(ours.log_probabilities(memory, tokens), again.log_probabilities(memory, tokens))
        with pytest.raises(InputError, match="digest ffff"):
            PrefixCaptioner.load(tmp_path, encoder="f" * 32)
        with pytest.raises(InputError, match="language model of digest"):
            PrefixCaptioner.load(tmp_path, encoder="e" * 32, language_model=words(seed=1))

    def test_refuses(self) -> None:
        ours, memory = captioner(context=8), torch.randn(2, 4, 8)
        with pytest.raises(InputError, match="generator: expected one"):
            ours.draw(memory, how="sample", longest=2)
        with pytest.raises(InputError, match="samples: expected at most 1"):
            ours.draw(memory, samples=2, longest=2)
        with pytest.raises(InputError, match="samples"):
            ours.draw(memory, samples=0, longest=2)
        with pytest.raises(InputError, match="context of 8"):
            ours.draw(memory, longest=6)
        with pytest.raises(InputError, match="multiple of 2"):
            ours.log_probabilities(memory, torch.ones(3, 2, dtype=torch.int64))
        with pytest.raises(InputError, match="got none"):
            fit_pairs(ours, memory, [])
        with pytest.raises(InputError, match="1 of 2 captions are empty, the first at place 1"):
            fit_pairs(ours, memory, ["a", " "])
        assert ours.draw(memory[:0]).texts == ()
        with pytest.raises(InputError, match="expected rows of 16"):
            PrefixCaptioner(PrefixAdaptor(8, lm_dim=4), ours.language_model)


class TestCausalLM:
    def test_a_folder_gives_the_same_model(self, tmp_path: Path) -> None:
        ours = words()
        again = load_causal_lm(ours.save(tmp_path / "lm"))
        assert model_digest(ours) == model_digest(again)
        assert again.texts(again.tokens([*TEXTS, "Köln?"])) == [*TEXTS, "Köln?"]

    def test_clips_own_words(self) -> None:
        ours = small_causal_lm([], width=16, layers=1, heads=2, words="clip")
        assert ours.texts(ours.tokens(["A Red ball"])) == ["a red ball"]

    @pytest.mark.parametrize("kind", ["gpt2", "opt", "qwen2", "gpt_neox"])
    def test_any_causal_model_of_transformers(self, kind: str, tmp_path: Path) -> None:
        tokenizer = words().tokenizer
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        more = {"opt": {"ffn_dim": 32, "word_embed_proj_dim": 8}, "qwen2": {"num_key_value_heads": 1}}
        config = transformers.CONFIG_MAPPING[kind](
            vocab_size=len(tokenizer), eos_token_id=0, pad_token_id=0, bos_token_id=0, **sizes, **more.get(kind, {})
        )
        with torch.random.fork_rng(devices=[]):
            transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        ours = load_causal_lm(tmp_path)
        made = PrefixCaptioner(PrefixAdaptor(8, lm_dim=ours.dim, n_queries=2, inner=16), ours).eval()
        memory = torch.randn(2, 3, 8)
        for how in ("greedy", "beams", "sample"):
            drawn = made.draw(memory, how=how, longest=4, prompt="a", generator=torch.Generator().manual_seed(0))
            assert made.log_probabilities(memory, drawn.tokens, prompt="a").isfinite().all()
        greedy = made.draw(memory, longest=4).tokens
        prefix = made.adaptor(memory)
        assert torch.equal(greedy[:, 0], ours.logits(prefix)[:, -1].argmax(-1))

    def test_refuses_what_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"config\.json"):
            load_causal_lm(tmp_path)
        ours = words().save(tmp_path / "lm")
        (ours / "config.json").write_text('{"model_type": "vit"}')
        with pytest.raises(InputError, match="no causal language model of kind 'vit'"):
            load_causal_lm(ours)
        (ours / "model.safetensors").rename(ours / "pytorch_model.bin")
        (ours / "config.json").write_text('{"model_type": "llama"}')
        with pytest.raises(InputError, match="pickle"):
            load_causal_lm(ours)
        again = words().save(tmp_path / "sizes")
        config = json.loads((again / "config.json").read_text())
        (again / "config.json").write_text(json.dumps(config | {"vocab_size": 2**24}))
        with pytest.raises(InputError, match=r"weights of another architecture: .*embed_tokens.* expected \(16777216,"):
            load_causal_lm(again)
        with pytest.raises(InputError, match="train a tokenizer"):
            small_causal_lm([" "])

"""Rewriting with a language model of transformers, here a tiny one with random weights in a folder."""

from __future__ import annotations

import builtins
import json
import pickle
import random
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from tether.core.component import build
from tether.core.errors import InputError, MissingExtraError
from tether.data.captions import REWRITERS, Fuser, LMFuser, LMParaphraser, LMRewriter, Paraphraser, Rewriter
from tether.data.captions.language_model import LanguageModel, _loaded, examples
from tether.methods.laclip import RewriteCaptions

CHAT = "{% for message in messages %}<user> {{ message['content'] }} <model>{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("lm")
    words = ["<pad>", "<unk>", "<user>", "<model>", "=>", "\n", "a", "cat", "dog", "red", "on", "mat", "the", "sits"]
    tokens = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="<unk>", eos_token="<pad>").save_pretrained(path)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(words), n_positions=96, n_embd=16, n_layer=1, n_head=2, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(path)
    return str(path)


def test_the_prompt_shows_three_pairs_and_ends_with_the_caption():
    rewriter = LMRewriter(model="never loaded")
    prompt = rewriter.prompt("a cat\non a mat", generator=random.Random(0))
    lines = prompt.split("\n")
    assert len(lines) == 9
    assert lines[0] == rewriter.instruction
    assert lines[8] == "a cat on a mat =>"  # the released code reads the answer off the ninth line
    shown = [tuple(line.split(" => ")) for line in lines[2:8:2]]
    assert len(set(shown)) == 3
    assert set(shown) <= set(examples())
    others = {rewriter.prompt("a cat", generator=random.Random(seed)) for seed in range(5)}
    assert len(others) > 1


def test_no_code_of_a_model_is_run_or_asked_about(folder, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(folder, tmp_path / "lm"))
    (copy / "evil.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    code = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    (copy / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": code}))
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("a terminal was asked"))
    with pytest.raises(InputError, match="cannot load this folder"):
        LMRewriter(model=str(copy)).rewrite("a cat", count=1, generator=random.Random(0))
    assert not list(copy.rglob("ran"))


def test_rewrites_are_drawn_by_the_generator_alone(folder):
    rewriter = LMRewriter(model=folder, new_tokens=6)
    assert isinstance(rewriter, Rewriter)
    torch.manual_seed(1)
    one = rewriter.rewrite("a cat", count=3, generator=random.Random(4))
    before = torch.rand(1)
    assert len(one) == 3
    assert all("=>" not in text and "\n" not in text for text in one)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), before)  # torch's own generator was left alone
    assert one == pickle.loads(pickle.dumps(rewriter)).rewrite("a cat", count=3, generator=random.Random(4))
    assert any(one != rewriter.rewrite("a cat", count=3, generator=random.Random(seed)) for seed in range(5))
    assert rewriter.settings["weights"] == rewriter.model.digest


def test_answers_are_cut_at_the_line_and_the_arrow(monkeypatch):
    rewriter = LMRewriter(model="never loaded")
    answers = [" a cat rests => more", "\n\n two lines\nmore", "", "=> "]
    monkeypatch.setattr(LanguageModel, "complete", lambda self, prompts, *, seed: answers)
    assert rewriter.rewrite("x", count=4, generator=random.Random(0)) == ["a cat rests", "two lines", "", ""]


def test_fuser_and_paraphraser(folder):
    fuser, paraphraser = LMFuser(model=folder, new_tokens=5), LMParaphraser(model=folder, new_tokens=5)
    assert isinstance(fuser, Fuser)
    assert isinstance(paraphraser, Paraphraser)
    assert fuser.fuse("a cat", visual="the mat") == fuser.fuse("a cat", visual="the mat")
    one = paraphraser.step1("a cat", generator=random.Random(0))
    assert isinstance(paraphraser.step2(one, avoid={"cat"}, generator=random.Random(0)), str)
    assert fuser.settings["weights"] == paraphraser.settings["weights"]


def test_batches_are_padded_on_the_left_and_long_prompts_lose_their_beginning(folder):
    model = LanguageModel(folder, new_tokens=4, temperature=0.0)
    alone = model.complete(["a cat"], seed=0)
    together = model.complete(["a cat", "the red dog sits on a mat"], seed=0)
    assert together[0] == alone[0]
    assert model.complete(["a " * 1000 + "cat"], seed=0) == model.complete(["a " * 91 + "cat"], seed=0)


def test_chat_models_are_asked_as_their_template_says(folder, tmp_path, monkeypatch):
    tokenizer = _loaded(folder, "cpu")[1]
    with pytest.raises(InputError, match="no chat template"):
        LanguageModel(folder, form="chat").complete(["a cat"], seed=0)
    monkeypatch.setattr(tokenizer, "chat_template", CHAT)
    plain = LanguageModel(folder, new_tokens=4, temperature=0.0, form="plain")
    chat = LanguageModel(folder, new_tokens=4, temperature=0.0)
    assert chat.complete(["a cat"], seed=0) == plain.complete(["<user> a cat <model>"], seed=0)


def test_as_a_step_of_curation(folder):
    spec = {"name": "language_model", "model": folder, "new_tokens": 5}
    step = RewriteCaptions(rewriter=spec, count=2)
    rows = pa.record_batch({"key": ["1", "2"], "text": ["a cat", None]})
    first, second = step.map(rows).to_pylist()
    assert first[0] == "a cat"
    assert second == [None]
    assert pickle.loads(pickle.dumps(step)).map(rows).to_pylist() == [first, second]
    assert step.settings["rewriter"]["weights"]
    one = RewriteCaptions(rewriter="template", mode="replace")
    assert one.gives == "one"
    (texts,) = one.map(pa.record_batch({"key": ["1"], "text": ["a large cat"]})).to_pylist()
    assert len(texts) == 1
    for keywords, says in (({"count": 0}, "count"), ({"mode": "swap"}, "mode"), ({"rewriter": "gpt"}, "unknown part")):
        with pytest.raises(InputError, match=says):
            RewriteCaptions(**keywords)


def test_other_weights_under_the_name_are_refused(folder):
    model = LanguageModel(folder, new_tokens=2)
    model._digest = "0" * 32
    with pytest.raises(InputError, match="the work began with 000000000000"):
        model.complete(["a"], seed=0)


@pytest.mark.parametrize(
    "keywords",
    [{"new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"form": "poem"}],
)
def test_refused_settings(keywords):
    with pytest.raises(InputError):
        LanguageModel("x", **keywords)
    with pytest.raises(InputError, match="at least 3"):
        build({"name": "language_model", "model": "x", "pairs": [["a", "b"]]}, REWRITERS, where="test")


def test_a_folder_that_is_none_and_a_library_that_is_missing(tmp_path, folder, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot load this folder"):
        LanguageModel(str(tmp_path)).complete(["a"], seed=0)
    with pytest.raises(InputError, match="takes fewer tokens"):
        LanguageModel(folder, new_tokens=96).complete(["a"], seed=0)
    real = builtins.__import__

    def without(name, *given, **more):
        if name.startswith("transformers"):
            raise ImportError(name)
        return real(name, *given, **more)

    _loaded.cache_clear()
    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"tether-clip\[hf\]"):
        LanguageModel(folder).complete(["a"], seed=0)

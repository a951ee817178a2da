"""An encoder that knows learnt words: its own rows where none stands, theirs where one does, and what is refused."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.models import create
from tether.models.embed import encode_texts
from tether.models.texts.directional_token import DirectionalToken, tokenizer_hash
from tether.models.texts.word_embedding_injection import WordedEncoder
from tether.models.tokenizer import TextCutWarning


def test_learnt_words_are_read_among_others_and_all_else_is_the_models_own() -> None:
    model = create("tiny").eval()
    mug = DirectionalToken(model, "cup", word="<mug>", scale=0.5)
    odd = DirectionalToken(model, "unquestionably strange", word="<odd>")
    worded = WordedEncoder(model, [mug, odd])
    texts = ["a <mug>, on a table", "a cup", "a <mug> and an <odd> <mug>"]
    rows = encode_texts(worded, texts)
    torch.testing.assert_close(rows[1], encode_texts(model, texts)[1])
    assert torch.equal(encode_texts(worded, texts[1:2]), encode_texts(model, texts[1:2]))
    torch.testing.assert_close(rows[0], mug.encode(texts[:1]).pooled[0].detach(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(rows[2], encode_texts(model, texts)[2])
    both = encode_texts(WordedEncoder(model, [odd, mug]), texts)
    torch.testing.assert_close(both, rows, rtol=1e-5, atol=1e-6)
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert torch.equal(worded.encode_image(image).pooled, model.encode_image(image).pooled)
    assert worded.plain("a <mug>, on an <odd> table") == "a , on an table"
    assert model_digest(worded) != model_digest(WordedEncoder(model, [odd])) != model_digest(model)
    long = "a <mug> " * 80
    with pytest.warns(TextCutWarning):
        assert worded.tokenizer([long]).shape == (1, model.tokenizer.context_length)
    with pytest.raises(InputError, match="more than"):
        worded.tokenizer([long], long_text="raise")


def test_words_of_another_model_and_tokenizer_are_told() -> None:
    model = create("tiny").eval()
    token = DirectionalToken(model, "cup", word="<mug>")
    for tokens in ([], [token, token], [DirectionalToken(create("tiny", seed=1).eval(), "cup")]):
        with pytest.raises(InputError, match="tokens: expected words of this model"):
            WordedEncoder(model, tokens)
    assert DirectionalToken(model, "cup", tokenizer=tokenizer_hash(model.tokenizer)).word == "<new>"
    with pytest.raises(InputError, match="tokenizer: the word was learnt"):
        DirectionalToken(model, "cup", tokenizer="0" * 32)
    ids = WordedEncoder(model, [token]).tokenizer(["a <mug>"])
    with pytest.raises(InputError, match="mask: texts"):
        WordedEncoder(model, [token]).encode_text(ids, mask=torch.ones_like(ids, dtype=torch.bool))

"""Ways to read texts past the context: those that fit are read as ever, and no text is cut in silence."""

import warnings

import pytest
import torch

import tether
from families import FAMILIES
from tether.core.errors import InputError, UnsupportedModelError
from tether.models import create
from tether.models.composed.cached import CachedEncoder
from tether.models.embed import encode_texts
from tether.models.encoders.truncated import narrowed
from tether.models.texts.long_texts import CutNotice, StretchedTextEncoder, reading
from tether.models.texts.text_windows import SlidingTextEncoder
from tether.models.tokenizer import TextCutWarning

LONG = "a red dog " * 8
TEXTS = ["a cat", LONG, "a dog"]


@pytest.mark.parametrize("how", ["stretch", "linear"])
@pytest.mark.parametrize("family", ["Tether", "SigLIP 2 NaFlex", "open_clip ViT"])
def test_texts_that_fit_are_read_as_ever(how, family, tmp_path):
    model = FAMILIES[family](tmp_path).double().eval()
    reader = StretchedTextEncoder(model, how=how)
    repeats = {"Tether": 8, "open_clip ViT": 5, "SigLIP 2 NaFlex": 3}[family]
    texts = [TEXTS[0], "a red dog " * repeats, TEXTS[2]]
    ids = reader.tokenizer(texts)
    context = model.tokenizer.context_length
    assert ids.shape[1] > context
    found = reader.encode_text(ids).pooled
    torch.testing.assert_close(found[[0, 2]], model.encode_text(model.tokenizer(texts[::2])).pooled)
    torch.testing.assert_close(found[1:2], reader.long.encode_text(ids[1:2]).pooled)
    kept = min(20, context // 3) if how == "stretch" else 0
    assert reader.tokenizer.context_length == kept + 4 * (context - kept)


def test_what_cannot_be_stretched_is_refused():
    model = create("tiny")
    with pytest.raises(UnsupportedModelError, match="CachedEncoder has no positions to stretch; take windows"):
        reading(CachedEncoder(model), "stretch")
    with pytest.raises(InputError, match="keep: expected at most 22 of 24"):
        StretchedTextEncoder(model, keep=23)
    with pytest.raises(InputError, match="keep: linear"):
        StretchedTextEncoder(model, how="linear", keep=3)
    with pytest.raises(InputError, match="long_text"):
        reading(model, "squeeze")
    reader = StretchedTextEncoder(model)
    with pytest.raises(InputError, match="mask"):
        reader.encode_text(reader.tokenizer([LONG]), mask=torch.ones(1, 1, dtype=torch.bool))


def test_what_is_read_how():
    model = create("tiny")
    assert reading(model, "cut") is model
    assert isinstance(reading(model, "windows"), SlidingTextEncoder)
    assert isinstance(reading(model, "linear"), StretchedTextEncoder)


def test_the_notice_counts_once():
    model = create("tiny")
    for _ in range(2):  # also where the tokenizer itself has warned before
        notice = CutNotice(model)
        with pytest.warns(TextCutWarning, match=r"1 text is longer than 24 tokens .* --long-text"), notice.watching():
            model.embed(TEXTS, long_text="cut")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with notice.watching():
                model.embed(TEXTS, long_text="cut")
        assert notice.told == 1


@pytest.mark.parametrize("dims", [None, 16])
def test_the_notice_names_only_what_reads_more(dims):
    model, past = narrowed(create("tiny"), dims), "a red square " * 80  # 24 tokens, and past stretch's 72
    for how in ("cut", "stretch"):
        with pytest.warns(TextCutWarning, match=r"lost the end: windows reads them whole \(") as said:
            _embedded(reading(model, how), past)
        assert "stretch" not in str(said[0].message)
    with pytest.warns(TextCutWarning, match="1 text is longer than 16384 tokens and lost the end$"):
        _embedded(reading(model, "windows"), "a red square " * 6000)


def _embedded(reader, text):
    notice = CutNotice(reader)
    with notice.watching():
        encode_texts(reader, [text])


def test_evaluation_says_how_many_captions_were_cut():
    model, source = create("tiny"), "scenes:rows=6,size=64,captions=long"
    settings = {"measures": ["retrieval", "clip_score"], "bootstrap": 0}
    with pytest.warns(TextCutWarning, match="longer than 24 tokens") as said:
        cut = tether.eval(model, source, **settings)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = tether.eval(model, source, long_text="windows", **settings)
    assert cut["clip_score"] != whole["clip_score"]


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
@pytest.mark.parametrize("how", ["cut", "windows", "stretch", "linear"])
def test_the_first_numbers_of_a_long_text_are_those_of_the_whole(how):
    model = create("tiny").eval()
    whole, cut = reading(model, how), reading(narrowed(model, 16), how)
    torch.testing.assert_close(encode_texts(cut, TEXTS), encode_texts(whole, TEXTS)[:, :16], atol=1e-5, rtol=0)

"""``tokenizer.json`` of exported folders reads texts as the model's own tokenizer does, or is not written."""

import json

import pytest

from references import bert_words
from tether.core.errors import InputError
from tether.models.convert.tokenizers import MissingTokenizer, transformers_tokenizer
from tether.models.encoders.onnx.tokenizer_json import (
    TOKENIZER_FILE,
    kept_tokenizer,
    read_tokenizer_json,
    same_ids,
    write_tokenizer_json,
)
from tether.models.tokenizer import ClipTokenizer, FunctionTokenizer

tokenizers = pytest.importorskip("tokenizers")
pytestmark = pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
TEXTS = ["a cat", "", "It’s “Woman’s Hat”, NAÏVE 42!", "zwei  Hunde\n🐕 " * 9, "日本語 の 絵"]


def test_clips_own(tmp_path):
    clip = ClipTokenizer(12)
    assert write_tokenizer_json(clip, tmp_path) == ("clip", "")
    made = tokenizers.Tokenizer.from_file(str(tmp_path / TOKENIZER_FILE))
    assert same_ids(clip, made, TEXTS) == 1
    assert same_ids(clip, made, ["a &amp; b", "a cat"]) == 0.5  # HTML, which only open_clip mends
    read = read_tokenizer_json(tmp_path / TOKENIZER_FILE, context=12, vocabulary=clip.vocab_size)
    assert read(TEXTS).tolist() == clip(TEXTS).tolist()
    assert read.cut == 2
    assert isinstance(kept_tokenizer("clip", tmp_path, context=12, vocabulary=49_408), ClipTokenizer)


def test_that_of_another_library(tmp_path):
    bert_words().save_pretrained(tmp_path / "theirs")
    theirs = transformers_tokenizer(tmp_path / "theirs", context=8, vocabulary=64)
    assert write_tokenizer_json(theirs, tmp_path) == ("json", "")
    read = kept_tokenizer("json", tmp_path, context=8, vocabulary=64)
    assert read(TEXTS).tolist() == theirs(TEXTS).tolist()


def test_one_that_no_file_can_say_is_not_written(tmp_path):
    odd = FunctionTokenizer(lambda texts: [[len(text) % 7 + 1] for text in texts], context_length=4, vocab_size=9)
    kind, why = write_tokenizer_json(odd, tmp_path)
    assert (kind, list(tmp_path.iterdir())) == ("none", [])
    assert "take the ids from the model" in why
    kind, why = write_tokenizer_json(MissingTokenizer("it was lost", context_length=4, vocab_size=9), tmp_path)
    assert kind == "none"
    assert "it was lost" in why
    with pytest.raises(InputError, match="exported without one"):
        kept_tokenizer("none", tmp_path, context=4, vocabulary=9)(["a"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "could not be loaded"),
        ("[", "not valid JSON"),
        (json.dumps({"normalizer": [{"type": "Prepend", "prepend": "a" * 2000}]}), "times as long"),
    ],
)
def test_files_of_others(tmp_path, text, said):
    (tmp_path / TOKENIZER_FILE).write_text(text)
    with pytest.raises(InputError, match=said):
        read_tokenizer_json(tmp_path / TOKENIZER_FILE, context=8, vocabulary=64)

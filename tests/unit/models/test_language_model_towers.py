"""Language models of transformers as text towers: the states that the library gives, read out, padded and saved."""

from __future__ import annotations

import pytest
import torch

import tether
from encoders import word_tokenizer
from tether.models import create
from tether.models.compose import compose, open_tower

SHAPE = {
    "vocab_size": 16, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 1,
    "pad_token_id": 0,
}  # fmt: skip
KINDS = ("gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3")
TEXTS = ["a small cat", "dog"]


@pytest.mark.parametrize("kind", KINDS)
def test_as_the_library_reads_it(kind, tmp_path):
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(0)
    whole = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SHAPE)).eval()
    whole.save_pretrained(tmp_path / "text")
    word_tokenizer(tmp_path / "text")
    for output, read in (("mean", lambda states: states.mean(1)), ("lasttoken", lambda states: states[:, -1])):
        tower = open_tower({"name": str(tmp_path / "text"), "output": output}, "text").eval()
        ids = tower.tokenizer(TEXTS)
        for row, length in ((0, 4), (1, 2)):
            states = whole.base_model(input_ids=ids[row : row + 1, :length]).last_hidden_state
            torch.testing.assert_close(tower(ids)[row : row + 1], read(states), rtol=0, atol=1e-5)
    tether.save(create("tiny", seed=1), tmp_path / "image")
    model = compose(image=str(tmp_path / "image"), text=str(tmp_path / "text"), join="embedder", dim=16).eval()
    again = tether.load(tether.save(model, tmp_path / "saved"))
    assert torch.equal(again.encode_text(ids).pooled, model.encode_text(ids).pooled)

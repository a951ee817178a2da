"""A verifiable task for a language model of 132 thousand weights: put three digits in order."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DIGITS = 6
LENGTH = 3
WIDTH, LAYERS, HEADS = 64, 2, 4


def tokenizer() -> PreTrainedTokenizerBase:
    """One token for each digit, one between question and answer, one for padding and the end."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<end>", "=", *map(str, range(DIGITS))]
    core = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<end>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<end>", eos_token="<end>", unk_token="<end>", padding_side="left"
    )


def model(*, seed: int) -> PreTrainedModel:
    """A two-layer Llama with random weights (132 thousand)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=DIGITS + 2,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=32,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=0,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def questions() -> Dataset:
    """Every choice of three digits in every order, such as ``4 0 2 =``."""
    from datasets import Dataset

    rows = [" ".join(map(str, digits)) + " =" for digits in itertools.product(range(DIGITS), repeat=LENGTH)]
    return Dataset.from_dict({"prompt": rows})


def right_places(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Reward of each answer: the share of its places that hold the right digit."""
    rewards = []
    for prompt, completion in zip(prompts, completions, strict=True):
        wanted = sorted(prompt.split()[:LENGTH])
        given = completion.split()
        rewards.append(sum(a == b for a, b in zip(wanted, given, strict=False)) / LENGTH)
    return rewards


def train(
    method: Literal["GRPO", "TROLL"], *, seed: int, steps: int, learning_rate: float, iterations: int
) -> list[float]:
    """Mean reward of each batch of 64 answers, in the order of a run of TRL's trainer or of TROLL's.

    Equal seeds see the same weights and questions; all settings but the loss are the same.

    Args:
        method: whose loss: the clipped ratio with TRL's defaults, or the projection with those of ``TROLLConfig``.
        seed: of weights, questions and draws.
        steps: optimiser steps.
        learning_rate: constant.
        iterations: steps on each batch of answers.

    Raises:
        MissingExtraError: without ``tether-clip[llm]``.
    """
    import tempfile

    from tether.methods.troll.trl import TROLLConfig, TROLLTrainer  # without TRL it says what to install

    # isort: split
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    kind, config = (TROLLTrainer, TROLLConfig) if method == "TROLL" else (GRPOTrainer, GRPOConfig)
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "output_dir": folder,
            "loss_type": "grpo",
            "per_device_train_batch_size": 64,
            "num_generations": 8,
            "max_completion_length": LENGTH,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "constant",
            "max_steps": steps,
            "num_iterations": iterations,
            "logging_steps": iterations,
            "seed": seed,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            "bf16": False,
        }
        trainer = kind(
            model=model(seed=seed),
            reward_funcs=right_places,
            args=config(**settings),
            train_dataset=questions(),
            processing_class=tokenizer(),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]


def last_tenth(rewards: list[float]) -> float:
    """Mean reward of the last tenth of a run's batches, at least one."""
    last = rewards[-max(1, round(len(rewards) / 10)) :]
    return sum(last) / len(last)

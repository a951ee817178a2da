"""A causal language model of transformers that can be told things by rows in the place of words."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.atomic_io import atomic_folder, read_json, write_json, write_text
from tether.core.errors import InputError, MissingExtraError, WriteError, refusing
from tether.core.model_digest import texts_digest
from tether.core.ranges import Count, Positive, checked
from tether.models.config_check import blamed_on, check_values, mapping, other_architecture, without_records
from tether.models.convert.hugging_face import CONFIG_FILE, WEIGHTS_FILES
from tether.models.convert.seeded import seeded
from tether.models.convert.tokenizer_folder import TOKENIZER_FILES, plain_copy
from tether.models.convert.weights import find_weights, read_weights
from tether.models.tokenizer import clip_vocabulary

END = "<|endoftext|>"
Words = Literal["trained", "clip"]


class CausalLM(nn.Module):
    """Any causal language model of transformers with its tokenizer, float32 and in eval mode.

    Made by ``load_causal_lm`` from a folder or by ``small_causal_lm`` from texts.

    Attributes:
        model: the module of transformers.
        tokenizer: transformers' own.
        end: id of the token that ends a text.
        pad: id that stands behind it.
        context: most rows in one pass; None has no limit.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        """Take both.

        Raises:
            InputError: no end token, ids without a row, or a model that looks ahead.
        """
        super().__init__()
        self.model, self.tokenizer = model.eval(), tokenizer
        config = self._config
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else config.eos_token_id
        rows = len(self._table.weight)
        if not isinstance(end, int) or not 0 <= end < rows or len(tokenizer) > rows:
            raise InputError(
                f"language model: expected a tokenizer of at most {rows} ids with an end of text, got {len(tokenizer)} "
                f"ids and the end {end}"
            )
        self.end = end
        self.pad = end if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        with torch.no_grad():
            one, other = self.embed(torch.tensor([[end, end], [end, (end + 1) % rows]], device=self.device))
            looked = self.logits(torch.stack([one, other]))
        if not torch.allclose(looked[0, 0], looked[1, 0], atol=1e-4):
            raise InputError(f"language model: {type(model).__name__} reads later words too; expected a causal one")

    @property
    def _config(self) -> Any:
        return cast(Any, self.model).config

    @property
    def _table(self) -> nn.Embedding:
        return cast(Any, self.model).get_input_embeddings()

    @property
    def dim(self) -> int:
        """Numbers in a row of a word."""
        return self._table.weight.shape[1]

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return len(self._table.weight)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self._table.weight.device

    def behaviour(self) -> dict[str, Any]:
        """What decides its outputs besides its weights, see ``core.model_digest``."""
        words = texts_digest(f"{token} {number}" for token, number in sorted(self.tokenizer.get_vocab().items()))
        config = without_records(json.loads(self._config.to_json_string(use_diff=False)))
        return {"class": type(self.model).__name__, "config": config, "words": words, "end": self.end, "pad": self.pad}

    def embed(self, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b l w"]:
        """The rows of words."""
        return self._table(tokens)

    def logits(self, rows: Float[Tensor, "b n w"]) -> Float[Tensor, "b n v"]:
        """Float32 logits of the word after each row, with gradient."""
        return cast(Any, self.model)(inputs_embeds=rows, use_cache=False).logits.float()

    @checked
    def tokens(self, texts: Sequence[str], *, longest: Annotated[int, Ge(2)] = 64) -> Int[Tensor, "n l"]:
        """Ids with the end after each text, then padding; nothing stands before a text.

        Args:
            texts: any.
            longest: most ids, the end among them; longer texts are cut before it.
        """
        if not texts:
            return torch.empty(0, 0, dtype=torch.int64)
        with refusing("language model: its tokenizer failed"):
            ids = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        rows = [torch.tensor([*row[: longest - 1], self.end]) for row in ids]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)

    def texts(self, tokens: Int[Tensor, "n l"]) -> list[str]:
        """What ids say up to the end, without blanks around it."""
        ended = [row[: row.index(self.end)] if self.end in row else row for row in tokens.tolist()]
        return [text.strip() for text in self.tokenizer.batch_decode(ended, skip_special_tokens=True)]

    def save(self, folder: Path | str) -> Path:
        """Write a folder that ``load_causal_lm`` and transformers open, whole or not at all.

        Raises:
            WriteError: it cannot be written; what stood there before is unchanged.
        """
        folder = Path(folder)
        try:
            with atomic_folder(folder, replace=True) as new, quiet():
                cast(Any, self.model).save_pretrained(new)
                self.tokenizer.save_pretrained(new)
        except WriteError:
            raise
        except Exception as error:  # transformers and safetensors raise of many kinds
            raise WriteError(folder, error) from error
        return folder


def load_causal_lm(folder: Path | str) -> CausalLM:
    """A causal language model from a folder of transformers: plain files and safetensors, no code, no network.

    Args:
        folder: with ``config.json``, ``model.safetensors`` and the tokenizer's files.

    Raises:
        InputError: no such folder, pickles, a kind that transformers has no causal model of, weights that do not fit,
            or a tokenizer that cannot be read.
    """
    transformers = _transformers()
    folder = Path(folder)
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{folder}: expected the folder of a causal language model, with a {CONFIG_FILE}")
    values = mapping(read_json(path), where=str(path))
    kind = str(values.get("model_type"))
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(f"{path}: model_type: transformers has no causal language model of kind {kind!r:.100}")
    weights = find_weights(folder, WEIGHTS_FILES, pickles="pytorch_model*.bin", random_weights=False)
    assert weights is not None
    with blamed_on(path), quiet(), torch.device("meta"):
        check_values(values)
        config = transformers.CONFIG_MAPPING[kind].from_dict(without_records(values))
        outline: Any = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    state, sizes = read_weights(weights), outline.state_dict()
    wrong = [(key, value.shape, sizes[key].shape) for key, value in state.items() if key in sizes]
    wrong = [one for one in wrong if one[1] != one[2]]  # before anything of such a size is made
    if wrong:
        raise other_architecture([f"{key} is {tuple(a)}, expected {tuple(b)}" for key, a, b in wrong], where=weights)
    with refusing(str(weights)), quiet():
        model, report = type(outline).from_pretrained(
            None,
            config=config,
            state_dict=state,
            output_loading_info=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    problems = [f"missing {key}" for key in sorted(report["missing_keys"])]
    problems += [f"{key[0]} is {tuple(key[1])}, expected {tuple(key[2])}" for key in sorted(report["mismatched_keys"])]
    if problems:
        raise other_architecture(problems, where=weights)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"{folder}: expected a tokenizer: one of {', '.join(TOKENIZER_FILES)}")
    with plain_copy(folder) as copy, refusing(f"{folder}: its tokenizer could not be loaded"), quiet():
        write_json(copy / CONFIG_FILE, {"model_type": kind})
        tokenizer = transformers.AutoTokenizer.from_pretrained(copy, trust_remote_code=False, local_files_only=True)
    model.generation_config = transformers.GenerationConfig()  # a folder's own settings of sampling do not count
    return CausalLM(model, tokenizer)


@checked
def small_causal_lm(
    texts: Sequence[str],
    *,
    width: Count = 128,
    layers: Count = 2,
    heads: Count = 4,
    vocabulary: Count = 4096,
    context: Count = 128,
    words: Words = "trained",
    std: Positive = 0.02,
    seed: int = 0,
) -> CausalLM:
    """A small Llama of transformers with random weights, and a tokenizer for some texts.

    Args:
        texts: that a tokenizer is trained on: byte-level BPE, so that any other text can be written too.
        width: of the rows of words.
        layers: number of blocks.
        heads: of each attention; must divide the width.
        vocabulary: most ids of a trained tokenizer; it needs 257.
        context: most rows in one pass.
        words: ``clip`` takes CLIP's tokenizer, of 49,408 lower-case ids, in place of a trained one.
        std: standard deviation of the random weights. Llama's own is meant for widths in the thousands; at a width of
            64 what stands before a word then hardly changes it at first. ``width ** -0.5`` keeps numbers at their size.
        seed: of the weights.

    Raises:
        InputError: no text, or a width that the heads do not divide.

    Example:
        >>> from tether.models.encoders.causal_lm import small_causal_lm
        >>> model = small_causal_lm(["a red ball", "a blue ball"], width=32, layers=1)
        >>> model.texts(model.tokens(["a red ball", "ein Würfel"]))
        ['a red ball', 'ein Würfel']
    """
    transformers = _transformers()
    if words == "trained" and not any(text.strip() for text in texts):
        raise InputError("texts: expected at least one that is not empty, to train a tokenizer on")
    if width % heads or (width // heads) % 2:
        raise InputError(f"heads: expected a number that divides width = {width} into even parts, got {heads}")
    tokenizer = _clip_words() if words == "clip" else _trained_words(texts, vocabulary)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=std,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(config)
    model.generation_config = transformers.GenerationConfig()
    return CausalLM(model, tokenizer)


def _trained_words(texts: Sequence[str], vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    plain.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=letters, show_progress=False
    )
    plain.train_from_iterator(texts, trainer)
    return _transformers().PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=END, pad_token=END)


def _clip_words() -> Any:
    ids, merges = clip_vocabulary()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "vocab.json", json.dumps(ids))
        write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges, ""]))
        named = {"tokenizer_class": "CLIPTokenizer", "eos_token": END, "pad_token": END, "unk_token": END}
        write_json(folder / "tokenizer_config.json", named)
        return _transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", extra="hf") from None
    return transformers


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Transformers draws bars and warns of what is meant; weights that it draws come from a fixed generator."""
    from transformers.utils import logging

    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with seeded():
            yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()

"""Rewriting by a language model: any causal model that transformers reads, from the hub or a folder."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, final

from annotated_types import Gt, Le

from tether.core.errors import InputError, MissingExtraError
from tether.core.model_digest import model_digest
from tether.core.ranges import Count, NonNegative, checked
from tether.data.captions.rng import Chance, below, shuffled

NEW_TOKENS = 77
"""Longest rewrite, released ``llama_rewrite.py``."""
TEMPERATURE, TOP_P = 0.9, 0.95
"""Of LaCLIP's sampling, arXiv 2305.20088 section 4."""
PARAPHRASE_TEMPERATURE, PARAPHRASE_TOP_P = 1.0, 0.1
"""Of ParaCLIP's sampling, released ``call_openai.py``."""
EXAMPLES = 3
"""Example pairs in a prompt of LaCLIP."""
ARROW = "=>"
Form = Literal["auto", "plain", "chat"]
TopP = Annotated[float, Gt(0), Le(1)]


class TextModel(Protocol):
    """Goes on from prompts."""

    @property
    def name(self) -> str:
        """What it is loaded by."""
        ...

    def complete(self, prompts: Sequence[str], *, seed: int) -> list[str]:
        """What follows each prompt, without the prompt; equal seeds give equal texts."""
        ...


@final
class LanguageModel:
    """A causal language model of transformers, loaded at first use, from safetensors alone and without anyone's code.

    Prompts that are longer than the model takes lose their beginning.
    """

    @checked
    def __init__(
        self,
        name: str,
        *,
        new_tokens: Count = NEW_TOKENS,
        temperature: NonNegative = TEMPERATURE,
        top_p: TopP = TOP_P,
        form: Form = "auto",
        device: str = "cpu",
    ) -> None:
        """Take the settings; nothing is loaded yet.

        Args:
            name: on the hub, or a folder.
            new_tokens: most tokens of an answer (>= 1).
            temperature: of the sampling (>= 0); 0 always takes the most likely token.
            top_p: fraction of the probability that is sampled from, in (0, 1].
            form: ``chat`` wraps a prompt as the model's chat template says, ``plain`` does not, ``auto`` does where
                there is a template.
            device: where it runs.
        """
        self.name = name
        self.new_tokens, self.temperature, self.top_p = new_tokens, temperature, top_p
        self.form, self.device = form, device
        self._digest: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords and the weights' digest, as plain values."""
        names = ("new_tokens", "temperature", "top_p", "form")
        return {"model": self.name, "weights": self.digest} | {name: getattr(self, name) for name in names}

    @property
    def digest(self) -> str:
        """Of the weights (``core.model_digest.model_digest``); loads the model where it is not known yet."""
        return self._model()[2]

    def _model(self) -> tuple[Any, Any, str]:
        found = _loaded(self.name, self.device)
        if self._digest is not None and self._digest != found[2]:
            raise InputError(
                f"{self.name}: its weights have digest {found[2][:12]} here, the work began with {self._digest[:12]}"
            )
        self._digest = found[2]
        return found

    def complete(self, prompts: Sequence[str], *, seed: int) -> list[str]:
        """See ``TextModel``.

        Raises:
            MissingExtraError: transformers is not installed.
            InputError: the model cannot be loaded, has no chat template where one is asked for, or its weights are not
                the ones that this object began with.
        """
        import torch

        model, tokenizer, _ = self._model()
        chat = self.form == "chat" or (self.form == "auto" and tokenizer.chat_template is not None)
        if chat and tokenizer.chat_template is None:
            raise InputError(f"{self.name}: form: this model has no chat template; use form='plain'")
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            if chat
            else prompt
            for prompt in prompts
        ]
        window = int(getattr(model.config, "max_position_embeddings", 0) or 1 << 20) - self.new_tokens
        if window < 1:
            raise InputError(f"{self.name}: takes fewer tokens than new_tokens={self.new_tokens}")
        given = tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=window,
            add_special_tokens=not chat,
            return_token_type_ids=False,
        ).to(self.device)
        sampling = self.temperature > 0
        chosen = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0} if sampling else {}
        devices = [] if self.device == "cpu" else [self.device]
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(seed)
            made = model.generate(
                **given,
                do_sample=sampling,
                max_new_tokens=self.new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                **chosen,
            )
        return tokenizer.batch_decode(made[:, given["input_ids"].shape[1] :], skip_special_tokens=True)


@functools.lru_cache(maxsize=2)
def _loaded(name: str, device: str) -> tuple[Any, Any, str]:
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise MissingExtraError("transformers", extra="hf") from None
    plain = {"trust_remote_code": False, "local_files_only": Path(name).is_dir()}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", truncation_side="left", **plain)
        model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, **plain)
    except (OSError, ValueError, KeyError) as error:
        what = "folder" if Path(name).exists() else "model"
        raise InputError(f"{name}: cannot load this {what} as a causal language model: {error}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return model.to(device).eval(), tokenizer, model_digest(model)


def examples() -> tuple[tuple[str, str], ...]:
    """Captions with a rewrite each, written by hand for Tether."""
    text = (resources.files("tether.data.captions") / "lexicons" / "rewrite_examples.tsv").read_text(encoding="utf-8")
    pairs = [line.split("\t") for line in text.splitlines() if line]
    return tuple((before, after) for before, after in pairs)


@final
class LMRewriter:
    """Rewrites by a language model that is shown an instruction, three example pairs and the caption (LaCLIP).

    Three pairs are drawn anew, none twice, for each rewrite. Of the answer the first line counts, up to a further
    arrow; a model that answers nothing gives an empty text, and training then uses the caption.

    Source: arXiv 2305.20088, section 4, and the released ``llama_rewrite.py``. The paper draws pairs from ChatGPT,
    Bard, MSCOCO and human writers, one list for each rewrite; these pairs are ours, and any list may be given.
    """

    @checked
    def __init__(
        self,
        *,
        model: str,
        instruction: str = "write image captions differently,",
        pairs: tuple[tuple[str, str], ...] | None = None,
        new_tokens: Count = NEW_TOKENS,
        temperature: NonNegative = TEMPERATURE,
        top_p: TopP = TOP_P,
        device: str = "cpu",
    ) -> None:
        """Take the settings; the model is loaded at the first rewrite.

        Args:
            model: on the hub, or a folder; a base model, for the prompt is a text to go on from.
            instruction: first line of the prompt.
            pairs: captions and rewrites to draw the examples from, at least three; None takes those that come along.
            new_tokens: see ``LanguageModel``.
            temperature: see ``LanguageModel``.
            top_p: see ``LanguageModel``.
            device: see ``LanguageModel``.
        """
        self._pairs = examples() if pairs is None else tuple(pairs)
        if len(self._pairs) < EXAMPLES:
            raise InputError(f"pairs: expected at least {EXAMPLES}, got {len(self._pairs)}")
        self.instruction = instruction
        self.model = LanguageModel(
            model, new_tokens=new_tokens, temperature=temperature, top_p=top_p, form="plain", device=device
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords as plain values."""
        pairs = [list(pair) for pair in self._pairs]
        return {**self.model.settings, "instruction": self.instruction, "pairs": pairs}

    def prompt(self, text: str, *, generator: Chance) -> str:
        """The text that the model goes on from."""
        chosen = shuffled(self._pairs, generator=generator)[:EXAMPLES]
        shown = [f"{before} {ARROW} {after}" for before, after in chosen]
        return "\n\n".join([self.instruction, *shown, f"{' '.join(text.split())} {ARROW}"])

    def rewrite(self, text: str, *, count: int, generator: Chance) -> list[str]:
        """``count`` rewrites, from one call of the model."""
        prompts = [self.prompt(text, generator=generator) for _ in range(count)]
        answers = self.model.complete(prompts, seed=below(1 << 31, generator=generator))
        return [first_line(answer).partition(ARROW)[0].strip() for answer in answers]


class _Asking:
    """Asks a language model for one text."""

    model: LanguageModel

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the model."""
        return self.model.settings


@final
class LMFuser(_Asking):
    """One sentence of an alt-text and a description, by a language model (VeCLIP).

    Source: arXiv 2310.07699, section 3.2; the wording of the request is ours.
    """

    @checked
    def __init__(self, *, model: str, new_tokens: Count = NEW_TOKENS, form: Form = "auto", device: str = "cpu") -> None:
        """Take the settings; see ``LanguageModel``. The most likely answer is taken, so nothing is drawn."""
        self.model = LanguageModel(model, new_tokens=new_tokens, temperature=0.0, form=form, device=device)

    def fuse(self, alt: str, *, visual: str) -> str:
        """The model's sentence, as it comes; ``fuse_captions`` guards it."""
        prompt = (
            "Merge both texts about one picture into one short sentence. Keep the names of the first and what the "
            f"second sees, say nothing else.\nText: {alt}\nDescription: {visual}\nSentence:"
        )
        return first_line(self.model.complete([prompt], seed=0)[0])


@final
class LMParaphraser(_Asking):
    """Two paraphrases by a language model (ParaCLIP).

    Source: arXiv 2402.15120, section 3.1, with the sampling of the released script; the requests are ours, and the
    second names the words to avoid.
    """

    @checked
    def __init__(
        self,
        *,
        model: str,
        new_tokens: Count = NEW_TOKENS,
        temperature: NonNegative = PARAPHRASE_TEMPERATURE,
        top_p: TopP = PARAPHRASE_TOP_P,
        form: Form = "auto",
        device: str = "cpu",
    ) -> None:
        """Take the settings; see ``LanguageModel``."""
        self.model = LanguageModel(
            model, new_tokens=new_tokens, temperature=temperature, top_p=top_p, form=form, device=device
        )

    def step1(self, caption: str, *, generator: Chance) -> str:
        """A short paraphrase of the caption."""
        return self._answer(f'Paraphrase the caption "{caption}" briefly, with the same meaning.\n', generator)

    def step2(self, paraphrase: str, *, avoid: Collection[str], generator: Chance) -> str:
        """A short paraphrase of the paraphrase."""
        said = ", ".join(sorted(word for word in avoid if word))
        request = f'Paraphrase the text "{paraphrase}" briefly, with the same meaning, without the words {said}.\n'
        return self._answer(request, generator)

    def _answer(self, prompt: str, generator: Chance) -> str:
        answer = self.model.complete([prompt], seed=below(1 << 31, generator=generator))[0]
        return first_line(answer).strip("\"'“” ")


def first_line(answer: str) -> str:
    """The first line of an answer that is not blank."""
    return next((line.strip() for line in answer.splitlines() if line.strip()), "")

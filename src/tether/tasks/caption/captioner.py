"""A captioner: a prefix made of a memory, and a causal language model that goes on from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.ranges import Count, Whole, checked
from tether.core.state_file import SHOWN, check_encoder, read_state, wide_array, write_state
from tether.losses.self_critical import until_end
from tether.models.convert.weights import check_fit, fill
from tether.models.encoders.causal_lm import CausalLM, load_causal_lm, quiet
from tether.tasks.caption.prefix import PrefixAdaptor

How = Literal["greedy", "sample", "beams"]
FILE, LM_FOLDER = "captioner.safetensors", "language_model"
MADE_CAPTIONER = "tether adapt MODEL TEXTS --recipe caption_from_texts --out FOLDER"
"""The command that makes a captioner."""
_FORMAT = "tether-captioner-1"
_ADAPTOR = "adaptor."


@dataclass(frozen=True, slots=True, eq=False)
class DrawnCaptions:
    """Captions as they were written, those of one memory side by side.

    Attributes:
        tokens: (b * samples, l) ids, the language model's padding after the end.
        mask: (b * samples, l) which of them count: all up to the first end token, and that token.
        texts: what they say.
    """

    tokens: Int[Tensor, "n l"]
    mask: Bool[Tensor, "n l"]
    texts: tuple[str, ...]


class PrefixCaptioner(nn.Module):
    """Writes what a memory holds: image tokens, or noisy copies of a text's embedding.

    Attributes:
        adaptor: from the memory to a prefix.
        language_model: goes on from it.

    Example:
        >>> import torch
        >>> from tether.models.encoders.causal_lm import small_causal_lm
        >>> from tether.tasks.caption import PrefixAdaptor, PrefixCaptioner
        >>> words = small_causal_lm(["a red ball", "a blue cube"], width=32, layers=1)
        >>> captioner = PrefixCaptioner(PrefixAdaptor(64, lm_dim=32, n_queries=4), words).eval()
        >>> memory = torch.randn(2, 9, 64)
        >>> drawn = captioner.draw(memory, how="sample", samples=3, longest=6, generator=torch.Generator())
        >>> captioner.log_probabilities(memory, drawn.tokens).shape == drawn.tokens.shape, len(drawn.texts)
        (True, 6)
    """

    def __init__(self, adaptor: nn.Module, language_model: CausalLM) -> None:
        """Take both.

        Args:
            adaptor: gives (b, q, w) for a (b, k, d) memory, such as ``PrefixAdaptor``.
            language_model: whose rows have w numbers.

        Raises:
            InputError: a ``PrefixAdaptor`` for rows of another width.
        """
        super().__init__()
        if isinstance(adaptor, PrefixAdaptor) and adaptor.settings["lm_dim"] != language_model.dim:
            width = adaptor.settings["lm_dim"]
            raise InputError(f"adaptor: expected rows of {language_model.dim} for this language model, got {width}")
        self.adaptor, self.language_model = adaptor, language_model

    def log_probabilities(
        self,
        memory: Float[Tensor, "b k d"],
        tokens: Int[Tensor, "n l"],
        *,
        prompt: str = "",
    ) -> Float[Tensor, "n l"]:
        """Natural logarithm of the probability of each token after those before it, with gradient; 0 after the end.

        Args:
            memory: what is told.
            tokens: captions with their ends, a whole number for each memory and side by side, as ``draw`` gives them.
            prompt: words that stand between prefix and caption.

        Raises:
            InputError: no token, ids that the language model has not, or more than its context.
        """
        samples, left = divmod(len(tokens), max(1, len(memory)))
        if left or not samples or tokens.ndim != 2 or not tokens.shape[1]:
            raise InputError(f"tokens: expected (n, l), n a multiple of {len(memory)}, got {tuple(tokens.shape)}")
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < self.language_model.vocabulary:
            raise InputError(f"tokens: expected ids below {self.language_model.vocabulary}, got {int(tokens.max())}")
        tokens = tokens.to(self.language_model.device)
        before = self._before(memory, prompt=prompt, longest=tokens.shape[1])
        rows = torch.cat([before.repeat_interleave(samples, 0), self.language_model.embed(tokens[:, :-1])], dim=1)
        logits = self.language_model.logits(rows)[:, before.shape[1] - 1 :]
        found = -F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
        return found * until_end(tokens, end=self.language_model.end)

    def loss(self, memory: Float[Tensor, "b k d"], tokens: Int[Tensor, "n l"]) -> Float[Tensor, ""]:
        """Mean negative log-likelihood of the tokens in nats, ends counted and padding not."""
        count = until_end(tokens, end=self.language_model.end).sum()
        return -self.log_probabilities(memory, tokens).sum() / count.to(self.language_model.device)

    @torch.no_grad()
    @checked
    def draw(
        self,
        memory: Float[Tensor, "b k d"],
        *,
        how: How = "greedy",
        samples: Count = 1,
        beams: Count = 4,
        longest: Count = 32,
        shortest: Whole = 0,
        prompt: str = "",
        generator: torch.Generator | None = None,
    ) -> DrawnCaptions:
        """Write captions, in the mode that the captioner is in: dropout counts in training mode.

        Args:
            memory: what is told.
            how: the likeliest token each time, tokens by chance, or the likeliest of some captions kept at once.
            samples: captions of each memory; 1 for ``greedy``, at most ``beams`` for ``beams``, likeliest first.
            beams: captions that are kept at once.
            longest: most tokens, the end among them.
            shortest: tokens before an end may come.
            prompt: words that stand before the caption and are no part of it; they set its tone.
            generator: on the CPU; needed for ``sample``, whose draws leave torch's own generator as it is.

        Raises:
            InputError: no generator for ``sample``, more samples than there can be, or more than the context holds.
        """
        if how == "sample" and generator is None:
            raise InputError("generator: expected one for how='sample', for nothing is drawn from the global one")
        if samples > (most := {"greedy": 1, "beams": beams}.get(how, samples)):
            raise InputError(f"samples: expected at most {most} for how={how!r}, got {samples}")
        if not len(memory):
            nothing = torch.empty(0, 0, dtype=torch.int64, device=self.language_model.device)
            return DrawnCaptions(nothing, nothing.bool(), ())
        before = self._before(memory, prompt=prompt, longest=longest)
        sampling: dict[str, Any] = {"top_k": 0} if how == "sample" else {}
        seed = 0 if generator is None else int(torch.randint(2**62, (), generator=generator))
        device, end, pad = before.device, self.language_model.end, self.language_model.pad
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type), quiet():
            torch.manual_seed(seed)
            tokens = cast(Any, self.language_model.model).generate(
                inputs_embeds=before,
                attention_mask=torch.ones(before.shape[:2], dtype=torch.int64, device=device),
                do_sample=how == "sample",
                num_beams=beams if how == "beams" else 1,
                num_return_sequences=samples,
                max_new_tokens=longest,
                min_new_tokens=min(shortest, longest),
                eos_token_id=end,
                pad_token_id=pad,
                **sampling,
            )
        mask = until_end(tokens, end=end)
        tokens = torch.where(mask, tokens, pad)
        return DrawnCaptions(tokens, mask, tuple(self.language_model.texts(tokens)))

    def _before(self, memory: Tensor, *, prompt: str, longest: int) -> Float[Tensor, "b n w"]:
        """Prefix and prompt, if ``longest`` tokens more have a place."""
        words = self.language_model
        rows = self.adaptor(memory.to(words.device))
        if prompt.strip():
            ids = words.tokens([prompt], longest=words.context or 2**20)[:, :-1].to(words.device)
            rows = torch.cat([rows, words.embed(ids).expand(len(rows), -1, -1)], dim=1)
        if words.context is not None and rows.shape[1] + longest > words.context:
            raise InputError(
                f"longest: {rows.shape[1]} rows of prefix and prompt and {longest} tokens are more than the language "
                f"model's context of {words.context}"
            )
        return rows

    def save(
        self,
        folder: Path | str,
        *,
        encoder: str,
        settings: dict[str, Any] | None = None,
        arrays: dict[str, Tensor] | None = None,
    ) -> Path:
        """Write adaptor and language model to a folder, bound to each other and to an encoder.

        Args:
            folder: where to; made if absent.
            encoder: ``core.model_digest.model_digest`` of the encoder whose rows the memories are.
            settings: further plain values that belong to it.
            arrays: further tensors that belong to it.

        Raises:
            InputError: an adaptor of another class.
            WriteError: it cannot be written.
        """
        if not isinstance(self.adaptor, PrefixAdaptor):
            raise InputError(f"save: expected a PrefixAdaptor, got {type(self.adaptor).__name__}")
        folder = Path(folder)
        self.language_model.save(folder / LM_FOLDER)
        learnt = {f"{_ADAPTOR}{name}": value for name, value in self.adaptor.state_dict().items()} | (arrays or {})
        written = {
            "encoder": encoder,
            "language_model": model_digest(self.language_model),
            "adaptor": self.adaptor.settings,
            "settings": settings or {},
        }
        plain = {name: wide_array(value) for name, value in learnt.items()}
        write_state(folder / FILE, format=_FORMAT, settings=written, arrays=plain)
        return folder

    @classmethod
    def load(
        cls, folder: Path | str, *, encoder: str, language_model: CausalLM | None = None
    ) -> tuple[PrefixCaptioner, dict[str, Any], dict[str, Tensor]]:
        """Read what ``save`` wrote, with nothing unpickled.

        Args:
            folder: of the captioner.
            encoder: digest of the encoder at hand.
            language_model: in place of the one in the folder, which it must equal.

        Returns:
            The captioner in eval mode, and what was saved with it.

        Raises:
            InputError: no captioner, or one of another encoder or another language model.
        """
        path = Path(folder) / FILE
        written, arrays = read_state(path, what="captioner", format=_FORMAT)
        check_encoder(path, recorded=str(written.get("encoder")), encoder=None, digest=encoder)
        words = load_causal_lm(Path(folder) / LM_FOLDER) if language_model is None else language_model
        if (found := model_digest(words)) != (recorded := str(written.get("language_model"))):
            raise InputError(
                f"{path}: was trained with a language model of digest {recorded[:SHOWN]}, not with this one of digest "
                f"{found[:SHOWN]}"
            )
        tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
        state = {name.removeprefix(_ADAPTOR): tensors.pop(name) for name in arrays if name.startswith(_ADAPTOR)}
        try:
            with torch.device("meta"):  # nothing is allocated for what a file merely says
                adaptor = PrefixAdaptor(**written["adaptor"])
            settings = dict(written["settings"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: not the state of a captioner: {error!s:.300}") from error
        check_fit(adaptor, state, where=path)
        fill(adaptor.to_empty(device="cpu"), state, where=path)
        return cls(adaptor, words).to(words.device).eval(), settings, tensors


def check_captioner(folder: str | Path, *, where: str) -> None:
    """Refuse a folder without a captioner, before anything is read.

    Raises:
        InputError: it names the command that makes one.
    """
    if not (local(folder) / FILE).is_file():
        raise InputError(f"{where}: {folder} holds no captioner; expected the folder of one that {MADE_CAPTIONER} made")

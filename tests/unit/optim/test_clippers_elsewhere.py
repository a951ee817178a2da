"""Clippers in other people's loops: the guide's examples as they stand, and what the callbacks promise."""

from __future__ import annotations

import copy
import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tether.core.errors import InputError, MissingExtraError
from tether.methods.adagc import AdaGC
from tether.methods.autoclip import AutoClip
from tether.methods.zclip import ZClip
from tether.optim.clip import GlobalNorm, NonFiniteGradientError

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[3] / "docs/guides/stability.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
BLOCKS = {
    name: next(block for block in EXAMPLES if line in block)
    for name, line in {
        "accelerate": "from accelerate import",
        "transformers": "from transformers import",
        "lightning": "import lightning",
    }.items()
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str) -> dict[str, Any]:
    """The names that an example leaves behind."""
    space: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries: workers, devices, checkpoint folders
        exec(BLOCKS[name], space)
    return space


def same_state(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(second[key], value, rtol=0, atol=0, equal_nan=True, msg=key)
        else:
            assert second[key] == value, key


def test_guide_accelerate(here: Path) -> None:
    space = run("accelerate")
    assert len(space["clipper"].history) == 4, "once for each step of the optimiser"
    saved = space["clipper"].state_dict()
    space["clipper"].load_state_dict(AutoClip().state_dict())
    assert not len(space["clipper"].history)
    space["accelerator"].load_state("state")
    same_state(space["clipper"].state_dict(), saved)


def test_guide_transformers(here: Path) -> None:
    space = run("transformers")
    clipper = space["clipping"].clipper
    assert len(clipper.history) == 8
    assert "clip_threshold" in space["trainer"].state.log_history[0]
    weights = copy.deepcopy(space["model"].state_dict())
    for extra in ({}, {"restore_callback_states_from_checkpoint": True}):
        again = AutoClip()
        space["arguments"] = space["TrainingArguments"](**{**FAST, "max_steps": 8, "save_steps": 4, **extra})
        callback = space["ClippingCallback"](again)
        torch.manual_seed(7)
        fresh = space["Tiny"](8, 1)
        trainer = space["Trainer"](fresh, space["arguments"], train_dataset=space["data"], callbacks=[callback])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.train(resume_from_checkpoint="run/checkpoint-4")
        now = next(c for c in trainer.callback_handler.callbacks if type(c) is space["ClippingCallback"]).clipper
        assert torch.equal(now.history, clipper.history)
        for key, value in weights.items():
            assert torch.equal(fresh.state_dict()[key], value), key


def test_guide_lightning(here: Path) -> None:
    space = run("lightning")
    clipper = space["clipping"].clipper
    assert set(clipper.gamma) == {"layer.weight", "layer.bias"}
    assert int(clipper.state_dict()["steps"]) == 8
    again = space["ClippingCallback"](AdaGC(warmup_steps=4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = space["lightning"].Trainer(
            max_steps=8,
            callbacks=[again],
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = torch.utils.data.DataLoader(space["data"], batch_size=8)
        trainer.fit(space["Module"](), loader, ckpt_path="lightning.ckpt")
    same_state(again.clipper.state_dict(), clipper.state_dict())


FAST = {
    "output_dir": "run",
    "max_grad_norm": 0,
    "max_steps": 6,
    "save_strategy": "steps",
    "save_steps": 3,
    "logging_steps": 1,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "weight_decay": 0.1,
    "learning_rate": 0.01,
}


class Poisoned(nn.Module):
    """A loss that is NaN in the third and only the third batch; the weights after every step are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.calls = 0

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        loss = (self.layer(x).squeeze(-1) - labels).square().mean()
        return {"loss": loss * (torch.nan if self.calls == 3 else 1.0)}


def rows() -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [{"x": torch.randn(4, generator=draw), "labels": torch.randn((), generator=draw)} for _ in range(48)]


def test_trainer_leaves_weights_and_moments_alone_when_not_finite(here: Path) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from tether.optim.integrations.transformers import ClippingCallback

    seen: list[tuple[Tensor, Tensor]] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            weight = kwargs["model"].layer.weight
            moments = kwargs["optimizer"].state[weight]
            seen.append((weight.detach().clone(), moments["exp_avg"].clone()))

    clipping = ClippingCallback({"name": "autoclip", "percentile": 50})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(Poisoned(), TrainingArguments(**FAST), train_dataset=rows(), callbacks=[clipping, Watch()])
        trainer.train()
    for before, after in zip(seen[1], seen[2], strict=True):
        assert torch.equal(before, after), "the step that was not finite moved something"
    for before, after in zip(seen[2], seen[3], strict=True):
        assert not torch.equal(before, after)
    assert int(clipping.skipped) == 1
    assert len(clipping.clipper.history) == 5
    assert [entry["clip_skipped"] for entry in trainer.state.log_history if "clip_skipped" in entry] == [
        0,
        0,
        1,
        1,
        1,
        1,
    ]


def test_trainer_refuses_what_would_clip_or_step_beside_it(here: Path) -> None:
    from transformers import Trainer, TrainingArguments

    from tether.optim.integrations.transformers import ClippingCallback

    class Own:
        """A clipper that only follows the protocol."""

        def __init__(self) -> None:
            self.inner = GlobalNorm(1.0)
            self.clip_, self.state_dict, self.load_state_dict = (
                self.inner.clip_,
                self.inner.state_dict,
                self.inner.load_state_dict,
            )

    def trainer(*callbacks: ClippingCallback, **keywords: Any) -> Trainer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Trainer(
                Poisoned(), TrainingArguments(**{**FAST, **keywords}), train_dataset=rows(), callbacks=list(callbacks)
            )

    with pytest.raises(InputError, match=r"max_grad_norm=1.0 as well; give TrainingArguments max_grad_norm=0"):
        trainer(ClippingCallback("zclip"), max_grad_norm=1.0)
    late = trainer(max_grad_norm=0.5)
    late.add_callback(ClippingCallback("zclip"))
    with pytest.raises(InputError, match=r"max_grad_norm=0\.5"):
        late.train()
    with pytest.raises(InputError, match="leave it off"):
        trainer(ClippingCallback(Own()), restore_callback_states_from_checkpoint=True)
    with pytest.raises(InputError, match="takes one ClippingCallback"):
        trainer(ClippingCallback("zclip"), ClippingCallback("none")).train()
    with pytest.raises(InputError, match="clipper: unknown part 'zcilp'; did you mean 'zclip'"):
        ClippingCallback("zcilp")
    with pytest.raises(NonFiniteGradientError, match=r"layer\.weight"):
        trainer(ClippingCallback(AutoClip(nonfinite="raise"))).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(max_steps=3, logging_steps=3).train()
        own = Own()
        trainer(ClippingCallback(own)).train(resume_from_checkpoint="run/checkpoint-3")  # a checkpoint without clipper
    assert (here / "run/checkpoint-6").exists()


def test_trainer_that_asks_before_it_unscales_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

    from tether.optim.integrations.transformers import ClippingCallback

    arguments, given = TrainingArguments(**FAST), (TrainerState(), TrainerControl())
    arguments.fp16 = True  # after the check that there is a GPU
    ClippingCallback("zclip").on_init_end(arguments, *given)
    monkeypatch.delattr(Trainer, "_get_grad_norm")  # as in transformers 4
    with pytest.raises(InputError, match="with fp16 this version of transformers asks callbacks before"):
        ClippingCallback("zclip").on_init_end(arguments, *given)
    arguments.fp16 = False
    ClippingCallback("zclip").on_init_end(arguments, *given)


def test_trainer_with_another_state_is_refused(here: Path) -> None:
    from transformers import Trainer, TrainingArguments

    from tether.optim.integrations.transformers import ClippingCallback

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for clipper in (AutoClip(20.0), AutoClip(30.0)):
            trainer = Trainer(
                Poisoned(), TrainingArguments(**FAST), train_dataset=rows(), callbacks=[ClippingCallback(clipper)]
            )
            if clipper.percentile == 20.0:
                trainer.train()
            else:
                with pytest.raises(InputError, match=r"percentile is 20.0 there and 30.0 here"):
                    trainer.train(resume_from_checkpoint="run/checkpoint-3")


def test_lightning_leaves_weights_alone_and_clips_each_optimiser_by_its_own(here: Path) -> None:
    import lightning

    from tether.optim.integrations.lightning import ClippingCallback

    class Two(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.first, self.second = Poisoned(), Poisoned()
            self.weights: list[Tensor] = []

        def training_step(self, batch: dict[str, Tensor]) -> None:
            for part, optimizer in zip((self.first, self.second), self.optimizers(), strict=True):
                optimizer.zero_grad()
                self.manual_backward(part(**batch)["loss"])
                optimizer.step()
            self.weights.append(self.first.layer.weight.detach().clone())

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            parts = (self.first, self.second)
            return [torch.optim.AdamW(part.parameters(), lr=0.01, weight_decay=0.1) for part in parts]

    def fit(*callbacks: ClippingCallback, **keywords: Any) -> Two:
        module = Two()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lightning.Trainer(
                max_epochs=1,
                callbacks=list(callbacks),
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                **keywords,
            ).fit(module, torch.utils.data.DataLoader(rows(), batch_size=8))
        return module

    callbacks = [ClippingCallback(AutoClip()), ClippingCallback(AdaGC(warmup_steps=1), optimizer=1)]
    assert callbacks[0].state_key != callbacks[1].state_key
    weights = fit(*callbacks).weights
    assert torch.equal(weights[1], weights[2]), "the step that was not finite moved something"
    assert not torch.equal(weights[2], weights[3])
    assert [int(callback.skipped) for callback in callbacks] == [1, 1]
    assert len(callbacks[0].clipper.history) == 5
    assert set(callbacks[1].clipper.gamma) == {"second.layer.weight", "second.layer.bias"}
    with pytest.raises(InputError, match="optimizer 2 of a module that has 2"):
        fit(ClippingCallback(ZClip(), optimizer=2))
    assert ClippingCallback({"name": "autoclip", "percentile": 50}).clipper.state_dict()["settings"]["percentile"] == 50
    with pytest.raises(InputError, match="clipper: unknown part 'zcilp'; did you mean 'zclip'"):
        ClippingCallback("zcilp")


@pytest.mark.filterwarnings("ignore")
def test_lightning_refuses_a_trainer_that_clips(here: Path) -> None:
    example = BLOCKS["lightning"].replace("max_steps=8", "max_steps=8, gradient_clip_val=0.5")
    with pytest.raises(InputError, match=r"gradient_clip_val=0.5 as well; leave it None"):
        exec(example, {})


@pytest.mark.filterwarnings("ignore")
def test_lightning_goes_on_where_it_stopped(here: Path) -> None:
    space = run("lightning")

    def fit(epochs: int, *, ckpt: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
        torch.manual_seed(3)
        module, callback = space["Module"](), space["ClippingCallback"](AdaGC(warmup_steps=4))
        trainer = space["lightning"].Trainer(
            max_epochs=epochs,
            callbacks=[callback],
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, torch.utils.data.DataLoader(space["data"], batch_size=8), ckpt_path=ckpt)
        trainer.save_checkpoint("part.ckpt")
        return callback.clipper.state_dict(), module.state_dict()

    straight = fit(3, ckpt=None)
    fit(1, ckpt=None)
    for first, second in zip(straight, fit(3, ckpt="part.ckpt"), strict=True):
        same_state(first, second)


def test_hidden_shards_are_refused() -> None:
    from tether.optim.integrations import refuse_hidden_shards

    class FullyShardedDataParallel(nn.Module):
        """Stands for torch's own, which needs a process group."""

    refuse_hidden_shards(nn.Sequential(nn.Linear(1, 1)))
    with pytest.raises(InputError, match="FSDP1"):
        refuse_hidden_shards(nn.Sequential(FullyShardedDataParallel()))


@pytest.mark.parametrize(("library", "extra"), [("transformers", "hf"), ("lightning", "lightning")])
def test_a_missing_library_is_named_with_its_extra(library: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = f"tether.optim.integrations.{library}"
    monkeypatch.delitem(sys.modules, ours, raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setitem(sys.modules, f"{library}.pytorch", None)
    with pytest.raises(MissingExtraError, match=rf"'{library}'; install it with: pip install 'tether-clip\[{extra}\]'"):
        importlib.import_module(ours)


def test_clippers_import_no_trainer() -> None:
    code = "import sys, tether.optim.clip; assert not {'transformers', 'lightning', 'accelerate'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

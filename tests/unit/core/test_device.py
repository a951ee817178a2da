"""The device of a model, also where torch is built for an accelerator that the machine lacks."""

import re
from pathlib import Path

import pytest
import torch

import tether
from tether.core.device import chosen_device
from tether.core.errors import InputError
from tether.models import create


@pytest.fixture
def cuda_build(monkeypatch):
    """PyPI's torch for Linux is built for CUDA, and names it as the accelerator where there is no GPU, too."""

    def accelerator(check_available=False):
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", accelerator)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


@pytest.mark.usefixtures("cuda_build")
def test_without_a_gpu_auto_is_the_processor(tmp_path):
    assert chosen_device("auto") == torch.device("cpu")
    folder = tether.save(create("tiny"), tmp_path)
    assert tether.load(folder, device="auto").logit_scale.device.type == "cpu"


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "nosuch"])
def test_a_device_that_is_not_here_is_one_sentence(device):
    with pytest.raises(
        InputError, match=rf"^device '{device}': not here; expected cpu, cuda, cuda:N, mps or auto"
    ) as caught:
        chosen_device(device)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_device_is_chosen_in_one_place():
    root = Path(tether.__file__).parent
    asks = re.compile(r"current_accelerator|accelerator\.is_available|cuda\.is_available|mps\.is_available")
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if asks.search(path.read_text())}
    assert found == {"core/device.py"}

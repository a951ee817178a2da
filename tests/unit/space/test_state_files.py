"""State files: settings of NumPy and torch are written, what cannot be written or read back is said by name."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tether.core.errors import InputError
from tether.space.serialisation import read_state, write_state


def test_settings_of_numpy_and_torch(tmp_path):
    settings = {"count": np.int64(3), "ridge": np.float32(0.5), "list": np.arange(2), "tensor": torch.ones(1)}
    write_state(tmp_path / "x", format="f", settings=settings, arrays={"a": np.ones(2)})
    found, arrays = read_state(tmp_path / "x", what="Part", format="f", arrays=frozenset({"a"}))
    assert found == {"count": 3, "ridge": 0.5, "list": [0, 1], "tensor": [1.0]}
    assert arrays["a"].tolist() == [1.0, 1.0]


def test_a_setting_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="settings: expected plain values: got <object"):
        write_state(tmp_path / "x", format="f", settings={"a": object()}, arrays={"a": np.ones(2)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [None, "{", "[1]"])
def test_settings_that_cannot_be_read(tmp_path, settings):
    metadata = {"format": "f"} | ({} if settings is None else {"settings": settings})
    save_file({"a": np.ones(2)}, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(InputError, match=r"x\.safetensors: settings: "):
        read_state(tmp_path / "x.safetensors", what="Part", format="f", arrays=frozenset({"a"}))

"""State files: every fitted estimator keeps its own, and what cannot be written or read back is said by name."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tether.core.errors import InputError
from tether.core.state_file import read_state, write_state
from tether.methods.mmcl_robustness import LinearMMCL
from tether.methods.moral_direction import ConceptDirection
from tether.methods.positional_artefacts import OutlierClipper
from tether.space import ConformityEstimator, Whitener

ROWS = np.random.default_rng(0).standard_normal((200, 12)) * np.linspace(3, 0.2, 12) + 2
COPIES = np.column_stack([ROWS, 2 * ROWS[:, 1] - 3])
# Name -> how it is made, what it is fitted on, and what is asked of it.
FITTED = {
    "whitener": (Whitener(shrinkage=0.1, eps=1e-4), (COPIES,), "log_likelihood"),
    "noisy whitener": (Whitener(replace="noise", random_state=np.random.RandomState(0)), (COPIES,), "transform"),
    "direction": (ConceptDirection(n_components=2), (ROWS, ROWS[:, 3]), "score_samples"),
    "conformity": (ConformityEstimator(), (ROWS,), "predict"),
    "linear towers": (LinearMMCL(rank=2), (ROWS, ROWS[:, :4]), "transform"),
    "clipper": (OutlierClipper(count=2), (ROWS,), "transform"),
}


@pytest.mark.parametrize("name", FITTED)
def test_an_estimator_survives_a_file_exactly(tmp_path, name):
    made, given, asked = FITTED[name]
    fitted = type(made)(**made.get_params()).fit(*given)
    fitted.save(tmp_path / "state")
    again = type(made).load(tmp_path / "state")
    assert again.get_params() | {"random_state": None} == fitted.get_params() | {"random_state": None}
    assert again.n_features_in_ == given[0].shape[1]
    np.testing.assert_array_equal(getattr(again, asked)(given[0]), getattr(fitted, asked)(given[0]))
    for attribute, value in vars(fitted).items():
        if attribute.endswith("_") and attribute != "labels_":
            assert type(getattr(again, attribute)) is type(value), attribute
            np.testing.assert_array_equal(getattr(again, attribute), value)


@pytest.mark.parametrize("name", [name for name in FITTED if name != "clipper"])
def test_files_of_something_else_are_refused(tmp_path, name):
    kind = type(FITTED[name][0])
    with pytest.raises(InputError, match="no such file"):
        kind.load(tmp_path / "none")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"mean_": 1}))
    with pytest.raises(InputError, match="not a safetensors file"):
        kind.load(tmp_path / "pickle")
    write_state(tmp_path / "other", format="tether-other-1", settings={}, arrays={"mean_": np.ones(3)})
    with pytest.raises(InputError, match=f"expected the state of a {kind.__name__}"):
        kind.load(tmp_path / "other")


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

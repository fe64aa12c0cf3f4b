"""Weights in files and dictionaries: exact round trips; damaged files and other models' weights are refused."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from support.assertions import refused
from support.fake_device import install

from nl_models import build, cnn3, load_state, mlp
from nl_nodes import Device, UserError

install()
NARROW = {"mlp": 10, "cnn3": 8, "simple_convnet": 5, "cnn8": 8, "vgg11": 4, "vgg16": 4}
RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((6, 1, 28, 28)) + 2, RNG.integers(0, 10, 6)


def trained(name: str, **options):
    """Return a network whose parameters and running statistics differ from a new one's."""
    net = build(name, width=NARROW[name], batch_norm=True, **options)
    net.params.flat[...] += net.gradient(X, T).flat
    return net


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NARROW)
def test_weight_file_round_trip_is_bit_exact(tmp_path: Path, name: str, dtype: str) -> None:
    net, path = trained(name, device=Device(dtype=dtype)), tmp_path / "weights.safetensors"
    net.save(path)
    other = build(name, width=NARROW[name], batch_norm=True, seed=9, device=Device(dtype=dtype))
    fresh = other.state_dict()
    assert not any(np.array_equal(net.state_dict()[key], fresh[key]) for key in ("W1", "running_mean1", "running_var1"))
    views = dict(other.params)
    other.load(path)
    assert same(net.state_dict(), other.state_dict())
    np.testing.assert_array_equal(net.predict(X), other.predict(X))
    assert all(np.shares_memory(other.params[key], view) for key, view in views.items())  # still a live view
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


def test_file_has_running_statistics_and_unchanged_parameter_layout(tmp_path: Path) -> None:
    net = trained("cnn3")
    net.save(tmp_path / "w")
    held = load_state(tmp_path / "w")
    assert set(held) == {"W1", "gamma1", "beta1", "running_mean1", "running_var1", "W2", "b2", "W3", "b3"}
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(held[key], value)


def test_weights_load_on_another_dtype_and_device(tmp_path: Path) -> None:
    net = trained("cnn3", device=Device(dtype="float64"))
    net.save(tmp_path / "w")
    single = cnn3(width=8, batch_norm=True)
    single.load(tmp_path / "w")
    np.testing.assert_array_equal(single.params["W1"], net.params["W1"].astype("float32"))
    assert single.params["W1"].dtype == "float32"
    fake = cnn3(width=8, batch_norm=True, device=Device("fake", dtype="float64"))
    fake.load(tmp_path / "w")
    assert same(fake.state_dict(), net.state_dict())
    fake.save(tmp_path / "again")
    assert same(load_state(tmp_path / "again"), load_state(tmp_path / "w"))


def test_saving_replaces_an_existing_file(tmp_path: Path) -> None:
    net, path = trained("mlp"), tmp_path / "w"
    path.write_bytes(b"old" * 1_000_000)
    net.save(path)
    assert same(load_state(path), net.state_dict())
    assert path.stat().st_size < 1_000_000
    with pytest.raises(UserError, match=r"cannot write .*nowhere"):
        net.save(tmp_path / "nowhere" / "w")


class Boom:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def header(**tensors) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


SPOILT = {
    "empty": lambda whole: b"",
    "truncated in the numbers": lambda whole: whole[:-5],
    "truncated in the header": lambda whole: whole[:40],
    "something behind": lambda whole: whole + b"xx",
    "another format": lambda whole: b"PK\x03\x04" + bytes(200),
    "half of it": lambda whole: whole[: len(whole) // 2],
    "a huge header": lambda whole: (2**62).to_bytes(8, "little") + whole[8:],
    "an unknown dtype": lambda whole: header(W1={"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}) + bytes(4),
    "a dtype without arrays": lambda whole: (
        header(W1={"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}) + bytes(2)
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_truncated_file_is_refused_and_changes_nothing(tmp_path: Path, how: str) -> None:
    net, path = trained("cnn3"), tmp_path / "w.safetensors"
    net.save(path)
    path.write_bytes(SPOILT[how](path.read_bytes()))
    before = net.state_dict()
    with pytest.raises(UserError, match=r"w\.safetensors") as error:
        net.load(path)
    assert "\n" not in str(error.value)
    assert same(before, net.state_dict())


def test_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    path, ran = tmp_path / "w.pkl", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Boom(ran)))
    with pytest.raises(UserError):
        mlp(hidden=[4]).load(path)
    assert not ran.exists()


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            mlp(hidden=[4]).load(path)


OTHERS = {
    "lack b1": lambda: mlp(hidden=[4], batch_norm=True),
    "hold W3": lambda: mlp(hidden=[4, 4]),
    "lack W1|W1 is": lambda: mlp(hidden=[5]),
    "W1 is": lambda: mlp(hidden=[4], input_shape=(3, 8, 8)),
    "W2 is|b2 is": lambda: mlp(hidden=[4], classes=3),
}


@pytest.mark.parametrize("message", OTHERS)
def test_weights_of_another_model_are_refused_and_change_nothing(tmp_path: Path, message: str) -> None:
    OTHERS[message]().save(tmp_path / "w")
    net = mlp(hidden=[4])
    before = net.state_dict()
    with pytest.raises(UserError, match=message):
        net.load(tmp_path / "w")
    assert same(before, net.state_dict())


def test_state_dict_is_a_copy() -> None:
    net = trained("cnn3")
    state = net.state_dict()
    ctx = {key: value.copy() for key, value in state.items()}
    net.gradient(X, T)
    net.params.flat[...] = 0
    assert same(state, ctx)
    net.load_state_dict(state)
    assert same(net.state_dict(), ctx)
    state["W1"] += 1
    assert same(net.state_dict(), ctx)


@pytest.mark.parametrize(("state", "told"), [(None, "NoneType"), ([1], "list"), ({"W1": [1.0]}, "W1 must be an array")])
def test_weights_that_are_no_arrays_by_name_are_refused(state: object, told: str) -> None:
    net = mlp(hidden=[4])
    with refused("mlp", told):
        net.load_state_dict({**net.state_dict(), **state} if isinstance(state, dict) else state)


def test_weights_of_a_dtype_that_numpy_lacks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    header = json.dumps({"W1": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with refused(str(path), "save them as float32"):
        load_state(path)


@pytest.mark.parametrize("kind", ["int32", "bool"])
def test_integer_and_bool_weights_are_refused(kind: str) -> None:
    net = mlp(width=10)
    state = {name: array.astype(kind) for name, array in net.state_dict().items()}
    with pytest.raises(UserError, match=f"must be floating-point numbers: .* is {kind}"):
        net.load_state_dict(state)

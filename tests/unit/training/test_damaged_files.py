"""Damaged files and arbitrary command lines: either valid or refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.assertions import at_most_refused

from nl_models import mlp
from nl_models.weights import load_state, save_state
from nl_nodes import UserError
from nl_nodes.runtime.cut import ProductCut
from nl_nodes.verify.certificate import Certificate, Verdict, load_certificate
from nl_training.config.cli import check
from nl_training.training.checkpoint import Snapshot, read, write

SNAPSHOT = Snapshot(
    {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "n": np.arange(3)}, {"step": 7, "a": [1, None]}
)
CERTIFICATE = Certificate(
    fingerprint="f" * 64, code="c" * 64, nodes=3, edges=2, dtype="float64", device="cpu", oracle="complex step",
    tolerance=1e-10, draws=3, seed=0, tensors=(Verdict("w", (3, 4), 1e-15, 1.0, 3, 0.5, 0.5, "verified"),),
    missing_tensors=(), structural_zeros=(), mutation=None, gpu="not run", seconds=0.5,
    product_cut=ProductCut(5, narrow=True),
)  # fmt: skip
NET = mlp(input_shape=(1, 2, 2), width=4)


@st.composite
def damage(draw: st.DrawFn, whole: bytes) -> bytes:
    """Draw the bytes of a file that is truncated, changed, lengthened or replaced by others."""
    at = draw(st.integers(0, len(whole) - 1))
    way = draw(st.sampled_from(["flip", "cut", "patch", "insert", "drop", "other", "header"]))
    if way == "flip":
        return whole[:at] + bytes([whole[at] ^ 1 << draw(st.integers(0, 7))]) + whole[at + 1 :]
    if way == "cut":
        return whole[:at]
    noise = draw(st.binary(min_size=1, max_size=12))
    if way == "patch":
        return whole[:at] + noise + whole[at + len(noise) :]
    if way == "insert":
        return whole[:at] + noise + whole[at:]
    if way == "drop":
        return whole[:at] + whole[at + len(noise) :]
    if way == "other":
        return draw(st.binary(max_size=200))
    return draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little") + whole[8:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("whole")
    write(SNAPSHOT, made / "checkpoint")
    save_state(NET.state_dict(), made / "weights")
    CERTIFICATE.save(made / "certificate")
    return made


@given(st.data())
def test_a_damaged_checkpoint_is_refused(folder: Path, data: st.DataObject) -> None:
    whole = (folder / "checkpoint").read_bytes()
    broken = data.draw(damage(whole))
    (folder / "damaged").write_bytes(broken)
    if broken == whole:
        assert read(folder / "damaged").facts == SNAPSHOT.facts
        return
    with pytest.raises(UserError) as caught:
        read(folder / "damaged")
    assert "\n" not in str(caught.value)


@given(st.data())
def test_a_damaged_certificate_is_refused(folder: Path, data: st.DataObject) -> None:
    whole = (folder / "certificate").read_bytes()
    broken = data.draw(damage(whole))
    (folder / "damaged").write_bytes(broken)
    if broken == whole:
        assert load_certificate(folder / "damaged", "f" * 64, "c" * 64) == CERTIFICATE
        return
    with pytest.raises(UserError) as caught:
        load_certificate(folder / "damaged", "f" * 64, "c" * 64)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_damaged_weights_are_refused_or_fit_the_model(folder: Path, data: st.DataObject) -> None:
    """Weight files have no checksum: changed numbers pass; wrong names, shapes and dtypes are refused."""
    (folder / "damaged").write_bytes(data.draw(damage((folder / "weights").read_bytes())))
    with at_most_refused():
        NET.load(folder / "damaged")
        state = load_state(folder / "damaged")
        assert {name: array.shape for name, array in state.items()} == {k: v.shape for k, v in NET.state_dict().items()}
        assert all(array.dtype.kind == "f" for array in state.values())


@given(st.data())
def test_hand_written_checkpoint_executes_nothing(folder: Path, data: st.DataObject) -> None:
    """The checksum detects corruption, not tampering: the content may still be invalid."""
    from hashlib import sha256

    facts = data.draw(st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
    header = {"__metadata__": data.draw(st.sampled_from([None, 3, {}, {"node-layer-network checkpoint 1": facts}]))}
    text = json.dumps(header | {"sha256": {"dtype": "U8", "shape": [32], "data_offsets": [0, 32]}}).encode()
    head = len(text).to_bytes(8, "little") + text
    (folder / "damaged").write_bytes(head + sha256(head).digest())
    with pytest.raises(UserError):
        read(folder / "damaged")


WORDS = ["model", "optimizer", "trainer.epochs", "data.root", "experiment", "hydra.run.dir", "seed", "device"]


@given(st.lists(st.one_of(
    st.text(max_size=20),
    st.tuples(st.sampled_from(WORDS), st.sampled_from(["=", "+=", "~", "@", "=="]), st.text(max_size=12)).map("".join),
), min_size=1, max_size=3), st.booleans())  # fmt: skip
def test_any_command_line_is_accepted_or_refused_in_one_line(overrides: list[str], multirun: bool) -> None:
    with at_most_refused():
        check(overrides, multirun)

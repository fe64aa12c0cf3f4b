"""Certificates: what a fingerprint is of, what a seal notices, what is found wrong and where."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.assertions import refused

from nl_nodes import Add, Constant, Dot, Exp, Graph, Input, Max, Mul, MulConst, Node, Parameter, Sum, Tanh, ValueMask
from nl_nodes.nodes.arithmetic import Elementwise
from nl_nodes.verify import certify, code_hash, complex_step, fingerprint, first_wrong, load_certificate

RNG = np.random.default_rng(0)
W, B = RNG.standard_normal((4, 3)), RNG.standard_normal(3)
X = RNG.standard_normal((5, 4))


def net(c: float = 0.5, w=W, swap: bool = False, node=MulConst) -> Graph:
    """sum(exp(c relu(x w + b)))"""
    pair = (Dot(Input("x", (5, 4), gradient=False), Parameter(w, "w")), Parameter(B[: w.shape[1]], "b"))
    return Graph(Sum(Exp(node(ValueMask(Add(*(pair[::-1] if swap else pair))), c))))


def made(**options):
    return certify(net(), {"x": X}, np.float64(1.25), **options)


class Wrong(MulConst, abstract=True):
    """Its backward is off by a thousandth."""

    def backward(self, ctx, dy):
        return dy * self.c * 1.001


def test_the_complex_step_breaks_no_tie() -> None:
    """Both products are exactly 0, and of tied maxima the first one counts."""
    w = Parameter(np.array([2.0, 3.0]), "w")
    graph = Graph(Max(Mul(w, Tanh(Add(w, Constant([-2.0, -3.0])))), axis=0))
    gradient = graph.run().backward(np.float64(1))["w"]
    np.testing.assert_array_equal(gradient, [2, 0])
    assert complex_step(graph, {}, "w", np.array([2.0, 1.0]), 1.0) == pytest.approx(4, rel=1e-15)


def test_a_fingerprint_is_of_attributes_edges_shapes_and_not_of_values() -> None:
    same = fingerprint(net())
    assert same == fingerprint(net(w=W + 1))
    others = [net(c=0.25), net(swap=True), net(w=W[:, :2]), net(node=Wrong)]
    assert len({same, *map(fingerprint, others)}) == 5


def test_a_fingerprint_is_of_the_code_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    before, code = fingerprint(net()), code_hash(net())
    monkeypatch.setattr(Exp, "backward", lambda self, ctx, dy: dy * ctx.output * 1.001)
    assert (before, code) != (fingerprint(net()), code_hash(net()))
    assert code != code_hash(net())
    monkeypatch.undo()
    assert (before, code) == (fingerprint(net()), code_hash(net()))


def test_a_fingerprint_is_of_the_text_of_a_nodes_module_and_the_same_in_every_process(tmp_path: Path) -> None:
    text = "from nl_nodes import MulConst\n\n\nclass Half(MulConst):\n    pass\n\n\ndef helper():\n    return {0}\n"
    code = (
        "import half, numpy as np; from nl_nodes import Graph, Input; from nl_nodes.verify import fingerprint;"
        "print(fingerprint(Graph(half.Half(Input('x', (2,)), 0.5))))"
    )

    def printed(helper: int, hash_seed: str) -> str:
        (tmp_path / "half.py").write_text(text.format(helper))
        environment = {"PYTHONPATH": str(tmp_path), "PYTHONHASHSEED": hash_seed, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout

    first = printed(1, "1")
    assert len(first.strip()) == 64
    assert printed(1, "2") == first
    assert printed(2, "1") != first


def test_a_right_graph_is_verified_tensor_by_tensor() -> None:
    told = []
    certificate = made(progress=lambda what, done, total: told.append((what.split()[0], done, total)))
    assert told == [("w", 1, 2), ("b", 2, 2)]
    assert (certificate.status, certificate.missing, certificate.structural_zeros) == ("verified", (), ())
    assert [(v.name, v.shape, v.directions, v.verdict) for v in certificate.tensors] == [
        ("w", (4, 3), 3, "verified"), ("b", (3,), 3, "verified")
    ]  # fmt: skip
    assert 0 < certificate.worst < 1e-14
    assert all(v.size > 0 for v in certificate.tensors)
    assert (certificate.nodes, certificate.edges, certificate.gpu) == (9, 8, "not run")
    assert certificate.fingerprint == fingerprint(net())
    again = made()
    assert [v.residual for v in again.tensors] == [v.residual for v in certificate.tensors]


@pytest.mark.parametrize("factor", [0.0, 1.001, -1.0, np.nan])
def test_a_wrong_gradient_fails(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Exp.backward
    monkeypatch.setattr(Exp, "backward", lambda self, ctx, dy: right(self, ctx, dy) * factor)
    certificate = made()
    assert (certificate.status, certificate.failed) == ("failed", ("w", "b"))
    json.loads(certificate.text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_a_gradient_that_is_exactly_zero_is_listed() -> None:
    graph = Graph(Sum(Add(Parameter(B, "b"), MulConst(Parameter(B, "dead"), 0.0))))
    certificate = certify(graph, {}, np.float64(1.25))
    assert certificate.structural_zeros == ("dead",)
    assert [v.verdict for v in certificate.tensors] == ["verified", "zero"]
    assert certificate.status == "verified"


def test_what_cancels_is_told_apart_from_what_is_wrong() -> None:
    # b is added and all but taken away again: 1e-9 of its gradient is left, in rounding errors of the whole.
    def cancelling(wrong: bool) -> Graph:
        b = Parameter(B, "b")
        kind = Wrong if wrong else MulConst
        left = Add(MulConst(kind(b, 3.0), 1 / 3.0), MulConst(b, -1 + 1e-9))
        return Graph(Sum(Add(Mul(Parameter(B + 1, "a"), Parameter(B, "c")), left)))

    names = [{v.name: v.verdict for v in certify(cancelling(w), {}, np.float64(1.25)).tensors} for w in (0, 1)]
    assert names[0]["b"] in ("cancelled", "verified")
    assert names[1]["b"] == "failed"


def test_without_time_nothing_is_verified_and_all_is_missing() -> None:
    certificate = made(max_seconds=1e-9)
    assert (certificate.status, certificate.missing, certificate.tensors) == ("partial", ("w", "b"), ())


@pytest.fixture
def ctx(tmp_path: Path):
    certificate = made(mutation={"nodes": {"mutants": 3, "killed": 2, "stale": True}})
    certificate.save(tmp_path / "deep" / "certificate.json")
    return certificate, tmp_path / "deep" / "certificate.json"


def test_what_is_saved_is_loaded(ctx) -> None:
    certificate, path = ctx
    assert load_certificate(path, certificate.fingerprint, certificate.code) == certificate
    assert [p.name for p in path.parent.iterdir()] == ["certificate.json"]


def test_any_edit_and_any_cut_is_noticed(ctx) -> None:
    certificate, path = ctx
    text = path.read_text()
    edits = [text.replace(old, new, 1) for old, new in (
        ('"verified"', '"zero"'), ('"seed": 0', '"seed": 1'), ('"gpu": "not run"', '"gpu": "run"'), ("\n", "\r\n"),
        ('"killed": 2', '"killed": 3'), (' "code"', '  "code"'), ("}\n", "}"),
    )]  # fmt: skip
    edits += [text[:cut] for cut in (0, 1, len(text) // 2, len(text) - 1)]
    edits += [text + " ", json.dumps(json.loads(text)), "[]", "null", '{"checksum": null}']
    for edit in edits:
        assert edit != text
        path.write_bytes(edit.encode())
        with refused(path):
            load_certificate(path, certificate.fingerprint, certificate.code)
    path.write_bytes(b"\xff\xfe")
    with refused(path):
        load_certificate(path, certificate.fingerprint, certificate.code)


def test_what_is_stale_missing_or_of_another_version_is_refused(ctx) -> None:
    certificate, path = ctx
    with refused(path, "stale", "another graph"):
        load_certificate(path, "0" * 64, certificate.code)
    with refused(path, "stale", "code"):
        load_certificate(path, certificate.fingerprint, "0" * 64)
    dataclasses.replace(certificate, version=0).save(path)
    with refused(path, "version 0"):
        load_certificate(path, certificate.fingerprint, certificate.code)
    path.unlink()
    with refused(path):
        load_certificate(path, certificate.fingerprint, certificate.code)


class Big(Elementwise, abstract=True):
    """y = x^2, wrong at one element far inside."""

    saves = ("inputs",)

    def forward(self, ctx, *inputs):
        return inputs[0] * inputs[0]

    def backward(self, ctx, dy):
        dx = 2 * dy * ctx.inputs[0]
        dx[2000, 1] *= 1.01
        return dx


def test_the_wrong_node_is_found_with_its_worst_element() -> None:
    x = Input("x", (5, 4), gradient=False)
    h = Wrong(Exp(Add(Dot(x, Parameter(W, "w")), Parameter(B, "b"))), 0.5)
    graph = Graph(Sum(ValueMask(h)))
    fault = first_wrong(graph, {"x": X})
    assert fault.node is h
    assert fault.residual.analytic / fault.residual.numeric == pytest.approx(1.001, abs=1e-9)
    report = fault.report("python scripts/gradcheck.py model=x").splitlines()
    i, j = fault.residual.where
    assert report == [
        "wrong backward: Wrong, node 6 of the graph, gradient of input 0",
        "  inputs     (5, 3), float64, seed 0",
        "  c          0.5",
        f"  at         ({i}, {j})",
        f"  analytic   {fault.residual.analytic:.17g}  (its backward)",
        f"  numerical  {fault.residual.numeric:.17g}  (complex step through its forward)",
        f"  differ by  9.99e-04 of the largest, {fault.ulps:.3g} ulps",
        "  reproduce  python scripts/gradcheck.py model=x",
    ]
    assert first_wrong(net(), {"x": X}) is None


def test_one_wrong_element_of_a_large_input_is_found_by_halving() -> None:
    values = RNG.standard_normal((3000, 2))
    values[2000, 1] = 3.0
    fault = first_wrong(Graph(Sum(Big(Parameter(values, "p")))), {})
    assert fault.residual.where == (2000, 1)
    assert fault.residual.analytic / fault.residual.numeric == pytest.approx(1.01, abs=1e-9)


def test_tied_maxima_are_no_fault() -> None:
    from nl_nodes import Max

    rows = Parameter(np.array([[-1.0, -2.0, -3.0], [1.0, -1.0, 2.0]]), "p")
    graph = Graph(Sum(Exp(Max(ValueMask(rows), axis=1))))
    assert first_wrong(graph, {}) is None


def test_nodes_made_for_these_tests_stay_out_of_the_registry() -> None:
    assert {"Wrong", "Big"}.isdisjoint(Node.registry)

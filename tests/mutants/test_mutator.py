"""The mutator and its test oracles."""

import importlib
import inspect
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest
from support.node_cases import NODES

from mutants.gate import Report, Verdict, mutants_of
from mutants.mutator import Mutant, installed, mutants
from mutants.oracles import MutantTimeout, alarm, elementwise, killer, prepared_cases, textbook
from mutants.targets import CHOICES, Target, owner_of, resolve, targets
from nl_nodes import Add, Exp, Graph, Input
from nl_nodes.nodes.arithmetic import Pairwise
from nl_nodes.verify.fingerprint import mutated_files

REDUCTIONS = "nl_nodes.nodes.reductions"


WRONG = [
    ("functions:Exp.backward", "upstream_ignored: dy -> dy * 0 + 1", "gradient_matches_original"),
    (
        "functions:Exp.forward",
        "functions: ctx.xp.exp(inputs[0]) -> ctx.xp.expm1(",
        "output_matches_formula",
    ),
    ("products:Dot.backward", "transposes: matrix(w, 1).T -> matrix(w, 1)", "error"),
    ("arithmetic:Mul.backward", "numbers: 0 -> 1", "gradients_do_not_depend_on_each_other"),
    ("arithmetic:MulConst.forward", "in_place: ", "inputs_and_upstream_are_unchanged"),
    ("arithmetic:Pairwise.broadcasts", "declaration: True -> False", "error"),
    ("labels:OneHot.constant", "declaration: True -> False", "error"),
    ("masks:ValueMask.saves", "declaration: ('saved',) -> ()", "only_declared_values_are_saved"),
    (
        "masks:ValueMask.forward",
        "conditions: x.real <= self.threshold -> x.real < ",
        "non_finite_values_match",
    ),
    ("images:Img2Matrix.backward", "keywords_dropped: ctx.xp.zeros(", "dtype_is_preserved"),
    ("images:Img2Matrix.backward", "accumulations: pixels += columns[:, tap] -> ", "gradient_matches_original"),
]


@pytest.mark.parametrize(("target", "start", "check"), WRONG, ids=[f"{t}-{start}" for t, start, _ in WRONG])
def test_mutant_is_made_and_killed_by_the_expected_check(target: str, start: str, check: str) -> None:
    name = f"nl_nodes.nodes.{target}"
    users = targets()[name].users
    for user in users:
        prepared_cases(user)  # from the original code
    with installed(next(m for m in mutants_of(name) if m.mutation.startswith(start))):
        assert killer(users) == check


def test_installed_mutant_is_removed_after_the_block() -> None:
    graph = Graph(Add(Exp(Input("x")), Input("b")))
    x, b = np.array([[1.0, 2.0]]), np.zeros((1, 1))
    expected = graph.run(x=x, b=b).backward(x)
    for name in ("nl_nodes.nodes.functions:Exp.backward", "nl_nodes.shapes:unbroadcast"):
        code = resolve(name).__code__
        with installed(mutants_of(name)[-1]):
            assert resolve(name).__code__ is not code
        assert resolve(name).__code__ is code
    with installed(mutants_of("nl_nodes.nodes.arithmetic:Pairwise.broadcasts")[0]):
        assert not Add.broadcasts
    assert Pairwise.broadcasts
    assert graph.run(x=x, b=b).backward(x)["b"] == expected["b"]


def test_mutants_differ_in_source_and_name() -> None:
    for name in targets():
        made = mutants_of(name)
        assert len({m.source for m in made}) == len({m.mutation for m in made}) == len(made)


def test_annotations_are_not_mutated() -> None:
    made = mutants(Target("nl_nodes.graph:Graph.__init__"))
    assert made
    assert not any("Pass" in m.mutation for m in made)


def test_excluded_functions_exist() -> None:
    assert all(callable(resolve(name)) for name in CHOICES)


def test_every_node_and_its_helpers_are_targets() -> None:
    found = {**targets(), **targets(fused=True)}
    assert {user for target in found.values() for user in target.users} == set(NODES)
    for node, cls in NODES.items():
        last = "constant" if cls.constant else "backward"
        assert all(node in found[f"{cls.__module__}:{cls.__name__}.{role}"].users for role in ("forward", last))
    assert found[f"{REDUCTIONS}:Reduction.expand"].users == ["Max", "Mean", "Sum"]
    assert found["nl_nodes.shapes:unbroadcast"].users == ["Add", "MaskedMul", "Mul"]
    assert "nl_nodes.nodes.images:Img2Matrix._taps" in found


def test_every_listed_equivalent_can_be_made() -> None:
    entries = [
        (entry["function"], entry["mutation"])
        for file in Path(__file__).parent.rglob("*.toml")
        for entry in tomllib.loads(file.read_text())["equivalent"]
    ]
    for module in {function.split(":")[0] for function, _ in entries}:
        importlib.import_module(module)
    assert not [entry for entry in entries if entry[1] not in {mutant.mutation for mutant in mutants_of(entry[0])}]


@pytest.mark.parametrize("node", NODES)
def test_all_oracles_accept_the_original_code(node: str) -> None:
    assert killer([node]) == ""
    assert not textbook([node])
    assert not elementwise([node])


def test_alarm_stops_an_endless_wait() -> None:
    with pytest.raises(MutantTimeout), alarm(0.05):
        threading.Event().wait()


def test_report_lists_survivors_and_stale_entries() -> None:
    alive, dead, known = (
        Verdict(Mutant("f", "alive", ""), "", False, False),
        Verdict(Mutant("f", "dead", ""), "error", True, False),
        Verdict(Mutant("f", "known", ""), "", False, False),
    )
    listed = {("f", "known"): "same", ("f", "dead"): "wrongly listed", ("f", "gone"): "no longer made"}
    report = Report([alive, dead, known], listed, {v.key for v in (alive, dead, known)}, "")
    assert report.survivors() == [alive]
    assert report.stale() == [("f", "dead"), ("f", "gone")]
    assert report.summary() == {
        "mutants": 3, "killed": 1, "equivalent": 2, "by_error": 1, "textbook": 1, "elementwise": 0, "code": "",
        "every": 1,
    }  # fmt: skip


def test_hash_covers_all_mutated_files() -> None:
    for fused, kind in ((False, "nodes"), (True, "fused")):
        files = {str(file) for file in mutated_files()[kind]}
        assert {inspect.getfile(owner_of(name)[0]) for name in targets(fused)} <= files

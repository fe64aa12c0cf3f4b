"""Drawings show the numbers of both graphs, without overlap, and the page makes no external requests."""

import json
import os
import re
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from mlflow import MlflowClient
from support.assertions import refused
from support.layer_cases import LAYERS
from support.node_cases import NODES
from support.scripts import Started, python, run_script
from support.stores import empty_store

from nl_models import Network, build
from nl_nodes import Add, Dot, Exp, Graph, Input, Leaf, MulConst, Parameter, Sum
from nl_nodes.compiler import RULES, rewrite
from nl_training.commands.draw import draw_run
from nl_training.config.cli import check
from nl_training.verification import verify
from nl_training.viz.graph import Diagram, capture_layer, capture_network, page, svg
from nl_training.viz.graph.diagram import NodeView
from nl_training.viz.graph.layout import HEIGHT, WIDTH, lay_out
from nl_training.viz.graph.node_info import formula, observe, statistics
from nl_training.viz.graph.svg import duration, layout_input

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
NAMES = ("reference", "compiled")
SVG = "{http://www.w3.org/2000/svg}"
FORMS = {
    "mlp": {"width": 10, "dropout": 0.3, "activation": "sigmoid"},
    "cnn3": {"width": 8},
    "vgg16": {"width": 4, "batch_norm": "before_activation", "dropout": 0.3},
}


@pytest.fixture(scope="module", params=FORMS)
def drawn(request: pytest.FixtureRequest) -> tuple[Network, Diagram]:
    net = build(request.param, **FORMS[request.param])
    rng = np.random.default_rng(0)
    return net, capture_network(net, rng.standard_normal((3, 1, 28, 28)), rng.integers(0, 10, 3))


def test_every_node_shows_value_and_gradient() -> None:
    rng = np.random.default_rng(1)
    x0, w0, dy = rng.standard_normal((3, 4)), rng.standard_normal((4, 2)), rng.standard_normal((3, 2))
    x, w = Input("x"), Parameter(w0, "w")
    product = Dot(x, w)
    doubled = MulConst(product, 2)
    shared = Add(doubled, product)
    graph = Graph(Exp(shared), Sum(w))
    values, gradients = observe(graph, {"x": x0}, dy)
    np.testing.assert_allclose(values[product], x0 @ w0, rtol=1e-12)
    np.testing.assert_allclose(values[graph.outputs[0]], np.exp(3 * (x0 @ w0)), rtol=1e-12)
    inner = dy * np.exp(3 * (x0 @ w0))
    np.testing.assert_allclose(gradients[graph.outputs[0]], dy)
    np.testing.assert_allclose(gradients[shared], inner, rtol=1e-12)
    np.testing.assert_allclose(gradients[doubled], inner, rtol=1e-12)
    np.testing.assert_allclose(gradients[product], 3 * inner, rtol=1e-12)
    np.testing.assert_allclose(gradients[w], x0.T @ (3 * inner), rtol=1e-12)
    assert graph.outputs[1] not in gradients  # the first output does not depend on it
    assert graph.outputs[1] in values


def test_capture_has_the_networks_own_gradients() -> None:
    net = build("cnn3", width=8, batch_norm="before_activation", dropout=0.5)
    rng = np.random.default_rng(2)
    x, t = rng.standard_normal((4, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, 4)
    graph = net.wire(4, train=True)
    _, gradients = observe(graph, {"x": x, "t": t}, np.ones((), np.float32))
    own = {name: grad.copy() for name, grad in net.gradient(x, t).items()}
    for name, grad in own.items():
        np.testing.assert_allclose(gradients[graph.leaves[name]], grad, rtol=1e-4, atol=1e-6)


def test_statistics_ignore_non_finite_values() -> None:
    found = statistics(np.array([0.0, 1.0, 0.0, 3.0, -np.inf, np.nan]))
    assert (found.low, found.mean, found.high, found.infinite) == (0.0, 1.0, 3.0, 2)
    assert found.zeros == pytest.approx(1 / 3)
    assert (sum(found.counts), found.counts[0], found.counts[8], found.counts[-1]) == (4, 2, 1, 1)
    assert found.std == pytest.approx(np.std([0, 1, 0, 3]))
    assert sum(statistics(np.full(5, 2.0)).counts) == 5
    assert statistics(np.array([np.inf])) is None
    assert statistics(np.zeros((0, 3))) is None


@pytest.mark.parametrize("name", [n for n, kind in NODES.items() if not issubclass(kind, Leaf)])
def test_every_node_has_a_formula(name: str) -> None:
    told = formula(NODES[name])
    assert told.forward
    assert told.backward
    assert "Backward" not in told.forward
    assert "Shapes" not in told.backward
    assert "as said" not in told.forward
    assert told.summary.endswith(".")


def views(diagram: Diagram, name: str) -> list[NodeView]:
    return [diagram.nodes[n] for group in diagram.groups if group.graph == name for n in group.nodes]


def test_a_diagram_has_every_node_of_both_graphs_once(drawn: tuple[Network, Diagram]) -> None:
    net, diagram = drawn
    reference = net.wire(3, train=True)
    assert sorted(n for group in diagram.groups for n in group.nodes) == list(range(len(diagram.nodes)))
    for own, graph in zip(diagram.graphs, (reference, rewrite(reference, RULES)), strict=True):
        nodes, groups = views(diagram, own.name), [diagram.groups[n] for n in diagram.groups_of(own)]
        assert sorted(node.kind for node in nodes) == sorted(type(node).__name__ for node in graph.order)
        assert own.node_count == len(graph.order)
        assert sum(group.parameters for group in groups) == net.params.flat.size
        assert sorted(s.stored for s in nodes if s.stored) == sorted(net.state_dict().keys() - net.params.keys())
        before: set[int] = set()
        for group in groups:
            assert {n for i in group.nodes for n in diagram.nodes[i].inputs} - set(group.nodes) == before
            before = {group.output}
        loss = diagram.nodes[groups[-1].output]
        assert (loss.shape, loss.gradient.mean) == ((), 1.0)


def test_compiled_graph_shows_the_same_values(drawn: tuple[Network, Diagram]) -> None:
    _, diagram = drawn
    reference, compiled = ({s.label: s for s in views(diagram, name) if s.family == "leaves"} for name in NAMES)
    assert {"x", "t", "W1"} < compiled.keys() <= reference.keys()
    pairs = [(reference[name], node) for name, node in compiled.items()]
    pairs.append((views(diagram, "reference")[-1], views(diagram, "compiled")[-1]))
    assert sum(a.gradient is not None for a, _ in pairs) > 6
    for a, b in pairs:
        for one, other in ((a.value, b.value), (a.gradient, b.gradient)):
            told = [np.array((s.low, s.mean, s.high, s.std)) for s in (one, other) if s]
            assert len(told) != 1
            if told:
                np.testing.assert_allclose(*told, rtol=0, atol=1e-4 * np.abs(told[0]).max())


def test_related_nodes_are_symmetric_and_a_fused_node_has_all_it_replaces() -> None:
    net = build("cnn3", width=8)
    diagram = capture_network(net, np.ones((2, 1, 28, 28)), np.array([0, 1]))
    titles = {n: (group.graph, group.title) for group in diagram.groups for n in group.nodes}
    for number, node in enumerate(diagram.nodes):
        assert all(number in diagram.nodes[n].related for n in node.related)
        assert all(titles[n][0] != titles[number][0] for n in node.related)
        assert (
            not node.related
            or node.family != "leaves"
            or [diagram.nodes[n].label for n in node.related] == [node.label]
        )
    (conv,) = [node for node in views(diagram, "compiled") if node.label == "Conv+pool+relu"]
    assert {titles[n] for n in conv.related} == {("reference", t) for t in ("Convolution 1", "Relu 1", "Pooling 1")}
    (mask,) = [
        node for node in views(diagram, "reference") if node.kind == "ValueMask" and node.shape[1:] == (4, 24, 24)
    ]
    assert [diagram.nodes[n] for n in mask.related] == [conv]
    padded = capture_network(build("cnn8", width=4), np.ones((2, 1, 28, 28)), np.array([0, 1]))
    frames = [node for node in padded.nodes if node.kind == "ZeroPad"]
    assert [node.related for node in frames] == [()]


def test_every_node_shows_its_cost() -> None:
    net = build("cnn3", width=8)
    diagram = capture_network(net, np.ones((2, 1, 28, 28)), np.array([0, 1]))
    for own in diagram.graphs:
        assert sum(node.seconds for node in views(diagram, own.name)) == pytest.approx(own.seconds)
        assert max(diagram.shares[n] for number in diagram.groups_of(own) for n in diagram.groups[number].nodes) == 1
    (product,) = [s for s in views(diagram, "reference") if s.kind == "Dot" and s.shape == (2, 100)]
    assert [(row.direction, row.flops) for row in product.costs] == [
        ("forward", 2 * 2 * 576 * 100),
        ("backward", 2 * (2 * 2 * 576 * 100)),
    ]
    (conv,) = [s for s in views(diagram, "compiled") if s.kind == "Conv"]
    assert [(row.direction, row.algorithm) for row in conv.costs] == [("forward", "MEC"), ("backward", "MEC")]
    assert all(row.seconds > 0 and row.bytes > conv.bytes and row.calls > 1 for row in conv.costs)


def test_gradient_included_in_another_is_explained() -> None:
    net = build("cnn3", width=8, batch_norm="before_activation")
    nodes = {s.kind: s for s in views(capture_network(net, np.ones((2, 1, 28, 28)), np.array([0, 1])), "compiled")}
    for kind in ("ChannelMean", "ChannelVariance"):
        assert nodes[kind].gradient is None
        assert "Already included in the gradient" in nodes[kind].no_gradient
    assert nodes["Normalize"].gradient is not None
    assert nodes["Input"].no_gradient == "Not required."


def test_capture_does_not_change_the_network() -> None:
    net = build("cnn3", width=8, batch_norm="before_activation", dropout=0.5)
    before, passes = net.state_dict(), net.passes
    capture_network(net, np.ones((2, 1, 28, 28)), np.array([0, 1]))
    after = net.state_dict()
    assert net.passes == passes
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_parameters_show_the_certificates_residuals() -> None:
    net = build("mlp", hidden=(5,), input_shape=(1, 2, 2))
    certificate = verify(net, "warn", 60).certificate
    diagram = capture_network(net, np.ones((2, 1, 2, 2)), np.array([0, 1]), certificate)
    for name, of in (("reference", " in the compiled graph"), ("compiled", "")):
        told = {node.label: node.residual for node in views(diagram, name) if node.residual}
        assert told.keys() == {"W1", "b1", "W2", "b2"}
        for verdict in certificate.tensors:
            assert told[verdict.name] == f"verified{of}, residual {verdict.residual:.1e}"


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_drawn_without_overlap(name: str) -> None:
    diagram = capture_layer(name)
    assert [group.graph for group in diagram.groups] == list(NAMES)
    for number in (0, 1):
        check_layout(diagram, number)
    assert all(node.residual.startswith("verified") for node in diagram.nodes if node.kind == "Parameter")
    tree = ElementTree.fromstring(svg(diagram))
    assert len([g for g in tree.iter(f"{SVG}g") if "data-node" in g.attrib]) == len(diagram.nodes)


def check_layout(diagram: Diagram, number: int) -> None:
    plan = lay_out(*layout_input(diagram, number))
    nodes = [place for n, place in plan.places.items() if n >= 0]
    for (x0, y0), (x1, y1) in combinations(nodes, 2):
        assert abs(x0 - x1) >= WIDTH or abs(y0 - y1) >= HEIGHT
    for x, y in nodes:
        assert WIDTH / 2 - 1e-6 <= x <= plan.width - WIDTH / 2 + 1e-6
        assert HEIGHT / 2 <= y <= plan.height - HEIGHT / 2
    for (start, end), points in plan.routes.items():
        assert all(b[1] > a[1] for a, b in pairwise(points))
        assert (points[0][0], points[-1][0]) == (plan.places[start][0], plan.places[end][0])
        for (ax, ay), (bx, by) in pairwise(points):  # beside the nodes of a row the edge is vertical
            crossed = [px for px, py in nodes if ay < py + HEIGHT / 2 and py - HEIGHT / 2 < by]
            assert not crossed or (ax == bx and all(abs(ax - px) > WIDTH / 2 for px in crossed))


def test_network_image_is_complete_and_boxes_do_not_overlap(drawn: tuple[Network, Diagram]) -> None:
    _, diagram = drawn
    for number in range(len(diagram.groups)):
        check_layout(diagram, number)
    text = svg(diagram)
    tree = ElementTree.fromstring(text)
    assert len([g for g in tree.iter(f"{SVG}g") if "data-node" in g.attrib]) == len(diagram.nodes)
    assert len([p for p in tree.iter(f"{SVG}path") if p.get("class") == "link"]) == len(diagram.groups) - 2
    boxes = []
    for g in tree.findall(f"{SVG}g"):
        x, y = map(float, re.findall(r"[\d.]+", g.attrib["transform"]))
        (box,) = [r for r in g.findall(f"{SVG}rect") if r.get("class") == "box"]
        boxes.append((x, y, x + float(box.attrib["width"]), y + float(box.attrib["height"])))
    assert len(boxes) == len(diagram.groups)
    for a, b in combinations(boxes, 2):
        assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
    assert text == svg(diagram)
    heads = [t.text for t in tree.iter(f"{SVG}text") if t.get("class") == "graph-title"]
    assert heads == [f"{h.name}: {h.node_count} nodes, {duration(h.seconds)} a step" for h in diagram.graphs]
    middle = max(x1 for (_, _, x1, _), group in zip(boxes, diagram.groups, strict=True) if group.graph == "reference")
    assert all(box[0] > middle for box, group in zip(boxes, diagram.groups, strict=True) if group.graph == "compiled")


def test_the_pages_data_holds_both_graphs(drawn: tuple[Network, Diagram]) -> None:
    _, diagram = drawn
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', page(diagram), re.DOTALL)
    facts = json.loads(found[1])
    assert [graph["name"] for graph in facts["graphs"]] == list(NAMES)
    assert [(group["graph"], group["nodes"]) for group in facts["groups"]] == [
        (NAMES.index(group.graph), list(group.nodes)) for group in diagram.groups
    ]
    assert len(facts["nodes"]) == len(diagram.nodes)
    for told, node in zip(facts["nodes"], diagram.nodes, strict=True):
        assert (told["label"], told["related"]) == (node.label, list(node.related))
        assert {d: (c["seconds"], c["time"]) for d, c in told["costs"].items()} == {
            row.direction: (row.seconds, duration(row.seconds)) for row in node.costs
        }
        assert told["algorithm"] == (node.costs[0].algorithm if node.costs else "")
    fused = [node for node in facts["nodes"] if node["family"] == "fused"]
    assert fused
    assert all(node["formula"]["forward"] and node["formula"]["backward"] for node in fused)


def test_page_makes_no_external_requests(drawn: tuple[Network, Diagram]) -> None:
    text = page(drawn[1])
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|img|iframe|script[^>]+src)|@import|url\((?!#)", text)
    assert "${" in text  # except the script's own templates
    assert "$script" not in text


def test_titles_are_escaped() -> None:
    diagram = capture_layer("Affine")
    hostile = Diagram("<b>&", ("</script><i>",), diagram.graphs, diagram.nodes, diagram.groups)
    ElementTree.fromstring(svg(hostile))
    assert "<b>&" not in page(hostile)
    assert "</script><i>" not in page(hostile)


def test_unknown_layer_is_refused() -> None:
    with refused("Afine", "Affine?"):
        capture_layer("Afine")


@pytest.mark.parametrize(
    ("arguments", "words", "kind", "start"),
    [
        (["layer=Dropout"], "case: inverted", "IndexMask", Started),
        (["model=two_layer", "data=digits"], "images of digits", "Dot", python),
    ],
    ids=["layer", "model"],
)
def test_draw_script_writes_the_files(arguments: list[str], words: str, kind: str, start: Callable[..., Any]) -> None:
    done = run_script("draw.py", *arguments, start=start)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert words in done.stdout
    files = [Path(line.split()[1]) for line in done.stdout.splitlines() if line.startswith(("page", "picture"))]
    assert [file.suffix for file in files] == [".html", ".svg"]
    assert all(kind in file.read_text() for file in files)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["layer=Afine"], "Affine?"), (["layer=Affine", "model=mlp"], "no other arguments"), (["model=mpl"], "mlp?")],
    ids=lambda value: str(value),
)
def test_draw_script_reports_errors_in_one_line(arguments: list[str], word: str) -> None:
    done = run_script("draw.py", *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done
    assert word in done.stderr


def test_training_logs_its_drawing_if_requested_and_a_run_can_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = empty_store(tmp_path)
    small = ["model=two_layer", "data=digits", "trainer.epochs=1", "tracking.draw=true"]
    done = run_script("train.py", *small, env={**os.environ, "MLFLOW_TRACKING_URI": uri})
    assert done.returncode == 0, done.stderr
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    logged = Path(client.download_artifacts(run.info.run_id, "drawing", str(tmp_path)))
    assert "verified, residual" in (logged / "graph.html").read_text()
    ElementTree.fromstring((logged / "graph.svg").read_text())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    draw_run(run.info.run_id, check(["verify=off"], multirun=False))
    (file,) = re.findall(r"page +(.*)", capsys.readouterr().out)
    assert run.info.run_id in file
    assert "verified, residual" not in Path(file).read_text()

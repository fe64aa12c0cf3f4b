"""Verification in training: each run has a certificate; strict refuses what warn only reports."""

import dataclasses
import json
import subprocess
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread
from mlflow import MlflowClient
from support.assertions import refused
from support.fused_contract import chunks_of
from support.scripts import SCRIPTS, python, run_script
from support.stores import empty_store

from nl_layers import Affine, Relu
from nl_layers.optimizers import SGD, Adam
from nl_layers.schedules import Constant, Cosine
from nl_models import Network, build
from nl_nodes import Device, MulConst
from nl_nodes.compiler.fused.conv.winograd import Winograd
from nl_nodes.runtime.cut import ProductCut
from nl_nodes.verify import Certificate, fingerprint, load_certificate, mutated_code
from nl_training.data import Split
from nl_training.paths import program
from nl_training.verification import Outcome, Training, batch_of, certify, training_graph, twin, twins, verify
from nl_training.verification.certify import certificate_path, modules, mutation_score
from nl_training.viz import plots

KINDS = {"nodes", "reference", "plan", "precision", "executor", "inference", "step", "trainer"}
SMALL = ["model=mlp", "data=digits", "trainer.epochs=1"]
LONG = 1e6


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return empty_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def cache(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty cache, but keep Matplotlib's, since filling it takes seconds."""
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return tmp_path / "cache" / "node-layer-network" / "certificates"


def script(name: str, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script in a new process, after some code."""
    path = str(SCRIPTS / name)
    code = f"import runpy, sys\n{before}\nsys.argv[0] = {path!r}\nrunpy.run_path({path!r}, run_name='__main__')"
    return run_script("-c", code, *arguments)


def train_script(experiment: str, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    return script("train.py", *SMALL, f"tracking.experiment_name={experiment}", *arguments, before=before)


def runs(uri: str, experiment: str) -> list:
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"])) if found else []


def net(**options):
    return build("mlp", **{"input_shape": (1, 4, 4), "hidden": (5,), "classes": 3, **options})


def training(model, *sizes: int) -> Training:
    """Return the settings of a training on random images, in batches of these sizes."""
    rng = np.random.default_rng(1)
    train = Split(rng.standard_normal((9, *model.input_shape)), rng.integers(0, model.classes, 9))
    return Training(train, frozenset(sizes), frozenset({6}), 3.5, Adam(0.01), Cosine(), 1e-4)


def path_of(model) -> Path:
    return certificate_path(model, training_graph(model))


BREAK = "from nl_nodes import Dot; right = Dot.backward\n"
SABOTAGE = BREAK + "Dot.backward = lambda s, k, dy: tuple(d if d is None else d * 1.001 for d in right(s, k, dy))"


def test_every_run_has_a_certificate_and_the_second_uses_the_cache(uri: str, cache: Path) -> None:
    every = ["verify.probe_every=4", "trainer.curvature_every=8"]
    done = [train_script("each", *every), train_script("each", "verify=strict")]
    assert [(d.returncode, d.stderr) for d in done] == [(0, ""), (0, "")]
    assert [" from the cache" in d.stdout for d in done] == [False, True]
    (ctx,) = cache.iterdir()
    (measured,) = [json.loads(path.read_text()) for path in cache.parent.glob("products/*")] or [None]
    found = runs(uri, "each")
    assert [run.data.tags["verify.cached"] for run in found] == ["false", "true"]
    client = MlflowClient(tracking_uri=uri)
    for run in found:
        text = Path(client.download_artifacts(run.info.run_id, "verification/certificate.json")).read_text()
        assert text == ctx.read_text()
        assert imread(client.download_artifacts(run.info.run_id, "verification/residuals.png")).std() > 0.01
        tags, fields = run.data.tags, json.loads(text)
        assert tags["verify.status"] == "verified"
        assert tags["verify.tensors"] == "10 of 10"
        assert 0 < float(tags["verify.worst_residual"]) < 1e-12
        assert tags["verify.fingerprint"] == fields["fingerprint"]
        assert "verify.mutation_score" in tags
        assert (fields["dtype"], fields["device"], fields["gpu"]) == ("float32", "cpu", "not run")
        assert fields["product_cut"] == measured
        images = {kind: {link["images"] for link in fields["links"] if link["kind"] == kind} for kind in KINDS}
        assert images["plan"] == {64, 14}
        assert images["inference"] == {144, 256 + 359 % 256}
        assert any(link["point"].endswith(", 1 epochs") for link in fields["links"] if link["kind"] == "step")
    steps = len(client.get_metric_history(found[0].info.run_id, "lr"))
    probed = client.get_metric_history(found[0].info.run_id, "verify/residual")
    assert [metric.step for metric in probed] == list(range(4, steps + 1, 4))
    assert 0 < max(metric.value for metric in probed) < 1e-12
    curvature = client.get_metric_history(found[0].info.run_id, "curvature/largest")
    assert [metric.step for metric in curvature] == list(range(8, steps + 1, 8))
    assert min(metric.value for metric in curvature) > 0
    for name in ("verify/residual", "curvature/largest"):
        assert client.get_metric_history(found[1].info.run_id, name) == []


def test_a_certificate_is_of_one_cut_of_products(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = net(device=Device(threads=1))
    whole = path_of(model)
    monkeypatch.setattr(model.device.executor, "product_cut", ProductCut(7, narrow=False))
    assert path_of(model) != whole
    assert verify(model, "strict", LONG).certificate.product_cut == (7, False)
    assert [path.name for path in cache.iterdir()] == [path_of(model).name]


def test_off_verifies_nothing(uri: str, cache: Path) -> None:
    assert train_script("off", "verify=off", "trainer.max_steps=2").returncode == 0
    assert not cache.exists()
    assert [run.data.tags["verify.status"] for run in runs(uri, "off")] == ["off"]
    assert verify(net(), "off", LONG).certificate is None


def test_wrong_gradient_is_reported_by_warn_and_refused_by_strict(uri: str) -> None:
    warned = train_script("wrong", "trainer.max_steps=2", before=SABOTAGE)
    assert warned.returncode == 0, warned.stderr
    assert "warning: the gradient of W5 is wrong: failed, residual" in warned.stdout
    assert [run.data.tags["verify.status"] for run in runs(uri, "wrong")] == ["failed"]
    strict = train_script("wrong", "verify=strict", before=SABOTAGE)
    assert strict.returncode == 1
    (line,) = strict.stderr.strip().splitlines()
    assert line.startswith("error: verify=strict: the gradient of W1 is wrong: failed, residual")
    assert len(runs(uri, "wrong")) == 1


def test_strict_has_no_time_limit_and_warn_has() -> None:
    model = net()
    partial = verify(model, "warn", 1e-9, training=training(model, 7))
    assert (partial.status, partial.certificate.missing_tensors) == ("partial", ("W1", "b1", "W2", "b2"))
    assert "not verified: W1 and " in partial.lines()[-1]
    whole = verify(model, "strict", 1e-9, training=training(model, 7))
    assert (whole.status, whole.cached) == ("verified", False)
    assert verify(model, "warn", 1e-9, training=training(model, 7)).cached


def test_large_batch_runs_through_the_reference_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "MEMORY", 3 * twins.memory_of(net(), 1))
    assert verify(net(), "strict", LONG, training=training(net(), 7)).status == "verified"
    model = net(batch_norm=True)
    partial = verify(model, "warn", LONG, training=training(model, 7))
    assert partial.status == "partial"
    assert [name.split(",")[0] for name in partial.certificate.missing_links] == ["reference", "plan"] * 3
    with refused("verify=strict", "lacks reference, 7 images", "7 images at once need"):
        verify(model, "strict", LONG, training=training(model, 7))


def spoil(path: Path, how: str) -> None:
    text = path.read_text()
    if how == "tampered":
        path.write_text(text.replace('"verdict": "verified"', '"verdict": "failed"', 1))
    elif how == "truncated":
        path.write_text(text[: len(text) // 2])
    else:
        fields = json.loads(text)
        fields.pop("checksum")
        fields["tensors"], lists = (), ("links", "missing_tensors", "missing_links", "structural_zeros")
        old = Certificate(**{**fields, **{name: tuple(fields[name]) for name in lists}})
        dataclasses.replace(old, code="0" * 64).save(path)


@pytest.mark.parametrize("how", ["tampered", "truncated", "stale"])
def test_corrupt_certificate_is_refused_by_strict_and_replaced_by_warn(how: str) -> None:
    model = net()
    verify(model, "warn", LONG)
    path = path_of(model)
    sound = path.read_text()
    spoil(path, how)
    with refused("verify=strict", path):
        verify(model, "strict", LONG)
    outcome = verify(model, "warn", LONG)
    assert (outcome.status, outcome.cached) == ("verified", False)
    assert json.loads(path.read_text())["tensors"] == json.loads(sound)["tensors"]
    assert verify(model, "strict", LONG).cached


def test_partial_certificate_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    found = verify(model, "warn", LONG).certificate
    dataclasses.replace(found, tensors=found.tensors[:2], missing_tensors=("W2", "b2")).save(path_of(model))
    told = []
    outcome = verify(model, "strict", LONG, lambda what, done, total: told.append(what.split()[0]))
    assert (outcome.status, told) == ("verified", ["W2", "b2"])
    assert outcome.certificate.tensors == found.tensors
    assert verify(model, "strict", LONG).cached


def test_cached_certificate_needs_no_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    right = certify.certify
    monkeypatch.setattr(certify, "certify", lambda *a, **k: (made.append(1), right(*a, **k))[1])
    told = []
    for _ in range(2):
        verify(net(), "warn", LONG, lambda what, done, total: told.append((what, done, total)))
    verify(net(seed=1), "warn", LONG)  # other weights, same graph
    assert len(made) == 1
    assert [(what.split()[0], done, total) for what, done, total in told] == [
        ("W1", 1, 4), ("b1", 2, 4), ("W2", 3, 4), ("b2", 4, 4)
    ]  # fmt: skip
    verify(net(device=Device(dtype="float64")), "warn", LONG)
    verify(net(dropout=0.3), "warn", LONG)
    assert len(made) == 3


def test_unwritable_cache_is_not_an_error(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert verify(net(), "warn", LONG).status == "verified"


@pytest.mark.parametrize("form", [{}, {"batch_norm": True, "dropout": 0.4}], ids=["plain", "norm and dropout"])
def test_verification_does_not_change_the_network(form: dict) -> None:
    model = net(**form)
    before, passes = model.state_dict(), model.passes
    certificate = verify(model, "warn", LONG, training=training(model, 7, 3)).certificate
    assert certificate.status == "verified"
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert model.passes == passes
    assert certificate.fingerprint == fingerprint(training_graph(twin(model)), modules(model))
    assert load_certificate(path_of(model), certificate.fingerprint, certificate.code) == certificate
    kinds = {link.kind for link in certificate.links}
    assert kinds == KINDS


def test_gradient_wrong_only_in_float32_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = MulConst.backward

    def wrong(self, ctx, dy):
        return right(self, ctx, dy) * (1.001 if dy.dtype == np.float32 else 1)

    monkeypatch.setattr(MulConst, "backward", wrong)
    model = net()
    outcome = verify(model, "warn", LONG, training=training(model, 7))
    assert [name.split(",")[0] for name in outcome.certificate.failed] == ["precision"]
    with refused("verify=strict", "precision, 7 images", "MulConst", "backward"):
        verify(model, "strict", LONG, training=training(model, 7))


@pytest.mark.parametrize("form", [{}, {"batch_norm": True, "dropout": 0.3}], ids=["plain", "norm and dropout"])
def test_plan_wrong_at_the_training_batch_size_is_reported(monkeypatch: pytest.MonkeyPatch, form: dict) -> None:
    """Tensors and nodes are checked on a few images, which are one chunk and do not show the error."""

    def model():
        return build("cnn8", input_shape=(1, 6, 6), width=8, classes=3, device=Device(threads=2), **form)

    def cut_short(self, step):
        """Drop a smaller last chunk."""
        first, *others = parts(self, step)
        return [first, *(part for part in others if part.shape == first.shape)]

    parts, whole = Winograd.chunks, 2 * batch_of(model())
    with chunks_of(batch_of(model())):
        assert verify(model(), "strict", LONG, training=training(model(), whole, 1 + whole)).status == "verified"
        path_of(model()).unlink()
        monkeypatch.setattr(Winograd, "chunks", cut_short)
        wrong = verify(model(), "warn", LONG, training=training(model(), 1 + whole))
        assert (wrong.status, wrong.cached) == ("failed", False)
        told = f"(plan, {1 + whole} images, random images, 2 workers)"
        assert any(told in line for line in wrong.lines())
        with refused("verify=strict", f"plan, {1 + whole} images"):
            verify(model(), "strict", LONG, training=training(model(), 1 + whole))


class Signed(SGD):
    """A user-defined optimizer: steps of constant length."""

    def update_array(self, param, grad, **state):
        param -= self.lr * np.sign(grad)


class Half(Constant):
    """A user-defined schedule."""

    def factor(self, epoch, epochs, losses=()):
        return 0.5


class Sorted(MulConst, abstract=True):
    """A user-defined node that does not compile."""

    def forward(self, ctx, *inputs):
        ctx.xp.sort(inputs[0].real)
        return super().forward(ctx, *inputs)


class Halved(Relu, abstract=True):
    def wire(self, *inputs, mode):
        return Sorted(inputs[0], 0.5)


@pytest.mark.parametrize("own", [{"optimizer": Signed(0.1)}, {"schedule": Half()}])
def test_training_without_a_textbook_formula_is_named_and_trains_with_warn(own: dict) -> None:
    model = net()
    how = dataclasses.replace(training(model, 7), **own)
    outcome = verify(model, "warn", LONG, training=how)
    assert outcome.status == "partial"
    assert [name.split(",")[0] for name in outcome.certificate.missing_links] == ["step", "trainer"]
    assert "no textbook formula for " in outcome.lines()[-1]
    with refused("verify=strict", "no textbook formula"):
        verify(model, "strict", LONG, training=how)


def test_node_that_cannot_be_compiled_is_named() -> None:
    layers = [(Affine(np.ones((16, 3)), np.zeros(3)), 1), (Halved(), 1)]
    model = Network(layers, {"name": "own", "input_shape": (1, 4, 4), "classes": 3}, Device(compile=False))
    outcome = verify(model, "warn", LONG, training=training(model, 7))
    assert outcome.status == "partial"
    assert [name.split(",")[0] for name in outcome.certificate.missing_links] == ["precision"]


def test_each_batch_size_is_checked_once() -> None:
    made = []
    for wanted in ((7,), (7, 3), (3,), (7,)):
        told = []
        model = net()
        verify(model, "strict", LONG, lambda what, done, total, t=told: t.append(what), training(model, *wanted))
        made.append({word for what in told for word in what.split(", ") if word.endswith("images") and word[0] in "37"})
    assert made == [{"7 images"}, {"3 images"}, set(), set()]
    reference = net(device=Device(compile=False))
    outcome = verify(reference, "strict", LONG, training=training(reference, 7))
    assert {link.kind for link in outcome.certificate.links} >= {"precision", "executor"}


def test_certificate_has_the_mutation_score_if_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "mutants.json"
    assert mutation_score(file) is None
    for broken in ("[]", "{", '{"nodes": 1, "fused": 2}', '{"nodes": {"mutants": 1}}'):
        file.write_text(broken)
        assert mutation_score(file) is None


def test_mutation_score_of_other_code_is_stale(tmp_path: Path) -> None:
    file = tmp_path / "mutants.json"
    nodes = {"mutants": 10, "killed": 8, "equivalent": 2, "every": 1, "code": mutated_code()["nodes"]}
    fused = {"mutants": 7, "killed": 6, "equivalent": 1, "every": 10, "code": "of before"}
    file.write_text(json.dumps({"nodes": {**nodes, "textbook": 5}, "fused": fused}))
    found = mutation_score(file)
    assert found == {"nodes": {**nodes, "stale": False}, "fused": {**fused, "stale": True}}
    certificate = dataclasses.replace(verify(net(), "warn", LONG).certificate, mutation=found)
    told = Outcome(certificate).tags["verify.mutation_score"]
    assert told == "nodes 8 of 8, fused 6 of 6 (every 10th, stale: the code has changed since)"


def test_plot_shows_every_verdict() -> None:
    certificate = verify(net(), "warn", LONG).certificate
    words = ["verified", "failed", "cancelled", "zero"]
    some = tuple(dataclasses.replace(v, verdict=w) for v, w in zip(certificate.tensors, words, strict=True))
    (axis,) = plots.residuals(dataclasses.replace(certificate, tensors=some), "a title").axes
    assert [label.get_text() for label in axis.get_legend().get_texts()] == words
    assert [label.get_text() for label in axis.get_yticklabels()] == ["W1", "b1", "W2", "b2"]
    plots.residuals(dataclasses.replace(certificate, tensors=(), missing_tensors=("W1",)), "nothing reached")


def test_gradcheck_of_a_run_and_of_a_config(uri: str) -> None:
    assert train_script("checked", "verify=off").returncode == 0
    (run,) = runs(uri, "checked")
    done = script("gradcheck.py", f"run={run.info.run_id}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "10 tensors, worst residual" in done.stdout
    folder = SCRIPTS.parent / "outputs" / "gradcheck" / run.info.run_id
    assert {p.name for p in folder.iterdir()} == {"certificate.json", "residuals.png"}
    logged = json.loads((folder / "certificate.json").read_text())
    fresh = run_script("gradcheck.py", *SMALL, start=python)
    assert fresh.returncode == 0
    assert f"mlp-{logged['fingerprint'][:12]}" in fresh.stdout  # the same graph
    size = {v["name"]: v["size"] for v in logged["tensors"]}["W1"]
    assert f"{size:.2e}" not in fresh.stdout  # with other weights


def test_gradcheck_names_the_wrong_node() -> None:
    done = script("gradcheck.py", *SMALL, before=SABOTAGE)
    assert (done.returncode, done.stderr) == (1, "")
    report = done.stdout[done.stdout.index("failed: the gradient of W1") :].splitlines()
    assert report[1].startswith("  analytic   ")
    assert report[2].startswith("  numerical  ")
    start = next(i for i, line in enumerate(report) if line.startswith("wrong backward: Dot, node "))
    labels = [line.split()[0] for line in report[start + 1 :]]
    assert labels == ["inputs", "at", "analytic", "numerical", "differ", "reproduce"]
    assert "(8, 100) and (100, 10), float64, seed 0" in report[start + 1]
    assert report[-1] == f"  reproduce  {program()} gradcheck {' '.join(SMALL)}"
    analytic, numerical = (float(report[start + i].split()[1]) for i in (3, 4))
    assert analytic / numerical == pytest.approx(1.001, abs=1e-9)


def test_gradcheck_refuses_an_unknown_run() -> None:
    done = script("gradcheck.py", "run=nothing")
    assert done.returncode == 1
    assert "run=nothing" in done.stderr
    assert "Traceback" not in done.stderr
    assert "run=ID" in script("gradcheck.py", "--help").stdout

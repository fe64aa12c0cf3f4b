"""Verification in training: each run bears a certificate, and strict refuses what warn only tells."""

import dataclasses
import json
import subprocess
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread
from mlflow import MlflowClient
from support.fused_contract import pieces_of
from support.refusals import refused
from support.scripts import SCRIPTS, python, run_script
from support.stores import empty_store

from nl_layers.optimizers import Adam
from nl_layers.schedules import Constant
from nl_models import build
from nl_nodes import Device, Dot, MulConst
from nl_nodes.compiler.fused.winograd import Winograd
from nl_nodes.verify import Certificate, fingerprint, load_certificate, mutated_code
from nl_training import plots, verification
from nl_training.data import load
from nl_training.observer import Observer
from nl_training.probe import Probe
from nl_training.trainer import Limits, Trainer
from nl_training.verification import (
    Outcome,
    batch_of,
    certificate_path,
    modules,
    mutation_score,
    training_graph,
    twin,
    verify,
)

SMALL = ["model=mlp", "data=digits", "trainer.epochs=1"]
LONG = 1e6


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return empty_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def cache(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own; Matplotlib's stays where it is, since filling it takes seconds."""
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return tmp_path / "cache" / "node-layer-network" / "certificates"


def script(name: str, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, after some code."""
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


def path_of(model) -> Path:
    return certificate_path(model, training_graph(model, model.device))


BREAK = "from nl_nodes.compiler.fused import Affine; right = Affine.backward\n"
SABOTAGE = BREAK + "Affine.backward = lambda s, k, dy: tuple(d if d is None else d * 1.001 for d in right(s, k, dy))"


def test_each_run_bears_a_certificate_and_the_second_takes_it_from_the_cache(uri: str, cache: Path) -> None:
    done = [train_script("each", "verify.probe_every=10"), train_script("each", "verify=strict")]
    assert [(d.returncode, d.stderr) for d in done] == [(0, ""), (0, "")]
    assert [" from the cache" in d.stdout for d in done] == [False, True]
    (kept,) = cache.iterdir()
    found = runs(uri, "each")
    assert [run.data.tags["verify.cached"] for run in found] == ["false", "true"]
    client = MlflowClient(tracking_uri=uri)
    for run in found:
        text = Path(client.download_artifacts(run.info.run_id, "verification/certificate.json")).read_text()
        assert text == kept.read_text()
        assert imread(client.download_artifacts(run.info.run_id, "verification/residuals.png")).std() > 0.01
        tags, fields = run.data.tags, json.loads(text)
        assert tags["verify.status"] == "verified"
        assert tags["verify.tensors"] == "10 of 10"
        assert 0 < float(tags["verify.worst_residual"]) < 1e-12
        assert tags["verify.fingerprint"] == fields["fingerprint"]
        assert "verify.mutation_score" in tags
        assert (fields["dtype"], fields["device"], fields["gpu"]) == ("float32", "cpu", "not run")
    steps = len(client.get_metric_history(found[0].info.run_id, "lr"))
    probed = client.get_metric_history(found[0].info.run_id, "verify/residual")
    assert [metric.step for metric in probed] == list(range(10, steps + 1, 10))
    assert 0 < max(metric.value for metric in probed) < 1e-12
    assert client.get_metric_history(found[1].info.run_id, "verify/residual") == []


def test_off_verifies_nothing(uri: str, cache: Path) -> None:
    assert train_script("off", "verify=off", "trainer.max_steps=2").returncode == 0
    assert not cache.exists()
    assert [run.data.tags["verify.status"] for run in runs(uri, "off")] == ["off"]
    assert verify(net(), "off", LONG).certificate is None


def test_a_wrong_gradient_is_told_under_warn_and_refused_under_strict(uri: str) -> None:
    warned = train_script("wrong", "trainer.max_steps=2", before=SABOTAGE)
    assert warned.returncode == 0, warned.stderr
    assert "warning: the gradient of W5 is wrong: failed, residual" in warned.stdout
    assert [run.data.tags["verify.status"] for run in runs(uri, "wrong")] == ["failed"]
    strict = train_script("wrong", "verify=strict", before=SABOTAGE)
    assert strict.returncode == 1
    (line,) = strict.stderr.strip().splitlines()
    assert line.startswith("error: verify=strict: the gradient of W1 is wrong: failed, residual")
    assert len(runs(uri, "wrong")) == 1


def test_strict_refuses_what_is_partial_and_opens_no_run(uri: str) -> None:
    partial = train_script("partial", "verify=strict", "verify.max_seconds=1e-9")
    assert partial.returncode == 1
    (line,) = partial.stderr.strip().splitlines()
    assert "partial" in line
    assert "verify.max_seconds" in line
    assert runs(uri, "partial") == []


def spoil(path: Path, how: str) -> None:
    text = path.read_text()
    if how == "tampered":
        path.write_text(text.replace('"verdict": "verified"', '"verdict": "failed"', 1))
    elif how == "truncated":
        path.write_text(text[: len(text) // 2])
    else:
        fields = json.loads(text)
        fields.pop("checksum")
        fields["tensors"], lists = (), ("missing", "structural_zeros")
        old = Certificate(**{**fields, **{name: tuple(fields[name]) for name in lists}})
        dataclasses.replace(old, code="0" * 64).save(path)


@pytest.mark.parametrize("how", ["tampered", "truncated", "stale"])
def test_a_spoilt_certificate_is_refused_under_strict_and_made_again_under_warn(how: str) -> None:
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


def test_a_partial_certificate_is_made_again() -> None:
    model = net()
    assert verify(model, "warn", 1e-9).status == "partial"
    with refused("verify=strict", "partial", "W1"):
        verify(model, "strict", 1e-9)
    assert verify(model, "warn", LONG).status == "verified"
    assert verify(model, "strict", 1e-9).cached


def test_the_cached_second_makes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    certify = verification.certify
    monkeypatch.setattr(verification, "certify", lambda *a, **k: (made.append(1), certify(*a, **k))[1])
    told = []
    for _ in range(2):
        verify(net(), "warn", LONG, lambda what, done, total: told.append((what, done, total)))
    verify(net(seed=1), "warn", LONG)  # other weights of the same graph
    assert len(made) == 1
    assert [(what.split()[0], done, total) for what, done, total in told] == [
        ("W1", 1, 4), ("b1", 2, 4), ("W2", 3, 4), ("b2", 4, 4)
    ]  # fmt: skip
    verify(net(device=Device(dtype="float64")), "warn", LONG)
    verify(net(dropout=0.3), "warn", LONG)
    assert len(made) == 3


def test_a_cache_that_cannot_be_written_costs_only_time(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert verify(net(), "warn", LONG).status == "verified"


@pytest.mark.parametrize("form", [{}, {"batch_norm": True, "dropout": 0.4}], ids=["plain", "norm and dropout"])
def test_verifying_changes_nothing_of_the_network(form: dict) -> None:
    model = net(**form)
    before, passes = model.state_dict(), model.passes
    certificate = verify(model, "warn", LONG).certificate
    assert certificate.status == "verified"
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert model.passes == passes
    assert certificate.fingerprint == fingerprint(training_graph(twin(model), model.device), modules(model))
    assert load_certificate(path_of(model), certificate.fingerprint, certificate.code) == certificate
    assert all(0 < v.rounding <= v.budget for v in certificate.tensors)


def test_a_wrong_float32_gradient_is_imprecise(monkeypatch: pytest.MonkeyPatch) -> None:
    right = MulConst.backward

    def wrong(self, kept, dy):
        return right(self, kept, dy) * (1.001 if dy.dtype == np.float32 else 1)

    monkeypatch.setattr(MulConst, "backward", wrong)
    outcome = verify(net(), "warn", LONG)
    assert (outcome.status, {v.verdict for v in outcome.certificate.tensors}) == ("failed", {"imprecise"})
    with refused("verify=strict", "W1", "imprecise"):
        verify(net(), "strict", LONG)


@pytest.mark.parametrize("form", [{}, {"batch_norm": True, "dropout": 0.3}], ids=["plain", "norm and dropout"])
def test_a_plan_that_is_wrong_at_the_batch_that_trains_is_told(monkeypatch: pytest.MonkeyPatch, form: dict) -> None:
    """The few images that a certificate is made of are one piece, and show nothing of it."""

    def model():
        return build("cnn8", input_shape=(1, 6, 6), width=8, classes=3, device=Device(threads=2), **form)

    def cut_short(self, step):
        """All parts but a last one that is smaller."""
        first, *others = parts(self, step)
        return [first, *(part for part in others if part.shape == first.shape)]

    parts, whole = Winograd.parts, 2 * batch_of(model())
    with pieces_of(batch_of(model())):
        right = verify(model(), "strict", LONG, sizes=(whole, 1 + whole))
        assert [(p.images, p.workers, p.holds) for p in right.certificate.plans] == [
            (whole, 2, True),
            (1 + whole, 2, True),
        ]
        path_of(model()).unlink()
        monkeypatch.setattr(Winograd, "parts", cut_short)
        assert verify(model(), "warn", LONG, sizes=(whole,)).status == "verified"
        wrong = verify(model(), "warn", LONG, sizes=(1 + whole,))
        assert (wrong.status, wrong.cached) == ("failed", True)
        told = f"in the plan for {1 + whole} images and 2 workers: off by"
        assert told in wrong.lines()[0]
        assert wrong.lines()[-1] == "device.compile=false trains without plans"
        with refused("verify=strict", told):
            verify(model(), "strict", LONG, sizes=(1 + whole,))


def test_each_size_of_batch_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    check = verification.check_plan
    monkeypatch.setattr(verification, "check_plan", lambda *a: (checked.append(a[-1]), check(*a))[1])
    for wanted in ((7,), (7, 3), (3,), (), (7,)):
        assert verify(net(), "strict", LONG, sizes=wanted).status == "verified"
    assert checked == [7, 3]
    late = verify(net(), "warn", 1e-9, sizes=(7, 5))
    assert (late.status, late.unseen) == ("partial", (5,))
    assert "not yet at batches of 5 images" in late.lines()[0]
    with refused("verify=strict", "batches of 5 images", "verify.max_seconds"):
        verify(net(), "strict", 1e-9, sizes=(7, 5))
    assert [plan.images for plan in verify(net(), "strict", LONG).certificate.plans] == [7, 3]
    verify(net(device=Device(compile=False)), "strict", LONG, sizes=(7,))  # has no plan
    assert checked == [7, 3]


def test_the_mutation_score_is_quoted_where_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "mutants.json"
    assert mutation_score(file) is None
    for broken in ("[]", "{", '{"nodes": 1, "fused": 2}', '{"nodes": {"mutants": 1}}'):
        file.write_text(broken)
        assert mutation_score(file) is None


def test_a_mutation_score_of_other_code_is_quoted_as_stale(tmp_path: Path) -> None:
    file = tmp_path / "mutants.json"
    nodes = {"mutants": 10, "killed": 8, "equivalent": 2, "every": 1, "code": mutated_code()["nodes"]}
    fused = {"mutants": 7, "killed": 6, "equivalent": 1, "every": 10, "code": "of before"}
    file.write_text(json.dumps({"nodes": {**nodes, "textbook": 5}, "fused": fused}))
    found = mutation_score(file)
    assert found == {"nodes": {**nodes, "stale": False}, "fused": {**fused, "stale": True}}
    certificate = dataclasses.replace(verify(net(), "warn", LONG).certificate, mutation=found)
    told = Outcome(certificate).tags["verify.mutation_score"]
    assert told == "nodes 8 of 8, fused 6 of 6 (every 10th, stale: the code has changed since)"


class Recorder(Observer):
    def __init__(self):
        self.found = {}

    def on_metrics(self, step, metrics):
        self.found[step] = metrics


def train(*observers: Observer) -> dict:
    data = load("digits")
    options = {"hidden": (8, 8), "input_shape": data.input_shape, "batch_norm": True, "dropout": 0.3}
    model = build("mlp", **options)
    Trainer(model, Adam(0.01), Constant(), data, Limits(1, 64, 10), observers=observers).run()
    return {"passes": model.passes, **model.state_dict()}


def test_the_probe_finds_the_gradient_right_and_disturbs_nothing() -> None:
    recorder = Recorder()
    alone, probed = train(), train(Probe(3), recorder)
    assert alone.keys() == probed.keys()
    for name, value in alone.items():
        np.testing.assert_array_equal(value, probed[name])
    assert list(recorder.found) == [3, 6, 9]
    residuals = [metrics["verify/residual"] for metrics in recorder.found.values()]
    assert 0 < max(residuals) < 1e-12


def test_the_probe_finds_a_gradient_wrong(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    right = Dot.backward
    monkeypatch.setattr(Dot, "backward", lambda s, k, dy: (right(s, k, dy)[0], right(s, k, dy)[1] * 1.001))
    recorder = Recorder()
    train(Probe(5), recorder)
    assert all(metrics["verify/residual"] > 1e-6 for metrics in recorder.found.values())
    assert "step 5" in caplog.text


def test_the_picture_shows_every_verdict() -> None:
    certificate = verify(net(), "warn", LONG).certificate
    words = ["verified", "failed", "cancelled", "zero"]
    some = tuple(dataclasses.replace(v, verdict=w) for v, w in zip(certificate.tensors, words, strict=True))
    (axis,) = plots.residuals(dataclasses.replace(certificate, tensors=some), "a title").axes
    assert [label.get_text() for label in axis.get_legend().get_texts()] == words
    assert [label.get_text() for label in axis.get_yticklabels()] == ["W1", "b1", "W2", "b2"]
    plots.residuals(dataclasses.replace(certificate, tensors=(), missing=("W1",)), "nothing reached")


def test_gradcheck_of_a_run_and_of_a_config(uri: str) -> None:
    assert train_script("checked").returncode == 0
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


def test_gradcheck_tells_which_node_is_wrong() -> None:
    done = script("gradcheck.py", *SMALL, before=SABOTAGE)
    assert (done.returncode, done.stderr) == (1, "")
    report = done.stdout[done.stdout.index("failed: the gradient of W1") :].splitlines()
    assert report[1].startswith("  analytic   ")
    assert report[2].startswith("  numerical  ")
    start = next(i for i, line in enumerate(report) if line.startswith("wrong backward: Affine, node "))
    labels = [line.split()[0] for line in report[start + 1 :]]
    assert labels == ["inputs", "relu", "at", "analytic", "numerical", "apart", "reproduce"]
    assert "(8, 100) and (100, 10) and (10,), float64, seed 0" in report[start + 1]
    assert report[-1] == f"  reproduce  python scripts/gradcheck.py {' '.join(SMALL)}"
    analytic, numerical = (float(report[start + i].split()[1]) for i in (4, 5))
    assert analytic / numerical == pytest.approx(1.001, abs=1e-9)


def test_gradcheck_refuses_a_run_that_is_not_there() -> None:
    done = script("gradcheck.py", "run=nothing")
    assert done.returncode == 1
    assert "run=nothing" in done.stderr
    assert "Traceback" not in done.stderr
    assert "run=ID" in script("gradcheck.py", "--help").stdout

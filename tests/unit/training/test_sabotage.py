"""`verify=strict` refuses planted errors before step 1, each by the link that docs/verification.md names."""

import re
from pathlib import Path

import pytest
from support.plants import CLEAN, LIMITS, PLANTS
from support.scripts import run_script

TESTS = str(Path(__file__).resolve().parents[2])
# One fast planted error for each link.
SAMPLE = [
    "broadcast_off", "input_close_to_one", "gradients_of_one_shape_exchanged",
    "from_the_thousandth_pass", "half_precision_inside", "in_processes_on_large_arrays", "predictions_of_many_images",
    "steps_counted_to_a_hundred", "optimizer_off_in_float32",
]  # fmt: skip
REFUSED = re.compile(r"refused: verify=strict: (?:the gradient of \w+|the training code) is wrong(?:: | \((\w+), )")


def said(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the output of strict verification in a new process with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    code = f"import sys; sys.path.insert(0, {TESTS!r}); from support.plants import main; main({name!r})"
    done = run_script("-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_refused(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = said(name, cache, monkeypatch)
    found = REFUSED.match(answer)
    assert found, answer
    assert (found[1] or "tensors") == PLANTS[name].link, answer


@pytest.mark.parametrize("name", SAMPLE)
def test_a_planted_error_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(name, tmp_path, monkeypatch)


@pytest.mark.sabotage
@pytest.mark.parametrize("name", [name for name in PLANTS if name not in SAMPLE])
def test_every_planted_error_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(name, tmp_path, monkeypatch)


@pytest.mark.sabotage
@pytest.mark.parametrize("name", LIMITS)
def test_errors_beyond_the_certificate_are_accepted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(name, tmp_path, monkeypatch).startswith("accepted: ")


@pytest.mark.parametrize("name", CLEAN)
def test_network_without_a_planted_error_is_accepted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(name, tmp_path, monkeypatch).startswith("accepted: ")


def test_quick_sample_covers_every_link() -> None:
    assert {PLANTS[name].link for name in SAMPLE} == {planted.link for planted in PLANTS.values()}

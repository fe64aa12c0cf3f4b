"""`scripts/summary.py` prints the layers of a config's network."""

from support.scripts import run_script


def test_it_prints_each_layer_for_a_batch_of_the_data() -> None:
    done = run_script("summary.py", "model=mlp", "data=digits", "trainer.batch_size=50")
    assert (done.returncode, done.stderr) == (0, ""), done
    row = next(line for line in done.stdout.splitlines() if line.startswith("Affine 5")).split()
    assert row[2:6] == ["50", "x", "10", "1,010"]


def test_a_misspelt_model_is_refused_in_one_line() -> None:
    done = run_script("summary.py", "model=mpl")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done
    assert "mlp?" in done.stderr

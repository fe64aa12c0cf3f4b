"""MNIST, Fashion-MNIST and Kuzushiji-MNIST: search path, verification and download of their files."""

import dataclasses
import gzip
import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from support.archives import idx
from support.assertions import refused
from support.mirrors import serving

from nl_training.data import load
from nl_training.data.mnist import FASHION_MNIST, KMNIST, MNIST, IdxSet, RawFile, ZippedFile

RNG = np.random.default_rng(0)
RAW = {
    "train-images": idx(RNG.integers(0, 256, (30, 4, 5), dtype=np.uint8)),
    "train-labels": idx(np.arange(30, dtype=np.uint8) % 3),
    "t10k-images": idx(RNG.integers(0, 256, (6, 4, 5), dtype=np.uint8)),
    "t10k-labels": idx(np.arange(6, dtype=np.uint8) % 3),
}


def small(mirrors: tuple[str, ...] = (), system_folder: Path = Path("nowhere")) -> IdxSet:
    files = [RawFile(name, len(raw), hashlib.sha256(raw).hexdigest()) for name, raw in RAW.items()]
    return IdxSet("small", tuple(files), ("a", "b", "c"), mirrors, system_folder)


def fill(folder: Path, zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in RAW.items():
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(raw) if zipped else raw)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache" / "node-layer-network" / "small"


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_the_files_in_root(tmp_path: Path, zipped):
    source = small().load(fill(tmp_path / "data", zipped))
    assert source.train.x.shape == (30, 1, 4, 5)
    assert source.test.x.shape == (6, 1, 4, 5)
    assert source.train.x.tobytes() == RAW["train-images"][16:]
    assert source.train.t.tolist() == [0, 1, 2] * 10
    assert source.classes == ("a", "b", "c")


def test_differently_compressed_file_is_accepted(tmp_path: Path):
    folder = fill(tmp_path / "data")
    for name, raw in RAW.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(raw, compresslevel=1, mtime=12345))
    assert len(small().load(folder).train) == 30


def test_names_the_folder_and_every_missing_file(tmp_path: Path):
    folder = fill(tmp_path / "data")
    (folder / "train-labels.gz").unlink()
    (folder / "t10k-images.gz").unlink()
    with refused(folder, "train-labels", "t10k-images", "data.root"):
        small().load(folder)


def test_refuses_a_truncated_file(tmp_path: Path):
    folder = fill(tmp_path / "data")
    path = folder / "train-images.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with refused(path, "corrupt"):
        small().load(folder)


def test_refuses_a_valid_idx_file_of_other_contents(tmp_path: Path):
    folder = fill(tmp_path / "data", zipped=False)
    raw = bytearray(RAW["t10k-images"])
    raw[-1] ^= 1
    (folder / "t10k-images").write_bytes(raw)
    with refused(folder / "t10k-images", "SHA-256"):
        small().load(folder)


def test_refuses_a_file_larger_than_the_published_one(tmp_path: Path):
    folder = fill(tmp_path / "data")
    (folder / "t10k-labels.gz").write_bytes(gzip.compress(bytes(10_000_000)))
    with refused(folder / "t10k-labels.gz", f"{len(RAW['t10k-labels'])} bytes"):
        small().load(folder)


def test_looks_in_the_systems_folder_before_any_download(tmp_path: Path):
    folder = fill(tmp_path / "system")
    assert len(small(system_folder=folder).load(None).train) == 30


def test_downloads_once_into_the_cache(tmp_path: Path, cache: Path, capfd):
    with serving(fill(tmp_path / "mirror")) as (url, served):
        first = small((url,)).load(None)
    assert len(served) == 4
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{name}.gz" for name in RAW)
    assert f"downloading {url}train-images.gz" in capfd.readouterr().err
    again = small((url,)).load(None)  # the mirror is closed now
    assert again.digest() == first.digest()


def test_goes_to_the_next_mirror(tmp_path: Path, cache: Path):
    broken = fill(tmp_path / "broken")
    (broken / "train-images.gz").write_bytes(gzip.compress(RAW["t10k-images"]))
    (broken / "train-labels.gz").unlink()
    with serving(broken) as (bad, _), serving(fill(tmp_path / "mirror")) as (good, served):
        small((bad, good)).load(None)
    assert served == ["/train-images.gz", "/train-labels.gz"]
    assert len(list(cache.iterdir())) == 4


class Endless(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(2**16))
        except OSError:
            self.close_connection = True


class Cut(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(gzip.compress(RAW["train-images"])[:100])


class Garbage(BaseHTTPRequestHandler):
    def do_GET(self):
        self.wfile.write(b"SMTP ready\r\n")
        self.close_connection = True


@pytest.mark.parametrize(
    ("handler", "named"), [(Endless, "more than"), (Cut, "corrupt"), (Garbage, "SMTP"), (None, "404")]
)
def test_failed_download_leaves_no_file_and_gives_advice(tmp_path: Path, cache: Path, handler, named):
    with (
        serving(tmp_path, None if handler is None else handler) as (url, _),
        refused("train-images.gz", "could not be downloaded", "data.root=FOLDER"),
    ):
        small((url,)).load(None)
    assert list(cache.iterdir()) == []


def test_redirect_to_a_local_file_is_not_followed(tmp_path: Path, cache: Path):
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", fill(tmp_path / "private").as_uri() + self.path)
            self.end_headers()

    with serving(tmp_path, Elsewhere) as (url, _), refused("could not be downloaded", "not allowed"):
        small((url,)).load(None)
    assert list(cache.iterdir()) == []


def test_a_gzip_bomb_from_a_mirror_is_refused(tmp_path: Path, cache: Path):
    folder = fill(tmp_path / "mirror")
    (folder / "train-images.gz").write_bytes(gzip.compress(bytes(2**25)))
    with serving(folder) as (url, _), refused("train-images", "more than the 616 bytes expected"):
        small((url,)).load(None)
    assert list(cache.iterdir()) == []


def test_no_reachable_mirror_is_reported_in_one_line(cache: Path):
    with refused("could not be downloaded", "refused", "data.root=FOLDER"):
        small(("http://127.0.0.1:1/",)).load(None)


def test_silent_mirror_times_out(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("nl_training.data.download.TIMEOUT", 0.2)
    leave = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self):
            leave.wait(10)

    with serving(tmp_path, Silent) as (url, _):
        with refused("timed out"):
            small((url,)).load(None)
        leave.set()


def loading(url: str) -> subprocess.Popen[str]:
    """Start a process that loads the data set from a mirror and prints its digest."""
    code = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('t', sys.argv[1]);"
        "t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t);"
        "print(t.small((sys.argv[2],)).load(None).digest())"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", code, __file__, url], stdout=subprocess.PIPE, env=env, text=True)


def test_killed_download_leaves_no_file_with_the_final_name(tmp_path: Path, cache: Path):
    half, leave = threading.Event(), threading.Event()

    class Half(BaseHTTPRequestHandler):
        def do_GET(self):
            data = gzip.compress(RAW["train-images"])
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            half.set()
            leave.wait(60)

    with serving(tmp_path, Half) as (url, _):
        process = loading(url)
        assert half.wait(60)
        process.kill()
        process.communicate()
        leave.set()
    assert not list(cache.glob("t*"))
    with serving(fill(tmp_path / "mirror")) as (url, _):
        assert len(small((url,)).load(None).train) == 30
    assert sorted(path.name for path in cache.glob("t*")) == sorted(f"{name}.gz" for name in RAW)


def test_two_concurrent_processes_both_get_the_files(tmp_path: Path, cache: Path):
    with serving(fill(tmp_path / "mirror")) as (url, _):
        both = [loading(url) for _ in range(2)]
        digests = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert digests[0] == digests[1] != ""
    assert len(list(cache.iterdir())) == 4


def test_corrupt_file_in_the_cache_is_named(cache: Path):
    fill(cache)
    (cache / "train-labels.gz").write_bytes(b"")
    with refused(cache / "train-labels.gz"):
        small().load(None)


def real_mnist() -> Path | None:
    beside = Path(__file__).resolve().parents[4] / "shared" / "data" / "mnist"
    folder = Path(os.environ.get("NL_MNIST", beside))
    return folder if folder.is_dir() else None


@pytest.mark.skipif(real_mnist() is None, reason="no MNIST here: set NL_MNIST to the folder of its four files")
def test_real_mnist():
    data = load("mnist", root=str(real_mnist()))
    assert data.input_shape == (1, 28, 28)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [54_000, 6_000, 10_000]
    assert np.bincount(data.test.t).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.test.t[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


@pytest.mark.skipif(
    not FASHION_MNIST.system_folder.is_dir(), reason="the package dataset-fashion-mnist is not installed"
)
def test_real_fashion_mnist_from_the_system_folder():
    data = load("fashion_mnist")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [54_000, 6_000, 10_000]
    assert np.bincount(data.test.t).tolist() == [1000] * 10


def test_mnist_files_are_refused_as_fashion_mnist(tmp_path: Path):
    folder = fill(tmp_path / "data")
    for theirs, ours in zip(MNIST.files, small().files, strict=True):
        (folder / f"{ours.name}.gz").rename(folder / f"{theirs.name}.gz")
    with refused(folder / "train-images-idx3-ubyte.gz", "SHA-256"):
        dataclasses.replace(FASHION_MNIST).load(folder)


def small_zipped(folder: Path, mirrors: tuple[str, ...] = ()) -> IdxSet:
    """A data set whose digests are those of the gzip files in `folder`."""
    digests = [hashlib.sha256((folder / f"{name}.gz").read_bytes()).hexdigest() for name in RAW]
    files = [ZippedFile(name, len(raw), digest) for (name, raw), digest in zip(RAW.items(), digests, strict=True)]
    return IdxSet("small", tuple(files), ("a", "b", "c"), mirrors)


def test_files_known_by_their_compressed_form_are_downloaded_once(tmp_path: Path, cache: Path):
    folder = fill(tmp_path / "mirror")
    with serving(folder) as (url, served):
        first = small_zipped(folder, (url,)).load(None)
    assert len(served) == 4
    assert first.train.x.tobytes() == RAW["train-images"][16:]
    assert small_zipped(folder).load(None).digest() == first.digest()


def test_file_compressed_anew_is_refused_where_only_the_published_one_is_known(tmp_path: Path):
    folder = fill(tmp_path / "data")
    published = small_zipped(folder)
    path = folder / "train-images.gz"
    path.write_bytes(gzip.compress(RAW["train-images"], compresslevel=1, mtime=12345))
    with refused(path, "SHA-256"):
        published.load(folder)
    path.unlink()
    (folder / "train-images").write_bytes(RAW["train-images"])
    with refused("lacks train-images (.gz as published)"):
        published.load(folder)


def test_other_files_are_refused_as_kuzushiji_mnist(tmp_path: Path):
    folder = fill(tmp_path / "data")
    for theirs, ours in zip(KMNIST.files, small().files, strict=True):
        (folder / f"{ours.name}.gz").rename(folder / f"{theirs.name}.gz")
    with refused(folder / "train-images-idx3-ubyte.gz", "SHA-256"):
        load("kmnist", root=str(folder))
    assert len(set(KMNIST.classes)) == 10

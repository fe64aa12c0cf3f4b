"""Queries of the system: a container's limits, and systems without Linux's own calls."""

import os
import platform as system
from pathlib import Path

import pytest
from support.assertions import refused

from nl_nodes import Device, platform
from nl_nodes.platform import cores, cpu_count, locked, memory, processor_name

V2 = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 24 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw shared:8 - cgroup cgroup rw,cpu,cpuacct\n"
V1_MEMORY = "34 24 0:30 {top} /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"
MANY = list(range(8))


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(MANY))


def tree(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """Create `/proc/self` and control group files below a folder."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(root: Path, group: str = "/", top: str = "/", **quotas: str) -> Path:
    files = {f"sys/fs/cgroup/{folder.replace('_', '/')}/cpu.max": text for folder, text in quotas.items()}
    return tree(root, f"0::{group}\n", V2.format(top=top), files)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8),
        ("40000 10000", 4), ("", 8), ("nonsense", 8), ("0 0", 8),
    ],
)  # fmt: skip
def test_the_quota_of_version_2_counts(tmp_path: Path, quota: str, expected: int) -> None:
    tree(tmp_path, "0::/\n", V2.format(top="/"), {"sys/fs/cgroup/cpu.max": quota})
    assert cpu_count(tmp_path) == expected


def test_the_tightest_of_the_own_group_and_those_above_counts(tmp_path: Path) -> None:
    free, tight, tighter = "max 100000", "300000 100000", "200000 100000"
    assert cpu_count(v2(tmp_path / "own", "/a/b", a=free, a_b=tight, other="100000 100000")) == 3
    assert cpu_count(v2(tmp_path / "above", "/a/b", a=tighter, a_b=tight)) == 2
    assert cpu_count(v2(tmp_path / "nothing", "/a/b", a=free, a_b=free)) == 8


def test_a_container_that_sees_its_hosts_paths_finds_its_own_files(tmp_path: Path) -> None:
    mounted = v2(tmp_path / "mounted", "/docker/x/inner", top="/docker/x", inner="400000 100000")
    (mounted / "sys/fs/cgroup/cpu.max").write_text("500000 100000")
    assert cpu_count(mounted) == 4
    outside = v2(tmp_path / "outside", "/../../elsewhere")
    (outside / "sys/fs/cgroup").mkdir(parents=True)
    (outside / "sys/fs/cgroup/cpu.max").write_text("300000 100000")
    (outside / "sys/elsewhere").mkdir()
    (outside / "sys/elsewhere/cpu.max").write_text("100000 100000")
    assert cpu_count(outside) == 3


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("200000", 2), ("150000", 1), ("20000", 1)])
def test_the_quota_of_version_1_counts(tmp_path: Path, quota: str, expected: int) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct/a"
    files = {
        f"{folder}/cpu.cfs_quota_us": quota,
        f"{folder}/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/a/cpu.cfs_quota_us": "100000",  # of another controller
        "sys/fs/cgroup/memory/a/cpu.cfs_period_us": "100000",
    }
    groups = "4:memory:/a\n3:cpu,cpuacct:/a/b\n1:name=systemd:/a\n0::/a\n"
    mounts = V1.format(top="/") + V1_MEMORY.format(top="/")
    assert cpu_count(tree(tmp_path, groups, mounts, files)) == expected


def test_a_mount_whose_name_has_a_space(tmp_path: Path) -> None:
    mounts = V2.format(top="/").replace("/sys/fs/cgroup", "/my\\040groups")
    assert cpu_count(tree(tmp_path, "0::/\n", mounts, {"my groups/cpu.max": "200000 100000"})) == 2


@pytest.mark.parametrize("text", ["", "nonsense\n", "a b c d e f\n - \n", "::\n0::\n", "\x00\xff - cgroup2\n"])
def test_what_cannot_be_read_limits_nothing(tmp_path: Path, text: str) -> None:
    assert cpu_count(tmp_path) == 8
    assert cpu_count(tree(tmp_path, text, text, {})) == 8
    assert cpu_count(tree(tmp_path, "0::/\n", text, {})) == 8


def test_memory_is_the_machines_or_the_containers(tmp_path: Path) -> None:
    machine = memory(tmp_path)
    assert machine == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    group = {"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/a/memory.max": "1048576"}
    assert memory(tree(tmp_path / "v2", "0::/a/b\n", V2.format(top="/"), group)) == 2**20
    old = {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}
    assert memory(tree(tmp_path / "v1", "4:memory:/\n", V1_MEMORY.format(top="/"), old)) == machine


def test_a_device_takes_so_many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nl_nodes.device.device.cpu_count", lambda: 1)
    assert Device().executor.count == 1


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with locked(tmp_path, wait=False), pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
        pass
    with locked(tmp_path, wait=True):
        pass


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that lacks the calls that macOS and Windows lack."""
    for name in ("sched_getaffinity", "sched_setaffinity", "sched_yield", "memfd_create", "sysconf"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(platform, "fcntl", None)


@pytest.mark.usefixtures("without")
def test_a_system_that_tells_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert (cpu_count(tmp_path), cores(), memory(tmp_path)) == (3, [], None)
    assert cpu_count(v2(tmp_path / "limited", "/a", a="200000 100000")) == 2
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu_count(tmp_path) == 1
    platform.pin([0])
    platform.yield_core()
    platform.sync_folder(tmp_path)
    with locked(tmp_path, wait=False), locked(tmp_path, wait=False):
        pass
    assert type(Device(threads=2).executor).__name__ == "Threads"
    with refused("device.workers=processes"):
        assert Device(threads=2, workers="processes").executor


def test_a_processor_has_family_and_model_where_the_system_tells_them(tmp_path: Path) -> None:
    one = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nflags\t\t: fpu: x\n\n"
    assert processor_name(tree(tmp_path, "", "", {"proc/cpuinfo": one + one})) == "AMD EPYC (family 25, model 17)"
    one = "processor\t: 0\nmodel name\t: ARMv7 Processor rev 3 (v7l)\n"
    assert processor_name(tree(tmp_path / "v7", "", "", {"proc/cpuinfo": one})) == "ARMv7 Processor rev 3 (v7l)"
    elsewhere = {system.processor(), system.machine()}
    arm = tree(tmp_path / "arm", "", "", {"proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 50.00\n"})
    assert processor_name(arm) in elsewhere
    assert processor_name(tmp_path / "missing") in elsewhere

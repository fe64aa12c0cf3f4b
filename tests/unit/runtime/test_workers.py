"""Executors and their workers: call lists, failures, and what worker processes take and give back."""

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from weakref import ref

import numpy as np
import pytest

from nl_nodes import DeviceError
from nl_nodes.philox import philox
from nl_nodes.platform import cores
from nl_nodes.runtime import Executor, Processes, Threads, protocol, shared_memory
from nl_nodes.runtime.executor import merge_calls, parallel_workers
from nl_nodes.runtime.worker_main import Worker

EXECUTOR = sys.modules["nl_nodes.runtime.executor"]  # the package has a function of that name
BARRIER = ("barrier", ())


@pytest.fixture(scope="module")
def processes() -> Processes:
    """An executor that tests share and leave as it was; processes take a second to start."""
    return Processes(2)


@pytest.fixture(params=["alone", "threads", "processes"])
def executor(request: pytest.FixtureRequest) -> Executor:
    made: dict[str, Callable[[], Executor]] = {"alone": Executor, "threads": lambda: Threads(2)}
    return made[request.param]() if request.param in made else request.getfixturevalue(request.param)


@pytest.fixture(params=["threads", "processes"])
def two(request: pytest.FixtureRequest) -> Executor:
    return Threads(2) if request.param == "threads" else request.getfixturevalue("processes")


def numbers(executor: Executor, count: int = 4) -> np.ndarray:
    return executor.memory(8 * count).view(np.float64)


# A worker process's side, run in this process


def test_a_worker_does_what_it_is_told() -> None:
    worker, mapped = Worker(os.getppid(), 1, 2), []
    for number, size in ((5, shared_memory.counter_bytes(2)), (6, shared_memory.counter_bytes(2))):
        descriptor, memory = shared_memory.create(size)
        worker.handle({"memory": size, "number": number}, descriptor)
        mapped.append(memory)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    arrivals, data = mapped[0].view(np.int64)[:: shared_memory.LINE_WORDS], mapped[1].view(np.float64)
    data[:] = 2
    arrivals[0] = 1  # the other worker has arrived already
    array = {"array": [6, 8, [2], [8], "<f8"]}
    worker.handle(
        {"load": [["multiply", [array, 3.0, array]], ["random_bits", [7, 1, 0, words_at(6, 64)]]], "number": 9}, None
    )
    worker.handle({"run": 9, "pass": 4}, None)
    assert arrivals.tolist() == [1, 1]
    assert data[:4].tolist() == [2, 6, 6, 2]
    np.testing.assert_array_equal(mapped[1][64:96].view(np.uint64), philox(7, 1, 4, 4, 0))
    worker.handle({"free": "load", "number": 9}, None)
    worker.handle({"free": "memory", "number": 6}, None)
    assert not worker.lists
    assert list(worker.segments) == [5]


def test_a_worker_whose_parent_has_ended_does_not_wait_for_it() -> None:
    worker = Worker(os.getpid(), 1, 2)  # which is not this process's parent
    descriptor, _ = shared_memory.create(size := shared_memory.counter_bytes(2))
    worker.handle({"memory": size, "number": 0}, descriptor)
    with pytest.raises(EOFError):
        worker.barrier()


def words_at(number: int, at: int) -> dict[str, Any]:
    return {"array": [number, at, [4], [8], "<u8"]}


# Lists of calls


def test_merged_lists_have_all_calls_between_the_same_barriers() -> None:
    calls = [[(f"before {n}", ()), BARRIER, (f"behind {n}", ()), BARRIER] for n in range(3)]
    names = [[name for name, _ in one] for one in merge_calls(calls, 2)]
    assert names == [
        ["before 0", "before 2", "barrier", "behind 0", "behind 2", "barrier"],
        ["before 1", "barrier", "behind 1", "barrier"],
    ]
    assert merge_calls(calls, 3) == merge_calls(calls, 7) == calls


def test_there_are_no_more_workers_than_cores_but_two(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for available in (1, 2, 4):
        monkeypatch.setattr(EXECUTOR, "cpu_count", lambda: available)  # noqa: B023
        found.append([parallel_workers(count) for count in (2, 3, 8)])
    assert found == [[2, 2, 2], [2, 2, 2], [2, 3, 4]]


def test_memory_has_the_bytes_that_were_asked_for_and_none_where_there_are_none(executor: Executor) -> None:
    for count in (0, 1, 5000):
        memory = executor.memory(count)
        assert memory.nbytes == count
        assert not memory.any()


def test_random_words_are_those_of_the_pass_and_it_leaves_the_caller_its_cores(executor: Executor) -> None:
    free = cores()
    words = [executor.memory(48).view(np.uint64) for _ in range(executor.count)]
    loaded = executor.load([[("random_bits", (3, 5, 8 * n, own))] for n, own in enumerate(words)])
    for pass_index in (0, 4):
        executor.run(loaded, pass_index)
        for n, own in enumerate(words):
            np.testing.assert_array_equal(own, philox(3, 5, pass_index, 6, 8 * n))
    assert cores() == free


def test_a_plan_for_one_worker_is_run_by_the_caller_alone(executor: Executor) -> None:
    own, words = numbers(executor), executor.memory(48).view(np.uint64)
    own[:] = 3
    loaded = executor.load([[("add.reduce", (own[:, None], 0, None, own[:1])), ("random_bits", (3, 5, 0, words))]])
    executor.run(loaded, 2)
    assert own.tolist() == [12, 3, 3, 3]
    np.testing.assert_array_equal(words, philox(3, 5, 2, 6, 0))


def test_each_worker_runs_its_own_list_and_waits_at_the_barriers(two: Executor) -> None:
    a, b, total = (numbers(two) for _ in range(3))
    first = [("multiply", (a, 2.0, a)), BARRIER, ("add", (a, b, total)), BARRIER, ("maximum", (total, 15.0, a))]
    second = [("add", (b, 1.0, b)), BARRIER, BARRIER, ("subtract", (total, b, b))]
    loaded = two.load([first, second])
    for _ in range(50):
        a[:], b[:], total[:] = [1, 2, 3, 4], [5, 6, 7, 8], 0
        two.run(loaded, 0)
        assert total.tolist() == [8, 11, 14, 17]
        assert a.tolist() == [15, 15, 15, 17]
        assert b.tolist() == [2, 4, 6, 8]


def test_calls_are_sent_a_few_at_a_time(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []

    def sent(link: Any, message: dict[str, Any], descriptor: int | None = None) -> None:
        counts.append(len(message.get("load", ())))
        send(link, message, descriptor)

    send = protocol.send
    monkeypatch.setattr(protocol, "send", sent)
    array = numbers(processes)
    calls = [("add", (array, 1.0, array))] * 1000
    processes.run(processes.load([[], calls]), 0)
    assert sum(counts) == 1000
    assert max(counts) < 300
    assert array.tolist() == [1000] * 4


@pytest.mark.parametrize("kind", [Threads, Processes])
def test_more_lists_than_cores_are_run_by_fewer_workers(kind: type[Executor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EXECUTOR, "cpu_count", lambda: 1)
    executor = kind(5)
    own, neighbours = (numbers(executor, 5).reshape(5, 1) for _ in range(2))
    lists = [[("copyto", (own[n], n + 1)), BARRIER, ("copyto", (neighbours[n], own[n - 1]))] for n in range(5)]
    executor.run(executor.load(lists), 0)
    assert executor.count == 5
    assert neighbours.ravel().tolist() == [5, 1, 2, 3, 4]


def test_results_that_are_not_finite_come_without_warnings(executor: Executor) -> None:
    both = [numbers(executor) for _ in range(executor.count)]
    executor.run(executor.load([[("divide", (one, 0.0, one))] for one in both]), 0)
    assert np.isnan(both).all()


# Failures


def test_numpy_has_small_buffers_within_a_pass_and_the_callers_behind_it() -> None:
    before, within = np.getbufsize(), []
    Executor().run([[(lambda: within.append(np.getbufsize()), ())]], 0)
    assert within == [EXECUTOR.BUFFER] != [before]
    assert np.getbufsize() == before


@pytest.mark.parametrize("number", [0, 1])
def test_a_thread_that_fails_ends_the_pass_of_all_and_the_next_one_is_right(number: int) -> None:
    check_failure(Threads(2), number)


def test_a_caller_that_fails_ends_the_pass_of_all_and_the_next_one_is_right(processes: Processes) -> None:
    check_failure(processes, 0)


def check_failure(executor: Executor, number: int) -> None:
    """Fail between two barriers, at which the other worker waits."""
    value, copies = (numbers(executor) for _ in range(2))
    lists = [
        [
            BARRIER,
            BARRIER,
            ("copyto", (copies, value)),
            ("add", (copies, 0.0, copies)),
            ("multiply", (copies, 1.0, copies)),
        ],
        [("add", (value, 1.0, value)), BARRIER, BARRIER],
    ]

    def fail() -> None:
        raise MemoryError("full")

    for done in range(1, 4):
        failing = executor.load(lists)
        (failing[number] if isinstance(failing, list) else failing.own).insert(1 + number, (fail, ()))
        with pytest.raises(MemoryError, match="full"):
            executor.run(failing, 0)
        value[:] = done
        executor.run(executor.load(lists), 0)
        assert copies.tolist() == [done + 1] * 4
    assert executor.complete


def test_a_pass_that_cannot_begin_leaves_no_worker_waiting(processes: Processes) -> None:
    loaded = processes.load([[BARRIER], [BARRIER]])
    with pytest.raises(ValueError, match="invalid literal"):
        processes.run(loaded, "seven")  # type: ignore[arg-type]
    processes.run(loaded, np.int64(7))  # type: ignore[arg-type]
    assert processes.complete


def test_memory_that_cannot_be_had_leaves_nothing_behind() -> None:
    executor = Processes(2)
    before = held(os.getpid())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limits[1]))
    try:
        with pytest.raises(DeviceError, match=r"no shared memory of 3,000,000 bytes .*device\.workers=threads"):
            executor.memory(3_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert held(os.getpid()) == before
    executor.children[0].kill()
    executor.children[0].wait()
    with pytest.raises(DeviceError, match="a worker process ended"):
        executor.memory(3_000_000)
    assert held(os.getpid()) == before


def test_a_plan_that_is_dropped_frees_its_memory(two: Executor) -> None:
    memory = two.memory(8)
    loaded, alive = two.load([[("add", (memory, 1, memory))], []]), ref(memory)
    two.run(loaded, 0)
    del memory, loaded
    assert alive() is None


def test_a_worker_starts_whatever_is_in_the_module_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [Path("/nowhere"), *sys.path])
    executor = Processes(2)
    executor.run(executor.load([[], []]), 0)


def test_a_worker_that_is_gone_is_told_whatever_is_asked_of_the_rest() -> None:
    executor = Processes(2)
    loaded, free = executor.load([[], []]), cores()
    executor.run(loaded, 0)
    assert executor.complete
    executor.children[0].kill()
    executor.children[0].wait()
    assert not executor.complete
    for ask in (lambda: executor.run(loaded, 0), lambda: executor.load([[], []]), lambda: executor.memory(8)):
        with pytest.raises(DeviceError, match="a worker process ended"):
            ask()
        assert cores() == free


# Resources of worker processes


def test_a_worker_ends_with_its_connection_and_not_by_ctrl_c() -> None:
    executor = Processes(2)
    worker = executor.children[0]
    worker.send_signal(signal.SIGINT)  # while it imports
    loaded = executor.load([[], []])
    executor.run(loaded, 0)
    worker.send_signal(signal.SIGINT)
    executor.run(loaded, 0)
    executor._links[0].close()
    assert worker.wait(60) == 0


@pytest.fixture
def two_cores() -> Iterator[list[int]]:
    """This process, pinned to two cores."""
    before = cores()
    if len(before) < 2:
        pytest.skip("needs two cores")
    os.sched_setaffinity(0, before[:2])
    yield before[:2]
    os.sched_setaffinity(0, before)


def cores_during_a_pass(executor: Processes) -> tuple[list[int], set[int]]:
    """Return the cores of the caller and of the other worker."""
    loaded, seen = executor.load([[], []]), []
    executor.run(loaded, 0)
    loaded.own.append((lambda: seen.append((cores(), os.sched_getaffinity(executor.children[0].pid))), ()))
    executor.run(loaded, 0)
    return seen[0]


def test_each_worker_has_a_core_of_its_own_during_a_pass(two_cores: list[int]) -> None:
    assert cores_during_a_pass(Processes(2)) == (two_cores[:1], {two_cores[1]})
    assert cores() == two_cores


def test_cores_that_the_caller_has_chosen_since_stay_his(two_cores: list[int]) -> None:
    executor = Processes(2)
    os.sched_setaffinity(0, two_cores[1:])
    assert cores_during_a_pass(executor)[0] == two_cores[1:]
    assert cores() == two_cores[1:]


def test_workers_with_a_quota_of_fewer_cores_run_where_they_may(
    two_cores: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nl_nodes.runtime.processes.cpu_count", lambda: 1)
    executor = Processes(2)
    assert cores_during_a_pass(executor) == (two_cores, set(two_cores))
    os.sched_setaffinity(0, two_cores[1:])
    assert cores_during_a_pass(executor) == (two_cores[1:], set(two_cores))
    assert cores() == two_cores[1:]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the processor time of another process")
def test_a_worker_that_waits_sleeps(processes: Processes) -> None:
    def ticks() -> int:
        return sum(map(int, Path(f"/proc/{processes.children[0].pid}/stat").read_text().split()[13:15]))

    x = numbers(processes)
    processes.run(processes.load([[("copyto", (x, 1.0)), BARRIER], [("copyto", (x, 1.0)), BARRIER]]), 0)
    sleep(0.1)  # it polls for a millisecond first
    before = ticks()
    sleep(0.5)
    assert ticks() - before < 10  # of 50


def test_memory_and_lists_that_nothing_uses_are_given_back_by_all(processes: Processes) -> None:
    idle = processes.load([[], []])  # workers free what is unused at the next pass, or request for memory or a list
    for more, ask in ((0, lambda: None), (0, lambda: processes.load([[], []])), (1, lambda: processes.memory(1))):
        processes.run(idle, 0)
        before = [held(os.getpid()), held(processes.children[0].pid)]
        for _ in range(3):
            memory = [processes.memory(4096) for _ in range(4)]
            del memory[1]  # the next one may lie in its place, between others
            memory.append(processes.memory(4096))
            views = [one.view(np.float64) for one in memory]
            processes.run(processes.load([[], [("copyto", (view, 2.0)) for view in views]]), 0)
            assert all((view == 2).all() for view in views)
            del memory, views
        if (segments := ask()) is None:
            processes.run(idle, 0)
        expected = [(mappings + more, files + more) for mappings, files in before]
        end = monotonic() + 20  # a worker frees it at once, without a pass
        while held(processes.children[0].pid) != expected[1] and monotonic() < end:
            sleep(0.01)
        assert [held(os.getpid()), held(processes.children[0].pid)] == expected
        del segments


def test_memory_dropped_while_a_signal_comes_is_given_back_too(processes: Processes) -> None:
    """A signal may come wherever a Python function is entered; in a weak reference's callback its exception is lost."""
    processes.run(processes.load([[], []]), 0)
    before = held(processes.children[0].pid)
    memory, entered = processes.memory(4096), []

    def interrupt(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            entered.append(frame)
            raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        del memory
    finally:
        sys.setprofile(None)
    assert not entered
    processes.run(processes.load([[], []]), 0)
    assert held(processes.children[0].pid) == before


def held(pid: int) -> tuple[int, int]:
    """Return the numbers of shared memory mappings and open files of a process."""
    process = Path(f"/proc/{pid}")
    return (process / "maps").read_text().count("memfd:nl-nodes"), len(list((process / "fd").iterdir()))


@pytest.mark.parametrize("at", [0, 1000])
def test_calls_of_which_one_is_refused_are_freed_by_all(processes: Processes, at: int) -> None:
    processes.run(processes.load([[], []]), 0)
    before = held(processes.children[0].pid)
    array = numbers(processes)
    calls = [("add", (array, 1.0, array))] * at
    with pytest.raises(DeviceError, match="not in shared memory"):
        processes.load([[], [*calls, ("negative", (np.zeros(4), array))]])
    del array, calls
    processes.run(processes.load([[], []]), 0)
    assert held(processes.children[0].pid) == before


def test_an_array_outside_of_shared_memory_is_refused(processes: Processes) -> None:
    inside = processes.memory(4096)
    with pytest.raises(DeviceError, match="not in shared memory"):
        processes.load([[], [("copyto", (np.zeros(4), 0))]])
    processes.run(processes.load([[], [("copyto", (inside[4095:], 3)), ("copyto", (processes.memory(0), 3))]]), 0)
    assert inside[4095] == 3

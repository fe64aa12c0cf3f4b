"""Networks called from several threads concurrently give the same results as from one."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread

import numpy as np
import pytest
from support.interrupts import BATCH, EXECUTORS, IMAGE, network

from nl_nodes import Graph, Input, MulConst
from nl_nodes.compiler import CompileSpec, Threads, compile_graph

rng = np.random.default_rng(5)
BATCHES = [rng.standard_normal((1 + i % 5, *IMAGE)) for i in range(24)]
X, T = rng.standard_normal((BATCH, *IMAGE)), rng.integers(0, 10, BATCH)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("executor", EXECUTORS)
def test_one_network_predicts_correctly_from_four_threads(executor: str) -> None:
    net = network(**EXECUTORS[executor])
    expected = [net.predict(x) for x in BATCHES]
    losses = [net.evaluate(x, T[: len(x)]) for x in BATCHES]
    with ThreadPoolExecutor(4) as pool:
        for found, y in zip(pool.map(net.predict, BATCHES * 3), expected * 3, strict=True):
            close(found, y)
        assert list(pool.map(lambda x: net.evaluate(x, T[: len(x)]), BATCHES)) == losses


@pytest.mark.parametrize("executor", EXECUTORS)
def test_gradients_are_valid_until_the_same_threads_next_call(executor: str) -> None:
    """Each thread checks its gradients only after all others have computed theirs, on other images."""
    net, alone = network(**EXECUTORS[executor]), network(compile=False)
    inputs = [X * (1 + n) for n in range(4)]
    barrier = Barrier(4)
    wrong: list[str] = []

    def work(number: int) -> None:
        for _ in range(3):
            done = net.step(inputs[number], T)
            barrier.wait()
            expected = dict(done.grads.items())
            seen = {name: grad.copy() for name, grad in expected.items()}
            barrier.wait()
            net.predict(inputs[number])
            barrier.wait()
            wrong.extend(name for name, grad in expected.items() if not np.array_equal(grad, seen[name]))
            steps[number].append((float(done.loss), seen))
            barrier.wait()

    steps: list[list[tuple[float, dict[str, np.ndarray]]]] = [[] for _ in inputs]
    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert net.passes == 12
    # The pass index, and so the dropout mask, of a thread is random; the loss identifies it.
    for x, own in zip(inputs, steps, strict=True):
        for loss, grads in own:
            matches = []
            for alone.passes in range(12):
                matches.append(alone.step(x, T))
                if abs(float(matches[-1].loss) - loss) < 1e-9 * loss:
                    for name, grad in matches[-1].grads.items():
                        close(grads[name], grad)
                    break
            else:
                pytest.fail("a loss that no pass alone gives")


def test_one_thread_gets_the_same_gradient_arrays_at_every_step() -> None:
    net = network()
    first = net.step(X, T).grads
    assert net.step(X, T).grads is first  # copies cost time and memory


def test_a_second_thread_has_the_pass_compiled_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def counted(*args, **options):
        compiled.append(args)
        return compile_graph(*args, **options)

    monkeypatch.setattr("nl_models.network.compile_graph", counted)
    net = network()
    net.step(X, T)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            pool.submit(net.step, X, T).result()
    net.step(X, T)
    assert len(compiled) == 2  # the first plan writes to the first thread's arrays


def test_gradients_do_not_change_while_other_threads_step() -> None:
    """They are checked throughout another thread's passes."""
    net = network(threads=1)
    grads = net.gradient(X, T)
    seen = grads.flat.copy()
    other = Thread(target=lambda: [net.step(2 * X, T) for _ in range(100)])
    other.start()
    looks = 0
    while other.is_alive():
        assert np.array_equal(grads.flat, seen)
        looks += 1
    other.join()
    assert looks > 10


@pytest.mark.parametrize("executor", EXECUTORS)
def test_networks_in_separate_threads_train_as_if_alone(executor: str) -> None:
    def train(seed: int) -> np.ndarray:
        net = network(**EXECUTORS[executor])
        x = X + seed
        for _ in range(5):
            net.params.flat -= 0.05 * net.step(x, T).grads.flat
            net.predict(x[:3])
        return net.params.flat.copy()

    expected = [train(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for found, params in zip(pool.map(train, range(4)), expected, strict=True):
            close(found, params)


def test_predictions_are_correct_while_another_thread_trains() -> None:
    net = network(workers="threads", threads=2)
    expected = [net.predict(x) for x in BATCHES]  # with the running statistics before training
    alone = network(compile=False)
    stop = False

    def train() -> None:
        while not stop:
            net.gradient(X, T)
            net.load_state_dict(start)

    start = net.state_dict()
    trainer = Thread(target=train)
    trainer.start()
    try:
        states = [net.predict(x) for x in BATCHES]
    finally:
        stop = True
        trainer.join()
    alone.step(X, T)
    for x, found, before in zip(BATCHES, states, expected, strict=True):
        after = alone.predict(x)  # with the statistics after one pass
        assert min(np.abs(found - before).max(), np.abs(found - after).max()) < 1e-9


def test_network_is_usable_after_a_failed_call() -> None:
    x = Input("x", (4, 3))
    executor = Threads(2)
    spec = CompileSpec({"x": ((4, 3), np.float64)}, frozenset({"x"}))
    plan = compile_graph(Graph(MulConst(x, 2.0)), spec, executor)
    feeds = {"x": rng.standard_normal((4, 3))}

    def fail(*_: object) -> None:
        raise MemoryError

    for number in range(2):
        loaded = (
            [[(fail, ())], plan.executor.load(plan.calls)[1]]
            if number
            else [plan.executor.load(plan.calls)[0], [(fail, ())]]
        )
        with pytest.raises(MemoryError):
            plan.run(feeds, 0, loaded)
        np.testing.assert_array_equal(plan.run(feeds, 0)[0], 2 * feeds["x"])

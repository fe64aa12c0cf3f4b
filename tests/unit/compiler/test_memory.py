"""The memory plan: blocks with overlapping live ranges get disjoint offsets, the others share memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from mmap import mmap
from typing import Any

import numpy as np
import pytest
from support.assertions import refused

from nl_nodes import platform
from nl_nodes.compiler.lower.arena import Arena
from nl_nodes.compiler.lower.memory import ALIGNMENT, CHUNK, Block, Memory, assign_offsets, record_use
from nl_nodes.runtime import Executor

Use = tuple[int, int, int]
"""A worker, the number of its call, and the round."""


def used(memory: Memory, size: int, uses: Sequence[Use]) -> Block:
    block = memory.allocate(size)
    for worker, number, round_ in uses:
        record_use(memory, worker, number, round_, block.memory)
    return block


def lines(*blocks: tuple[int, Sequence[Use]]) -> tuple[list[int], int]:
    """Return the offsets of blocks and the arena's size, in cache lines; they don't depend on the blocks' order."""
    memory = Memory()
    made = [used(memory, size * ALIGNMENT, uses) for size, uses in blocks]
    offsets, end = assign_offsets(memory.blocks)
    assert assign_offsets(memory.blocks[::-1]) == (offsets, end)
    assert not any(offset % ALIGNMENT for offset in offsets.values())
    return [offsets[block] // ALIGNMENT for block in made], end // ALIGNMENT


def during(first: int, last: int, worker: int = 0) -> list[Use]:
    """Return a worker's uses of a block from one call to another, in one round."""
    return [(worker, first, 0), (worker, last, 0)]


def in_rounds(first: int, last: int, *workers: int) -> list[Use]:
    return [(worker, 10 * round_ + worker, round_) for worker in workers for round_ in (first, last)]


def test_one_worker_reuses_memory_from_the_call_after_the_last_use() -> None:
    offsets, end = lines(*((1, during(call, call + 1)) for call in range(10)))
    assert offsets == [0, 1] * 5
    assert end == 2
    often = [use for call in (0, 4, 8) for use in during(call, call)]
    assert lines((1, often), (1, during(2, 3)), (1, during(5, 6)), (1, during(9, 9))) == ([0, 1, 1, 0], 2)


def test_workers_share_memory_only_across_a_barrier() -> None:
    assert lines((1, [(0, 0, 0)]), (1, [(1, 5, 0)]))[1] == 2
    assert lines((1, [(0, 0, 0)]), (1, [(1, 5, 1)]))[1] == 1


@pytest.mark.parametrize("other", [(0, 1), (0,), (1,), (2,), (1, 2)])
def test_a_block_of_several_workers_is_live_from_its_first_round_to_its_last(other: tuple[int, ...]) -> None:
    common = (1, in_rounds(2, 4, 0, 1))
    for first, last in ((0, 2), (2, 2), (3, 3), (0, 6), (4, 6)):
        assert lines(common, (1, in_rounds(first, last, *other)))[1] == 2
    for first, last in ((0, 1), (5, 5)):
        assert lines(common, (1, in_rounds(first, last, *other)))[1] == 1


def test_a_block_gets_the_lowest_gap_that_is_wide_enough() -> None:
    wide, long = (4, during(0, 1)), (3, during(0, 9))
    three, two, one = (3, during(2, 3)), (2, during(5, 6)), (1, during(4, 5))
    assert lines(wide, long) == ([0, 4], 7)
    assert lines(wide, long, (4, during(5, 6))) == ([0, 4, 0], 7)
    assert lines(wide, long, three, one) == ([0, 4, 0, 0], 7)
    assert lines(wide, long, two, one) == ([0, 4, 0, 2], 7)
    assert lines(wide, long, (3, during(5, 6)), (2, during(5, 6))) == ([0, 4, 0, 7], 9)
    assert lines((1, during(0, 9)), (2, during(0, 9)), (3, during(0, 9))) == ([5, 3, 0], 6)


def test_blocks_are_numbered_as_they_are_made() -> None:
    memory = Memory()
    made = [memory.allocate(CHUNK), memory.allocate(8), memory.block(memory.external(np.zeros(3)))]
    assert [block.number for block in made] == [0, 1, 2]


def test_blocks_are_placed_by_size_then_length_then_start() -> None:
    order = [
        (3, in_rounds(3, 3, 0, 1)),
        (2, in_rounds(1, 6, 0, 1)),
        (2, in_rounds(0, 4, 0, 1)),
        (2, in_rounds(1, 5, 0, 1)),
        (2, in_rounds(3, 7, 0, 1)),
        (1, in_rounds(0, 4, 0, 1)),
        (1, in_rounds(3, 4, 0)),
        (1, in_rounds(3, 4, 0, 1)),
        (1, in_rounds(3, 4, 1)),
    ]
    expected = [0, 3, 5, 7, 9, 11, 12, 13, 14]
    assert lines(*order) == (expected, 15)
    assert lines(*order[::-1]) == (expected[::-1], 15)


def test_persistent_blocks_share_no_memory() -> None:
    memory = Memory()
    first, second = memory.allocate(ALIGNMENT + 1, persistent=True), memory.allocate(1, persistent=True)
    transient = [used(memory, ALIGNMENT, during(0, 0)), used(memory, ALIGNMENT, during(1, 1))]
    record_use(memory, 0, 5, 0, first.memory)
    offsets, end = assign_offsets(memory.blocks)
    assert [offsets[b] // ALIGNMENT for b in (first, second, *transient)] == [0, 2, 3, 3]
    assert end == 4 * ALIGNMENT


def test_unused_external_and_aliased_blocks_take_no_memory() -> None:
    memory = Memory()
    array = memory.external(np.zeros(100))
    moved = used(memory, 10 * ALIGNMENT, during(0, 0))
    moved.alias = array
    memory.allocate(ALIGNMENT)
    assert assign_offsets(memory.blocks) == ({}, 0)


def happens_before(a: Sequence[Use], b: Sequence[Use]) -> bool:
    """Whether all uses `a` precede all uses `b`, however fast each worker is."""
    return all((w == v and n < m) or r < s for w, n, r in a for v, m, s in b)


@pytest.mark.parametrize("seed", range(30))
def test_live_ranges_of_blocks_that_share_memory_are_disjoint(seed: int) -> None:
    rng = np.random.default_rng(seed)
    memory, uses = Memory(), {}
    rounds = [np.sort(rng.integers(0, 4, 12)) for _ in range(3)]
    for _ in range(15):
        calls = [(w, int(n)) for w in range(3) if rng.random() < 0.5 for n in np.unique(rng.integers(0, 12, 2))]
        chosen = [(w, n, int(rounds[w][n])) for w, n in calls]
        uses[used(memory, int(rng.integers(1, 4 * ALIGNMENT)), chosen)] = chosen
    offsets, end = assign_offsets(memory.blocks)
    assert set(offsets) == {block for block, chosen in uses.items() if chosen}
    assert max(at + block.size for block, at in offsets.items()) <= end
    for a, b in combinations(offsets, 2):
        disjoint = offsets[a] + a.size <= offsets[b] or offsets[b] + b.size <= offsets[a]
        assert disjoint or happens_before(uses[a], uses[b]) or happens_before(uses[b], uses[a])


def test_blocks_are_disjoint_and_found_by_every_byte() -> None:
    memory = Memory()
    blocks = [memory.allocate(size) for size in (0, 1, ALIGNMENT, ALIGNMENT + 1, 200)]
    assert [block.size for block in blocks] == [1, 1, ALIGNMENT, ALIGNMENT + 1, 200]
    for block in blocks:
        assert block.start % ALIGNMENT == 0
        assert all(memory.block(block.memory[i:]) is block for i in (0, block.size - 1))
    assert memory.find(beyond(blocks[1])) is None
    assert memory.find(beyond(blocks[-1])) is None
    assert Memory().find(blocks[0].memory) is None


def beyond(block: Block) -> Any:
    """Return the byte after a block."""
    return np.lib.stride_tricks.as_strided(block.memory[-1:], (2,))[1:]


def test_adjacent_external_arrays_are_different_blocks() -> None:
    bytes_ = mmap(-1, 4096)
    parts = [np.frombuffer(bytes_, np.uint8, 8, at) for at in (16, 0, 8)]
    for part in parts:
        memory = Memory()
        memory.external(part)
        assert [memory.find(other) is not None for other in parts] == [other is part for other in parts]
    memory = Memory()
    for part in parts:
        memory.external(part)
    assert [block.start for block in memory.blocks] == sorted(part.ctypes.data for part in parts)
    assert [memory.block(part).start for part in parts] == [part.ctypes.data for part in parts]


def test_address_space_is_used_up_before_more_is_mapped() -> None:
    memory = Memory()
    first = memory.allocate(CHUNK - ALIGNMENT)
    assert memory.allocate(ALIGNMENT).start == first.start + first.size
    large = memory.allocate(CHUNK + 1)
    assert large.size == CHUNK + 1


def test_equal_constants_share_one_persistent_block() -> None:
    memory = Memory()
    one = memory.constant(np.arange(6.0))
    assert memory.constant(np.arange(6.0)) is one
    assert memory.block(one).persistent
    different = [np.arange(6), np.arange(6.0, dtype="float32"), np.arange(6.0).reshape(2, 3), -np.arange(6.0)]
    found = [memory.constant(array) for array in different]
    assert len({memory.block(array) for array in (one, *found)}) == 5
    assert [(a.shape, a.dtype) for a in found] == [(a.shape, a.dtype) for a in different]


def test_views_of_an_external_array_share_one_block() -> None:
    memory, whole = Memory(), np.zeros((4, 6), "float32")
    views = [whole[1:], whole[:, 2], whole.T, whole]
    assert all(memory.external(view) is view for view in views)
    (block,) = memory.blocks
    assert (block.start, block.size, block.persistent, block.external) == (whole.ctypes.data, whole.nbytes, True, True)
    assert {memory.block(view) for view in views} == {block}


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 4), order="F"),
        np.zeros((2, 3, 4), "float32").transpose(1, 0, 2).copy(order="K"),
        np.ndarray((3, 2), "float32", mmap(-1, 64), 8, (4, 20)),
        np.array(2.0),
    ],
)
def test_an_external_array_of_any_strides_is_one_block(array: Any) -> None:
    memory = Memory()
    assert memory.external(array) is array
    (block,) = memory.blocks
    begin, end = np.lib.array_utils.byte_bounds(array)
    assert (block.start, block.start + block.size) == (begin, end)


def test_an_empty_external_array_becomes_a_constant() -> None:
    memory = Memory()
    empty = memory.external(np.zeros((0, 3), "float32"))
    assert (empty.shape, empty.dtype) == ((0, 3), "float32")
    block = memory.block(empty)
    assert (block.size, block.persistent, block.external) == (1, True, False)


def test_more_than_all_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    with refused("one array of the plan for this batch needs 1 EiB of memory", ": give smaller batches"):
        memory.allocate(2**60)
    used(memory, 3 * ALIGNMENT, during(0, 0))
    monkeypatch.setattr(platform, "memory", lambda: 2 * ALIGNMENT)
    with refused("the plan for this batch needs 192 bytes of memory", ": give smaller batches"):
        Arena(memory, Executor())


def test_what_blocks_share_is_apart_from_what_lasts() -> None:
    memory = Memory()
    lasting = memory.constant(np.ones(3))
    assert Arena(memory, Executor()).shared.size == 0
    transient = np.ndarray(5, "float64", used(memory, 40, during(0, 1)).memory)
    arena = Arena(memory, Executor())
    assert arena.shared.size == ALIGNMENT
    arena.shared[...] = 255
    assert np.isnan(arena.relocate(transient)).all()
    assert arena.relocate(lasting).tolist() == [1.0, 1.0, 1.0]


def test_an_arena_relocates_every_array() -> None:
    memory, executor, whole = Memory(), Executor(), np.arange(20.0)
    constant = memory.constant(np.arange(6.0).reshape(2, 3))
    transient = used(memory, 100, during(0, 1))
    moved = used(memory, 40, during(0, 1))
    moved.alias = memory.external(whole)[10:15]
    arena = Arena(memory, executor)
    assert arena.size == 3 * ALIGNMENT
    np.testing.assert_array_equal(arena.relocate(constant), np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(arena.relocate(constant[1, ::2]), [3.0, 5.0])
    values = np.ndarray(12, "float64", transient.memory)
    name, (all_, part, number) = arena.relocate_call(("copyto", (values, values[3:9:2], 7)))
    all_[...] = np.arange(12)
    assert (name, number, part.tolist()) == ("copyto", 7, [3.0, 5.0, 7.0])
    target = np.ndarray(5, "float64", moved.memory)
    arena.relocate(target[::-1])[...] = np.arange(5)
    assert whole[10:15].tolist() == [4.0, 3.0, 2.0, 1.0, 0.0]
    assert np.shares_memory(arena.relocate(whole[3:]), whole)
    assert not np.shares_memory(arena.relocate(values), values)  # a placeholder
    np.testing.assert_array_equal(arena.relocate(constant), np.arange(6.0).reshape(2, 3))

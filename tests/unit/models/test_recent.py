"""A cache keeps the entries that were used last."""

from nl_models.recent import RecentlyUsed


def test_the_entry_unused_for_the_longest_time_is_removed_first() -> None:
    made: list[int] = []
    squares: RecentlyUsed[int, int] = RecentlyUsed(2)
    for number in (2, 3, 2, 4, 2, 3):
        assert squares.get_or_make(number, lambda n=number: made.append(n) or n * n) == number**2
        assert len(squares) <= 2
    assert made == [2, 3, 4, 3]
    assert list(squares) == [2, 3]

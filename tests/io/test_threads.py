"""Stages keep order, hold little, pass errors on and stop when they are not wanted any more."""

import threading
from collections.abc import Iterator

import pytest

from celltrack_jax.io.threads import ahead, mapped

STAGES = {
    "ahead": lambda items: ahead(items, 3),
    "mapped": lambda items: mapped(lambda item: item, items, 3),
}


class Source:
    """Counts to infinity, or to an error, and knows how far it came and whether it was closed."""

    def __init__(self, fails_at: int = -1):
        self.drawn, self.closed, self.fails_at = 0, threading.Event(), fails_at

    def items(self) -> Iterator[int]:
        try:
            while self.drawn != self.fails_at:
                self.drawn += 1
                yield self.drawn - 1
            raise KeyError("broken")
        finally:
            self.closed.set()


@pytest.mark.parametrize("name", STAGES)
def test_items_come_in_order(name):
    assert list(STAGES[name](range(50))) == list(range(50))
    assert list(STAGES[name]([])) == []


def test_a_function_is_mapped_in_order():
    gates = [threading.Event() for _ in range(4)]
    gates[2].set()

    def late_first(item: int) -> int:
        # 1 waits for 2 to be done, so results come out of order inside.
        if item == 1:
            assert gates[2].wait(5)
        return item * item

    assert list(mapped(late_first, range(4), 3)) == [0, 1, 4, 9]


@pytest.mark.parametrize("name", STAGES)
def test_few_items_are_held_and_closing_stops_the_source(name):
    source = Source()
    stage = STAGES[name](source.items())
    for expected in range(20):
        assert next(stage) == expected
        assert source.drawn <= expected + 5
    stage.close()
    assert source.closed.wait(5)
    assert source.drawn <= 26


@pytest.mark.parametrize("name", STAGES)
def test_an_error_of_the_source_comes_in_its_place(name):
    stage = STAGES[name](Source(fails_at=7).items())
    seen = []
    with pytest.raises(KeyError, match="broken"):
        seen.extend(iter_into(seen, stage))
    assert seen[:5] == [0, 1, 2, 3, 4]


def iter_into(seen: list, stage) -> list:
    """Collects items as they come, so that those before an error are kept."""
    for item in stage:
        seen.append(item)
    return []


def test_an_error_of_the_function_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(mapped(lambda item: 1 // item, [1, 0, 1], 2))

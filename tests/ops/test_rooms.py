"""Rooms: never too small, and few."""

import pytest

from celltrack_jax.ops.rooms import room


@pytest.mark.parametrize(
    ("size", "found"), [(1, 8), (8, 8), (9, 16), (17, 24), (25, 32), (520, 768), (33, 48)]
)
def test_rooms_are_multiples_of_the_unit(size, found):
    assert room(size, 8, per_doubling=2) == found


@pytest.mark.parametrize(("per_doubling", "waste"), [(1, 2), (2, 1.5), (4, 1.25), (8, 1.125)])
def test_there_are_so_many_to_a_doubling_and_none_is_much_too_large(per_doubling, waste):
    rooms = {size: room(size, per_doubling=per_doubling) for size in range(1, 4097)}
    assert all(size <= found < max(waste * size, size + 1) for size, found in rooms.items())
    assert len({found for found in rooms.values() if 512 < found <= 1024}) == per_doubling
    assert all(rooms[found] == found for found in rooms.values() if found <= 4096)

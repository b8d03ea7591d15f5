"""Sizes that arrays are padded to, so that images of many sizes share few compiled programs."""


def room(size: int, unit: int = 1, *, per_doubling: int) -> int:
    """The least room for a length.

    Args:
      size: of what has to fit, positive.
      unit: that rooms are multiples of.
      per_doubling: rooms there are from one power of 2 to the next, a power of 2 itself: 2 rooms are up to half as long
        again as what is in them, 4 a quarter.
    """
    units = -(-size // unit)
    step = 1 << max(0, units.bit_length() - per_doubling.bit_length())
    return unit * step * -(-units // step)

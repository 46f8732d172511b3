"""Inputs made of others by chance: what runs where no coverage-guided fuzzer can be had."""

import random
from collections.abc import Iterator, Sequence

_NUMBERS = (b"0", b"1", b"-1", b"255", b"4096", b"2147483648", b"9223372036854775808", b"9" * 40)
_BYTES = bytes((0, 1, 0x20, 0x2F, 0x2E, 0x30, 0x37, 0x7F, 0x80, 0xFF))


def mutations(seeds: Sequence[bytes], chance: random.Random) -> Iterator[bytes]:
    """Yield the seeds, then for ever what chance makes of them."""
    yield from seeds
    while True:
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 2, 4, 8))):
            chance.choice(_CHANGES)(data, seeds, chance)
        yield bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    """Return a place to change; what holds no zeros is more likely to mean something."""
    at = chance.randrange(len(data) + 1)
    for _ in range(4):
        if at < len(data) and data[at]:
            break
        at = chance.randrange(len(data) + 1)
    return at


def _flip(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    if at < len(data):
        data[at] ^= 1 << chance.randrange(8)


def _set(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    data[at : at + 1] = bytes([chance.choice(_BYTES)])


def _number(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    number = chance.choice(_NUMBERS)
    data[at : at + chance.choice((1, len(number)))] = number


def _cut(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    at, length = _piece(data, chance)
    del data[at : at + length]


def _repeat(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    at, length = _piece(data, chance)
    data[at:at] = data[at : at + length] * chance.choice((1, 2, 9))


def _splice(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    other = bytearray(chance.choice(seeds))
    at, length = _piece(other, chance)
    here, _ = _piece(data, chance)
    data[here : here + chance.choice((0, length))] = other[at : at + length]


def _piece(data: bytearray, chance: random.Random) -> tuple[int, int]:
    """Return where a piece begins and its length: any bytes, or whole tar blocks."""
    if chance.random() < 0.5:
        return chance.randrange(len(data) + 1), chance.randrange(1, 20)
    return chance.randrange(len(data) // 512 + 1) * 512, 512 * chance.randrange(1, 4)


_CHANGES = (_flip, _flip, _set, _number, _cut, _repeat, _splice)

"""What differs between two texts, as `diff -u` writes it.

Owns what is text and what is too much: strangers' files must not take long to compare. Pure.
"""

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

MAX_BYTES = 1 << 20
"""What a file may have to be compared by its lines."""
MAX_LINES = 4000
"""How many lines may lie between the first and the last that differ, on either side."""
_CONTEXT = 3


def unified(old: bytes, new: bytes, old_name: bytes, new_name: bytes) -> Iterator[bytes]:
    """Yield the lines, with their ends, that tell how to make one text of the other.

    Where that cannot be told, by a line that says so.
    """
    if _is_binary(old) or _is_binary(new):
        yield b"Binary files %b and %b differ\n" % (old_name, new_name)
        return
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    head = _alike(before, after)
    tail = _alike(before[head:][::-1], after[head:][::-1])
    changed = before[head : len(before) - tail], after[head : len(after) - tail]
    if max(map(len, changed)) > MAX_LINES:
        yield b"Files %b and %b differ in more than %d lines\n" % (old_name, new_name, MAX_LINES)
        return
    yield b"--- %b\n+++ %b\n" % (old_name, new_name)
    first = max(0, head - _CONTEXT)
    ends = [len(lines) - max(0, tail - _CONTEXT) for lines in (before, after)]
    one, other = before[first : ends[0]], after[first : ends[1]]
    # Nothing is taken for junk: what is common stays so.
    matcher = SequenceMatcher(None, one, other, autojunk=len(one) > 500)
    for group in matcher.get_grouped_opcodes(_CONTEXT):
        (_, left, _, right, _), (_, _, left_end, _, right_end) = group[0], group[-1]
        spans = _span(first + left, first + left_end), _span(first + right, first + right_end)
        yield b"@@ -%b +%b @@\n" % spans
        for tag, low, high, new_low, new_high in group:
            if tag == "equal":
                yield from map(_line, [b" "] * (high - low), one[low:high])
                continue
            yield from map(_line, [b"-"] * (high - low), one[low:high])
            yield from map(_line, [b"+"] * (new_high - new_low), other[new_low:new_high])


def _is_binary(content: bytes) -> bool:
    return b"\0" in content


def _alike(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """Return how many lines two texts have in common at their beginning."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _span(low: int, high: int) -> bytes:
    """Return where a hunk lies; an empty one is behind the line before it."""
    count = high - low
    if count == 1:
        return b"%d" % (low + 1)
    return b"%d,%d" % (low + 1 if count else low, count)


def _line(mark: bytes, line: bytes) -> bytes:
    return mark + (line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n")

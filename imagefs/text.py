"""What is printed: words of strangers that no terminal obeys, numbers, sizes and times for people.

Pure. Any thread may call it.
"""


def one_line(text: str) -> str:
    """Return text of an engine's as one harmless line: it ends up on a terminal."""
    line = " ".join(text.split())[:500]
    return "".join(char if char.isprintable() else "?" for char in line)


def printable(words: str) -> str:
    """Return text of an image's, or a name of a file's, with nothing in it that a terminal obeys.

    What is no character, such as a byte of a name that is not UTF-8, is escaped too.
    """
    if words.isprintable():
        return words
    return "".join(
        letter
        if letter.isprintable()
        else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in words
    )


def duration_text(seconds: float) -> str:
    """Return a time for people: 8 s, 3 min, 2 h."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def counted(number: int, noun: str) -> str:
    """Return how many there are of something: 1 layer, 2 layers."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size_text(count: int) -> str:
    """Return a number of bytes for people: 1.5 GB, 312 kB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"

"""What lies beneath a directory of this host, found without ever leaving it.

Owns the walk from the directory's own descriptor: a step at a time, a symbolic link being read
rather than followed. So whoever can change the directory meanwhile may swap what they like for a
link, and still nothing outside is looked at. Any thread may call it.
"""

import os
import stat
from dataclasses import dataclass

MAX_LINKS = 40
"""Symbolic links that are followed from one name, as many as Linux follows."""
_LOOK = getattr(os, "O_PATH", os.O_RDONLY)
_STEP = _LOOK | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LeadsOutError(Exception):
    """A name, or a link on its way, leads out of the directory."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file: its name below the directory, in which no part is a link, and what it was then."""

    path: str
    status: os.stat_result


def find(top: int, top_path: str, name: str) -> Found | None:
    """Return the file that a relative name means below the directory that `top` has open.

    `top_path` is where that lies: an absolute link may lead back into it. None for what is no
    regular file; OSError where there is nothing, or nothing that may be looked at.
    """
    walk = _Walk(top, top_path)
    try:
        return walk.to(name)
    finally:
        walk.back_to_top()


class _Walk:
    """One walk: the directories that it has entered, each held open by its descriptor."""

    def __init__(self, top: int, top_path: str) -> None:
        self._top = top
        self._top_path = top_path
        self._entered: list[tuple[str, int]] = []

    def back_to_top(self) -> None:
        while self._entered:
            self._leave()

    def _leave(self) -> None:
        os.close(self._entered.pop()[1])

    def to(self, name: str) -> Found | None:
        ahead = _parts(name)[::-1]
        links = 0
        while ahead:
            part = ahead.pop()
            if part == "..":
                if not self._entered:
                    raise LeadsOutError
                self._leave()
                continue
            here = self._entered[-1][1] if self._entered else self._top
            status = os.stat(part, dir_fd=here, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > MAX_LINKS:
                    return None
                ahead += self._target(part, here)[::-1]
            elif ahead:
                self._entered.append((part, os.open(part, _STEP, dir_fd=here)))
            elif stat.S_ISREG(status.st_mode):
                return Found("/".join([*(name for name, _ in self._entered), part]), status)
        return None

    def _target(self, link: str, here: int) -> list[str]:
        """Return the parts of a link's target; an absolute one starts at the top again."""
        target = os.readlink(link, dir_fd=here)
        if not target.startswith("/"):
            return _parts(target)
        if os.path.commonpath([target, self._top_path]) != self._top_path:
            raise LeadsOutError
        self.back_to_top()
        return _parts(target[len(self._top_path) :])


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]

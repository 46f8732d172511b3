"""What a run of the benchmark is to do, as the command line asked for it."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.contestants import Contestant, Extracted, Programs
from benchmarks.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to work, on which image, who takes part, and how thoroughly."""

    space: Workspace
    programs: Programs
    archive: Path
    kinds: tuple[type[Contestant], ...]
    repeat: int
    cold: bool
    rows: tuple[str, ...]
    publish: bool

    def contestant(
        self, kind: type[Contestant], archive: Path | None = None, image: str = ""
    ) -> Contestant:
        """Return a contestant in its home; by default its archive is the real image's.

        `image` is what the home is called by where the archive is another.
        """
        home = self.space.directory("homes") / f"{image or self.image}-{kind.__name__.lower()}"
        return kind(archive or self.archive, home, self.programs)

    @property
    def image(self) -> str:
        """What the real image is called in the workspace: by its archive's name and size."""
        return f"{self.archive.stem}-{self.archive.stat().st_size}"

    def everybody(self, archive: Path | None = None, image: str = "") -> list[Contestant]:
        """Return all who take part, each in its home."""
        return [self.contestant(kind, archive, image) for kind in self.kinds]

    def extracted(self) -> Contestant:
        """Return the extracted tree of the real image, made."""
        floor = self.contestant(Extracted)
        floor.prepare()
        return floor

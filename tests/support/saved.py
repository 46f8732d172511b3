"""Archives in a line: what `docker save` of Docker 1.10 to 24 writes of some layers."""

from collections.abc import Sequence

from tests.support.samples import SampleImage, docker_20, tar_of


def docker_save(
    *layers: bytes, tags: Sequence[str] = ("test:latest",), steps: Sequence[str] = ()
) -> bytes:
    """Return the archive of an image of these layers, bottom to top, made by these steps."""
    return tar_of(docker_20(SampleImage(layers, tuple(tags), made_by=tuple(steps))))

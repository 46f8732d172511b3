"""A docker-archive that is an OCI layout as well: index.json may know of more platforms.

containerd's exporter lists one platform's image in manifest.json, and sometimes one whose blobs it
left out; index.json has the others. Where manifest.json suffices, a fault in the index counts for
nothing, as Docker has written wrong ones. Takes an archive's files, returns values. Any thread
may call it.
"""

from dataclasses import replace

from imagefs.archive import docker, members, oci, producer
from imagefs.archive.members import Files
from imagefs.archive.model import ArchiveContents, ArchivedImage
from imagefs.errors import CorruptArchive


def read(files: Files, manifest: bytes) -> ArchiveContents:
    """Return the images of a manifest.json, each with its other platforms that are held."""
    try:
        images = docker.read(files, manifest)
    except CorruptArchive:
        held = tuple(image for image in _indexed(files) if image.held)
        if held:
            return ArchiveContents(files.place, producer.OCI, held)
        if not files.keep_going:
            raise
        images = docker.read(files, manifest, make_do=True)
    listed = {image.id for image in images}
    others: dict[int, list[ArchivedImage]] = {}
    entry_of: dict[str, int] = {}
    for image in _indexed(files):
        entry_of[image.id] = image.entry
        if image.held and image.platform and image.id not in listed:
            others.setdefault(image.entry, []).append(image)
    found: list[ArchivedImage] = []
    for image in images:
        found.append(image)
        for other in others.get(entry_of.get(image.id, -1), ()):
            if other.platform != image.platform:
                found.append(replace(other, entry=image.entry, names=image.names))
        # Each may have all of an index's platforms: both lists are bounded, their product is not.
        members.bounded(files, len(found))
    return ArchiveContents(files.place, producer.of_docker_archive(files, manifest), tuple(found))


def _indexed(files: Files) -> tuple[ArchivedImage, ...]:
    file = files.find(oci.INDEX)
    if file is None:
        return ()
    try:
        return oci.read_layout(files, members.content(files, oci.INDEX, file))
    except CorruptArchive:
        return ()

"""What imagefs takes in at most: the limits of the code itself, as tests/README.md lists them."""

from typing import NamedTuple

from imagefs.archive import compression, docker_v1, members, spool
from imagefs.engine import api, fetch
from imagefs.filesystem import NAME_MAX
from imagefs.host import memory
from imagefs.image import config as image_config
from imagefs.image import model as image_model
from imagefs.image import safe_json
from imagefs.index import cache as index_cache
from imagefs.index import fold
from imagefs.index import records as layer_records
from imagefs.registry import answers, manifests, transport
from imagefs.tar import header as tar_header
from imagefs.tar import pax, sparse
from imagefs.vfs import engine_fs, links, names, nodeid

NAMES = "no system call takes more"
HONEST = "far beyond what anybody makes"
MEMORY = "it takes memory"


class Limit(NamedTuple):
    """A limit: of what, how much, and the option that sets it, or why there is none."""

    what: str
    value: str
    option: str


def number(value: int) -> str:
    return f"{value:,}"


def size(value: int) -> str:
    """Return a size in the largest unit in which it is a whole number."""
    for unit, name in ((10**9, "GB"), (1 << 30, "GiB"), (1 << 20, "MiB")):
        if value % unit == 0:
            return f"{value // unit:,} {name}"
    return f"{value:,} bytes"


def seconds(value: float) -> str:
    return f"{value:g} s"


LIMITS = (
    Limit(
        "bytes of a layer that comes into the cache",
        size(image_model.MAX_LAYER_BYTES),
        "`--max-layer-bytes`",
    ),
    Limit(
        "bytes that arrive and are no files, or come again",
        size(spool.MAX_IDLE),
        HONEST,
    ),
    Limit(
        f"bytes of an export beyond {fetch.SIZES} times the image's size",
        size(fetch.MORE_BYTES),
        HONEST,
    ),
    Limit("layers of an image", number(image_config.MAX_LAYERS), HONEST),
    Limit("layers under one mount", number(nodeid.MAX_LAYERS), "inode numbers end there"),
    Limit("views under one mount", number(nodeid.MAX_VIEWS), "inode numbers end there"),
    Limit("directories in an image's name under `serve`", number(engine_fs.MAX_DEPTH), HONEST),
    Limit(
        "directories of all images' names under `serve`", number(engine_fs.MAX_DIRECTORIES), MEMORY
    ),
    Limit("members of a layer", number(fold.MAX_MEMBERS), MEMORY),
    Limit(
        f"names of an image beyond one for every {index_cache.BYTES_A_NAME} bytes of its archive",
        number(index_cache.FREE_NAMES),
        HONEST,
    ),
    Limit(
        "steps through links and deep directories that count as a name there",
        number(fold.STEPS_A_NAME),
        "they take as long",
    ),
    Limit("directories of a layer that no member describes", number(fold.MAX_IMPLIED), MEMORY),
    Limit("link targets and attributes of a layer", size(layer_records.MAX_ATTRIBUTES), MEMORY),
    Limit("steps through links and deep directories in a layer", number(fold.MAX_FOLLOWED), HONEST),
    Limit("runs in a layer's sparse files", number(sparse.MAX_RUNS), MEMORY),
    Limit("pax records of a layer, beyond 32 a header", number(pax.MAX_RECORDS), HONEST),
    Limit("extended headers of a member", size(pax.MAX_EXTENDED), "as in Go"),
    Limit("a name between slashes", size(NAME_MAX), NAMES),
    Limit("a path, or a link's target", size(tar_header.PATH_MAX), NAMES),
    Limit(
        "names of a file of which a snapshot counts those alone that show",
        number(names.MAX_COUNTED),
        "as many as on ext4",
    ),
    Limit(
        "steps to lower layers' files to count an image's hard links to them",
        number(links.MAX_STEPS),
        "it takes time",
    ),
    Limit("members of an archive of images", number(members.MAX_MEMBERS), HONEST),
    Limit("characters of all names in an archive that arrives", number(spool.MAX_NAMES), MEMORY),
    Limit("images of an archive", number(members.MAX_IMAGES), HONEST),
    Limit("layers of all images from before Docker 1.10", number(docker_v1.MAX_CHAINED), HONEST),
    Limit("a file of JSON", size(members.MAX_JSON), HONEST),
    Limit("JSON read of one archive", size(members.MAX_JSON_READ), HONEST),
    Limit("memory to decompress zstd", size(1 << compression._ZSTD_WINDOW_LOG), "as `zstd -d`"),
    Limit(
        "packed bytes for each that a stream may hold",
        number(compression.most_packed(1 << 60) >> 60),
        HONEST,
    ),
    Limit(
        "memory of all that decompress or index for one cache, beside one that grows",
        size(memory.BUDGET),
        MEMORY,
    ),
    Limit("values in JSON", number(safe_json.MAX_VALUES), MEMORY),
    Limit("depth of values in JSON", number(safe_json.MAX_DEPTH), HONEST),
    Limit("an engine's answer", size(api._MAX_ANSWER), HONEST),
    Limit("the wait for a connection", seconds(api._CONNECT_TIMEOUT), "an export's wait has none"),
    Limit(
        "the wait for an engine's answer",
        seconds(api.ANSWER_TIMEOUT),
        "an export's wait has none",
    ),
    Limit("the wait for a registry's next byte", seconds(transport.ANSWER_TIMEOUT), HONEST),
    Limit("the wait for a registry's manifest", seconds(answers.SMALL_TIMEOUT), HONEST),
    Limit(
        "the wait that a registry may ask for",
        seconds(transport.MAX_WAIT),
        "who asks for more is asked later",
    ),
    Limit("redirects of a registry", number(transport.MAX_REDIRECTS), HONEST),
    Limit("depth of a registry's indexes", number(manifests.MAX_DEPTH), HONEST),
    Limit("manifests asked for to learn platforms", number(manifests.MAX_ASKED), HONEST),
)

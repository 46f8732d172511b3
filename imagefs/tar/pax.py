"""Extended headers: what `x`, `g`, `L` and `K` members say of the member that follows them.

Owns the pax records (POSIX.1-2024, pax, "pax Extended Header") with the keywords of GNU tar, star
and libarchive, and the GNU long names. Pure: bytes in, values out; one `Overrides` belongs to one
scan.
"""

from base64 import b64decode
from binascii import Error as Base64Error
from urllib.parse import unquote_to_bytes

from imagefs.errors import CorruptArchive
from imagefs.tar import header as tar_header
from imagefs.tar.numbers import decimal
from imagefs.tar.sparse import Runs, Sparse

EXTENSIONS = frozenset(
    {
        tar_header.XHDTYPE,
        tar_header.SOLARIS_XHDTYPE,
        tar_header.XGLTYPE,
        tar_header.GNUTYPE_LONGNAME,
        tar_header.GNUTYPE_LONGLINK,
    }
)
"""The typeflags of members that only describe the next one."""

MAX_EXTENDED = 1 << 20
"""Most bytes of extended headers that one member may have (as in Go's archive/tar, each)."""
MAX_RECORDS = 1 << 20
"""Most records of one tar that are beyond the ordinary; only the sparse maps of pax 0.0 are known
to come near it, with two for each run."""
_ORDINARY = 32
"""Records that any extended header may have: attributes apart, POSIX and GNU tar know some 20."""

# What a global record may say of all members after it. To rename or resize them would be an
# attack, no default, and attributes without bound would be kept with every one of them.
_GLOBAL = frozenset({b"mtime", b"uid", b"gid"})

_SPARSE_VERSIONS = {(b"0", b"0"): "0", (b"0", b"1"): "0", (b"1", b"0"): "1.0"}

# What Linux can hold of extended attributes (<linux/limits.h>).
_XATTR_NAME_MAX = 255
_XATTR_SIZE_MAX = 1 << 16
_XATTR_LIST_MAX = 1 << 16
_XATTR_NAMESPACES = (b"user.", b"trusted.", b"security.", b"system.")
"""The namespaces of attributes that Linux has (xattr(7))."""


class Overrides:
    """What has been said of the next member, gathered from its extended headers.

    `empty` tells that the header speaks for itself, `pending` that a member must follow. What all
    members together may have is counted here as well: records, and `runs`.
    """

    __slots__ = (
        "_globals",
        "_linkname",
        "_name",
        "_pairs",
        "_position",
        "_records",
        "_size",
        "_unusual",
        "empty",
        "runs",
    )

    def __init__(self) -> None:
        self._globals: dict[bytes, bytes] = {}
        self._unusual = 0
        self.runs = Runs()
        self.reset()

    def reset(self) -> None:
        """Forget all but the global records: the member has been read."""
        self._records = dict(self._globals)
        self._pairs: list[tuple[int, int]] = []
        self._name: bytes | None = None
        self._linkname: bytes | None = None
        self._position = self._size = 0
        self.empty = not self._globals

    @property
    def pending(self) -> bool:
        """Whether a local extended header has been read whose member has not."""
        return self._position > 0

    def add(self, typeflag: bytes, content: bytes, position: int) -> None:
        """Take in the extended header of `typeflag` whose header block is at `position`.

        Raises CorruptArchive where it makes no sense, or is beyond the limits.
        """
        if typeflag == tar_header.XGLTYPE:
            # To Go's archive/tar a member of its own: what was said before it was said of it.
            self.reset()
            self._add_global(self._split(content, position))
            return
        self._size += len(content)
        limit(self._size, position)
        if typeflag == tar_header.GNUTYPE_LONGNAME:
            self._name = content.partition(b"\0")[0]
        elif typeflag == tar_header.GNUTYPE_LONGLINK:
            self._linkname = content.partition(b"\0")[0]
        else:
            try:
                self._add_local(self._split(content, position))
            except ValueError as error:
                raise CorruptArchive(
                    f"pax records in the tar at byte {position}: {error}"
                ) from error
        self.empty = False
        self._position = max(position, 1)

    def _split(self, content: bytes, position: int) -> list[tuple[bytes, bytes]]:
        records = _records(content, position)
        self._unusual += max(0, len(records) - _ORDINARY)
        if self._unusual > MAX_RECORDS:
            raise CorruptArchive(f"more than {MAX_RECORDS} pax records beyond the ordinary")
        return records

    def _add_global(self, records: list[tuple[bytes, bytes]]) -> None:
        for key, value in records:
            if key in _GLOBAL:
                self._globals[key] = value
                self._records.setdefault(key, value)
        self.empty = self.empty and not self._globals

    def _add_local(self, records: list[tuple[bytes, bytes]]) -> None:
        # Of two such headers in a row the last one counts alone, as to all other readers.
        self._records = dict(self._globals)
        self._pairs = []
        offset = 0
        for key, value in records:
            # pax 0.0 repeats these two keywords, a pair for each run of data.
            if key == b"GNU.sparse.offset":
                offset = decimal(value)
            elif key == b"GNU.sparse.numbytes":
                self._pairs.append((offset, decimal(value)))
            self._records[key] = value

    def number(self, key: str, default: int) -> int:
        """Return a decimal record, or `default` where there is none."""
        value = self._records.get(key.encode())
        if not value:
            return default
        if key != "size" and value.startswith(b"-"):
            return -decimal(value[1:])
        return decimal(value)

    def time(self, key: str, default: int) -> tuple[int, int]:
        """Return a time record as seconds and nanoseconds, rounded towards the past."""
        value = self._records.get(key.encode())
        if not value:
            return default, 0
        whole, _, fraction = value.partition(b".")
        negative = whole.startswith(b"-")
        seconds = decimal(whole.removeprefix(b"-") or b"0")
        if fraction and not fraction.isdigit():
            raise ValueError(f"{value[:30]!r} is not a time")
        nanoseconds = decimal(fraction[:9].ljust(9, b"0"))
        if not negative:
            return seconds, nanoseconds
        return (-seconds - 1, 10**9 - nanoseconds) if nanoseconds else (-seconds, 0)

    def name(self, default: bytes) -> bytes:
        """Return the member's name: a sparse file's true one, GNU's, pax's, or the header's.

        That GNU's counts before pax's is as in Go's archive/tar, and so in the engines.
        """
        given = self._name or self._records.get(b"path") or default
        if b"GNU.sparse.name" in self._records and self._sparse_form():
            given = self._records[b"GNU.sparse.name"] or given
        return _bounded(given, "name")

    def linkname(self, default: bytes) -> bytes:
        """Return the member's link target: GNU's, pax's, or the header's."""
        return _bounded(self._linkname or self._records.get(b"linkpath") or default, "link target")

    def xattrs(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the member's extended attributes, of star's or of libarchive's keywords.

        What Linux could not hold is left out, as it is when a tar is extracted. Raises
        CorruptArchive for a value that is not base64, where libarchive writes that.
        """
        found: dict[bytes, bytes] = {}
        for key, value in self._records.items():
            if key.startswith(tar_header.PAX_XATTR_LIBARCHIVE):
                name = unquote_to_bytes(key[len(tar_header.PAX_XATTR_LIBARCHIVE) :])
                try:
                    found.setdefault(name, b64decode(value + b"=" * (-len(value) % 4)))
                except Base64Error as error:
                    raise CorruptArchive(
                        f"extended attribute {name!r} in the tar at byte {self._position}: {error}"
                    ) from error
        for key, value in self._records.items():
            if key.startswith(tar_header.PAX_XATTR_SCHILY):
                # GNU tar and libarchive write these two so, since "=" ends a keyword.
                name = key[len(tar_header.PAX_XATTR_SCHILY) :]
                found[name.replace(b"%3D", b"=").replace(b"%25", b"%")] = value
        return _possible(found)

    def _sparse_form(self) -> str:
        """Return "1.0" where a map leads the data, "0" where records are the map, or "".

        As Go's archive/tar has it: of other versions than these, nothing makes a file sparse.
        """
        records = self._records
        version = records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b"")
        if version == (b"", b""):
            return "0" if records.get(b"GNU.sparse.map") or self._pairs else ""
        return _SPARSE_VERSIONS.get(version, "")

    def sparse(self, stored: int) -> Sparse | None:
        """Return the member's sparse map of pax 0.0, 0.1 or 1.0, or None for an ordinary file.

        `stored` is how many bytes the tar has of it: its size where no record says another. Raises
        CorruptArchive for a map that is none.
        """
        records, form = self._records, self._sparse_form()
        said = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize")
        if not form:
            # GNU tar's own way to say that a file is one hole.
            hole = not stored and b"GNU.sparse.major" not in records
            said = records.get(b"GNU.sparse.size")
            return Sparse([], decimal(said)) if hole and said else None
        size = decimal(said) if said else stored
        if form == "1.0":
            return Sparse(None, size)
        if b"GNU.sparse.map" not in records:
            return Sparse(self._pairs, size)
        listed = records[b"GNU.sparse.map"].split(b",") if records[b"GNU.sparse.map"] else []
        if len(listed) % 2:
            raise CorruptArchive(f"odd sparse map in the tar at byte {self._position}")
        numbers = [decimal(digits) for digits in listed]
        return Sparse(list(zip(numbers[::2], numbers[1::2], strict=True)), size)


def limit(size: int, position: int) -> None:
    """Raise CorruptArchive for extended headers that are longer than MAX_EXTENDED."""
    if size > MAX_EXTENDED:
        raise CorruptArchive(
            f"extended tar headers of {size} bytes at byte {position}; at most {MAX_EXTENDED} are"
            " read"
        )


def _possible(xattrs: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    listed = 0
    for name, value in xattrs.items():
        if len(name) > _XATTR_NAME_MAX or b"\0" in name or len(value) > _XATTR_SIZE_MAX:
            continue
        # A namespace alone is no name either.
        if name.startswith(_XATTR_NAMESPACES) and name not in _XATTR_NAMESPACES:
            listed += len(name) + 1
            if listed > _XATTR_LIST_MAX:
                break
            found.append((name, value))
    return tuple(found)


def _bounded(name: bytes, what: str) -> bytes:
    if len(name) > tar_header.PATH_MAX:
        shown = name[:40].decode("utf-8", "backslashreplace")
        raise CorruptArchive(
            f"member {what} {shown!r}... of {len(name)} bytes; Linux uses"
            f" at most {tar_header.PATH_MAX}"
        )
    if b"\0" in name:
        raise CorruptArchive(f"member {what} {name[:40]!r} holds a NUL byte")
    return name


def _records(content: bytes, position: int) -> list[tuple[bytes, bytes]]:
    """Split an extended header into its `LENGTH KEY=VALUE\\n` records; values are binary."""
    found = []
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + 20)
        digits = content[at:space]
        end = at + int(digits) if space > at and digits.isdigit() else 0
        equals = content.find(b"=", space, end)
        if end > len(content) or equals < 0 or content[end - 1] != 0x0A:
            if not content[at:].strip(b"\0"):
                break
            raise CorruptArchive(f"malformed pax record in the tar header at byte {position}")
        found.append((content[space + 1 : equals], content[equals + 1 : end - 1]))
        at = end
    return found

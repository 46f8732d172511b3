"""Headers that are written, read back by our own parser, Python's, GNU tar and bsdtar."""

import io
import os
import subprocess
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagefs.tar import header as tar_header
from imagefs.tar.scan import scan
from imagefs.tar.write import END, Member, head, padding
from tests.support.needs import need_tool

NAMES = st.one_of(
    st.binary(min_size=1, max_size=300),
    st.text("aé/", min_size=1, max_size=300).map(str.encode),
).map(lambda name: name.replace(b"\0", b"").strip(b"/") or b"n")
TIMES = st.one_of(st.integers(-(2**40), 2**40), st.integers(-2, 2), st.just(0o77777777777))
XATTRS = st.dictionaries(
    st.sampled_from([b"user.a", b"user.a=b", b"user.%3D", b"security.capability"]),
    st.binary(max_size=40),
)
IDS = st.sampled_from([0, 1, 0o7777777, 0o10000000, 2**32 - 2])
FILES = st.builds(
    Member,
    name=NAMES,
    type=st.just(tar_header.REGTYPE),
    mode=st.integers(0, 0o7777),
    uid=IDS,
    gid=IDS,
    mtime=TIMES,
    mtimensec=st.sampled_from([0, 1, 500_000_000, 999_999_999]),
    size=st.integers(0, 3000),
    xattrs=XATTRS,
)
LINKS = st.builds(
    Member,
    name=NAMES,
    type=st.sampled_from([tar_header.SYMTYPE, tar_header.LNKTYPE]),
    target=NAMES,
    uid=IDS,
)
OTHERS = st.builds(
    Member,
    name=NAMES,
    type=st.sampled_from([tar_header.CHRTYPE, tar_header.BLKTYPE]),
    device=st.tuples(st.integers(0, 4095), st.integers(0, 0xFFFFF)),
)
RUNS = st.lists(st.integers(0, 4000), max_size=8, unique=True).map(
    lambda cuts: list(zip(sorted(cuts)[::2], sorted(cuts)[1::2], strict=False))
)


def tar_of(member: Member, stored: int) -> bytes:
    return head(member) + b"x" * stored + bytes(padding(stored)) + END


@settings(max_examples=300, deadline=None)
@given(st.one_of(FILES, LINKS, OTHERS))
def test_all_that_is_said_is_read_back(member: Member) -> None:
    """Whatever a name, a number or an attribute is, it comes back as it was."""
    tar = tar_of(member, member.size)
    assert tar == tar_of(member, member.size)
    (read,) = scan(lambda length, at: tar[at : at + length], 0, len(tar))
    assert (read.name, read.typeflag, read.linkname) == (member.name, member.type, member.target)
    assert (read.mode, read.uid, read.gid) == (member.mode, member.uid, member.gid)
    assert (read.mtime, read.mtimensec) == (member.mtime, member.mtimensec)
    assert (read.size, dict(read.xattrs)) == (member.size, member.xattrs)
    assert (os.major(read.rdev), os.minor(read.rdev)) == member.device
    with tarfile.open(fileobj=io.BytesIO(tar), errors="surrogateescape") as opened:
        (other,) = opened.getmembers()
    assert os.fsencode(other.name) == member.name.rstrip(b"/")
    assert os.fsencode(other.linkname) == member.target
    assert (other.uid, other.gid, other.size) == (member.uid, member.gid, member.size)


@settings(max_examples=100, deadline=None)
@given(RUNS, st.sampled_from([b"s", b"d/" * 60 + b"s", "é".encode()]))
def test_sparse_files_come_back_with_their_holes(runs: list[tuple[int, int]], name: bytes) -> None:
    """Runs and size are those that were written."""
    told = [(start, end - start) for start, end in runs if end > start]
    member = Member(name, tar_header.REGTYPE, size=5000, runs=told)
    tar = tar_of(member, sum(length for _, length in told))
    (read,) = scan(lambda length, at: tar[at : at + length], 0, len(tar))
    assert (read.name, read.size) == (name, 5000)
    assert [run for run in read.sparse or () if run[1]] == told
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        (other,) = opened.getmembers()
        file = opened.extractfile(other)
        assert file is not None
        content = bytearray(5000)
        for start, length in told:
            content[start : start + length] = b"x" * length
        assert file.read() == content


@pytest.mark.parametrize(("program", "package"), [("tar", "tar"), ("bsdtar", "libarchive-tools")])
def test_other_programs_list_the_same(program: str, package: str) -> None:
    """GNU tar and bsdtar know names of any length and letters, large owners and sparse files."""
    tool = need_tool(program, package)
    names = ["a", "d/" * 120 + "deep", "n" * 200, "é" * 80, "x/" * 40 + "ü"]
    members = [Member(name.encode(), tar_header.REGTYPE, 0o644, 2**31) for name in names]
    tar = b"".join(map(head, members))
    tar += head(Member(b"sparse", tar_header.REGTYPE, size=1 << 40, runs=[(1 << 39, 512)]))
    tar += bytes(512)
    tar += head(Member(b"l", tar_header.LNKTYPE, target=("n" * 200).encode())) + END
    env = os.environ | {"LC_ALL": "C.UTF-8"}
    listed = subprocess.run(
        [tool, "tvf", "-"], input=tar, capture_output=True, check=True, env=env
    ).stdout.decode()
    assert [line.split()[-1] for line in listed.splitlines()[:5]] == names
    assert str(1 << 40) in listed
    assert str(2**31) in listed
    assert f"link to {'n' * 200}" in listed.splitlines()[-1]

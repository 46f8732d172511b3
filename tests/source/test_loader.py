"""What a daemon that serves an engine's images has fetched by other processes."""

import contextlib
import gzip
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagefs.engine.addresses import Endpoint
from imagefs.errors import EngineError
from imagefs.host import mountinfo
from imagefs.image.options import SourceOptions
from imagefs.source.loader import Loader, LoaderConfig
from imagefs.store.store import Store
from tests.support import needs
from tests.support.badengine import Answer, Export, ScriptedEngine, answer_json, chunked
from tests.support.mounted import COMMAND, clear
from tests.support.polling import soon
from tests.support.tars import layer

IMAGE = Export([layer({"f": "x" * 300_000})])


def test_the_engine_is_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch asks the daemon's engine, whatever a search for one would find by now."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody")
    with ScriptedEngine(tmp_path / "s", IMAGE.answers(chunked(IMAGE.classic()))) as engine:
        image = Loader(LoaderConfig(Endpoint(engine.host), tmp_path / "cache")).load(IMAGE.id)
    assert [one.diff_id for one in image.layers] == IMAGE.diff_ids
    assert len(os.listdir(tmp_path / "cache/index")) == 1


@pytest.mark.parametrize(
    "export", [IMAGE.classic(), IMAGE.blobs([gzip.compress(IMAGE.layers[0])])], ids=["plain", "gz"]
)
def test_the_limit_is_handed_over(export: bytes, tmp_path: Path) -> None:
    """What a fetch says of a layer that is too large is the daemon's error."""
    with ScriptedEngine(tmp_path / "s", IMAGE.answers(chunked(export))) as engine:
        config = LoaderConfig(
            Endpoint(engine.host), tmp_path / "cache", SourceOptions(max_layer_bytes=100_000)
        )
        with pytest.raises(EngineError, match=r"more than 100000 bytes; --max-layer-bytes sets"):
            Loader(config).load(IMAGE.id)


@contextlib.contextmanager
def serving(folder: Path, export: Answer, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Serve an engine that has IMAGE, at folder/m, with a log in folder/log."""
    needs.need_fuse()
    listed = answer_json([{"Id": IMAGE.id, "RepoTags": [IMAGE.name]}])
    answers = {"/images/json": listed, **IMAGE.answers(export)}
    place = folder / "m"
    place.mkdir()
    with ScriptedEngine(folder / "s", answers) as engine, (folder / "log").open("wb") as log:
        command = [*COMMAND, "serve", "--foreground", "--host", engine.host, *options, str(place)]
        process = subprocess.Popen(command, stderr=log)
        try:
            assert soon(lambda: mountinfo.at(place) is not None)
            yield process
        finally:
            process.kill()
            process.wait(20)
            clear(place)


def test_serve_takes_the_limit(tmp_path: Path) -> None:
    """An image that is too large cannot be read, and the log says which option would help."""
    with serving(tmp_path, chunked(IMAGE.classic()), "--max-layer-bytes", "100K"):
        assert (tmp_path / "m" / IMAGE.name).is_symlink()
        with pytest.raises(OSError, match="Input/output error"):
            os.listdir(tmp_path / "m" / IMAGE.name)
    assert "more than 100000 bytes; --max-layer-bytes sets" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_fetch_ends_with_its_daemon(end: signal.Signals, tmp_path: Path) -> None:
    """Nobody would wait for what it fetches, and its workspace is free to be swept."""
    going_on = threading.Event()

    def export() -> Iterator[bytes]:
        yield from chunked(IMAGE.classic(), ended=False)
        going_on.wait(60)

    root = tmp_path / "imagefs-cache"
    with serving(tmp_path, export) as process:
        reader = subprocess.Popen(["ls", tmp_path / "m" / IMAGE.name], stderr=subprocess.DEVNULL)
        try:
            assert soon(lambda: any((root / "work").iterdir()))
            [fetch] = _children(process.pid)
            process.send_signal(end)
            process.wait(20)
            assert soon(lambda: not Path(f"/proc/{fetch}").exists())
        finally:
            going_on.set()
            reader.kill()
            reader.wait(20)
    Store(root)
    assert list((root / "work").iterdir()) == []


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found

"""Scans of many images: each needle once a layer, wherever the work is done, and whoever dies."""

import os
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import imagefs
from imagefs.image.options import SourceOptions
from imagefs.scanning import worker
from imagefs.scanning.model import Found
from imagefs.scanning.patterns import Grep
from imagefs.scanning.plan import Plan, PlannedImage, PlannedLayer
from imagefs.scanning.scan import Scan, name_of, scan
from imagefs.source.opening import SourceRequest
from tests.scanning import fleet as fleets
from tests.scanning.fleet import PATTERN, Fleet, fleet
from tests.support.badregistry import BadRegistry, served
from tests.support.engines import end
from tests.support.polling import soon
from tests.support.samples import SampleImage, digest, gz
from tests.support.saved import docker_save
from tests.support.tars import File as Member
from tests.support.tars import Hard, Sym, layer

ROOT = Path(__file__).parent.parent.parent
# The fleet is made once.
pytestmark = pytest.mark.xdist_group("scan")
NEEDLES = Grep((PATTERN,), text=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Two hundred images of thirty bases."""
    return fleet(tmp_path_factory.mktemp("fleet"), 200, 30)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache and a path of modules that workers share with the test."""
    before = set(os.environ)
    monkeypatch.setenv("IMAGEFS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield
    for name in set(os.environ) - before - {"IMAGEFS_CACHE", "PYTHONPATH"}:
        if not name.startswith("PYTEST_"):
            del os.environ[name]


def run(images: Fleet, **how: Any) -> tuple[Scan, list[Found]]:
    done = scan(map(str, images.archives), NEEDLES, **how)
    found = list(done)
    assert done.failures == []
    return done, found


@contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[tuple[str, list[int]]]:
    """A scheduler over TCP and worker processes; yields its address and the workers' pids."""
    (folder / "dask").mkdir(exist_ok=True)
    script = (
        "import asyncio, pathlib, sys\n"
        "from distributed import Scheduler, Worker\n"
        "quiet = {'dashboard': False, 'dashboard_address': '127.0.0.1:0'}\n"
        "async def scheduler():\n"
        "    async with Scheduler(host='127.0.0.1', port=0, **quiet) as one:\n"
        "        pathlib.Path(sys.argv[2] + '.part').write_text(one.address)\n"
        "        pathlib.Path(sys.argv[2] + '.part').rename(sys.argv[2])\n"
        "        await one.finished()\n"
        "async def worker():\n"
        "    async with Worker(sys.argv[2], nthreads=1, **quiet) as one:\n"
        "        await one.finished()\n"
        "asyncio.run({'scheduler': scheduler, 'worker': worker}[sys.argv[1]]())\n"
    )

    def start(*words: str) -> "subprocess.Popen[bytes]":
        with (folder / "dask/log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", script, *words], stderr=log, stdout=log, cwd=folder / "dask"
            )

    named = folder / "dask/address"
    named.unlink(missing_ok=True)
    processes = [start("scheduler", str(named))]
    try:
        assert soon(named.exists), (folder / "dask/log").read_text()
        processes += [start("worker", named.read_text()) for _ in range(workers)]
        yield named.read_text(), [one.pid for one in processes[1:]]
    finally:
        for one in processes[::-1]:
            end(one)


@contextmanager
def client(address: str) -> Iterator[Any]:
    from distributed import Client  # noqa: PLC0415

    with Client(address, timeout=60, set_as_default=False) as one:
        one.wait_for_workers(2, timeout=60)
        yield one


def test_each_needle_is_found_once_a_layer(images: Fleet, tmp_path: Path) -> None:
    """By processes of this machine; what the state knows is not read again."""
    done, found = run(images, state=tmp_path / "state")
    images.check(found)
    assert (done.images, done.layers_read, done.layers_known) == (200, images.layers, 0)
    again, found = run(images, state=tmp_path / "state")
    images.check(found)
    assert (again.layers_read, again.layers_known) == (0, images.layers)
    assert (again.files_read, again.bytes_read) == (0, 0)


def test_a_local_cluster_finds_the_same(images: Fleet, tmp_path: Path) -> None:
    """Dask's own cluster of this machine, whose workers may have no children."""
    from distributed import Client, LocalCluster  # noqa: PLC0415

    local = LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path / "dask"),
    )
    with local, Client(local, set_as_default=False) as one:
        _, found = run(images, client=one)
    images.check(found)


def test_a_scheduler_is_started_anew(images: Fleet, tmp_path: Path) -> None:
    """Workers over TCP; with a state, the next cluster reads only what the first one did not."""
    some = Fleet(images.archives[:40], {}, 0)
    with cluster(tmp_path) as (address, _), client(address) as one:
        first, _ = run(some, client=one, state=tmp_path / "state")
    assert first.layers_known == 0
    with cluster(tmp_path) as (address, _), client(address) as one:
        done, found = run(images, client=one, state=tmp_path / "state")
    images.check(found)
    assert done.layers_known == first.layers_read
    assert done.layers_known + done.layers_read == images.layers


@pytest.mark.parametrize("way", ["processes", "cluster"])
def test_a_worker_is_killed(
    way: str, images: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle, by its pid: what it had is done by others, and nothing else shows it."""
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "set").touch()
    monkeypatch.setenv("IMAGEFS_TEST_TRAP", str(trap))
    sources = [str(path) for path in images.archives[:20]]
    expected = sorted((one.layer, one.path) for one in scan(sources, fleets.first_bytes))

    def kill() -> None:
        assert soon((trap / "caught").exists, within=120)
        os.kill(int((trap / "caught").read_text()), signal.SIGKILL)

    def killed(**how: Any) -> list[tuple[str, str]]:
        with ThreadPoolExecutor(1) as beside:
            killing = beside.submit(kill)
            done = scan(sources, fleets.wait_once, **how)
            found = sorted((one.layer, one.path) for one in done)
            killing.result()
        assert done.failures == []
        return found

    if way == "processes":
        assert killed() == expected
    else:
        with cluster(tmp_path) as (address, _), client(address) as one:
            assert killed(client=one) == expected


def test_what_fails_is_a_row_of_a_table(tmp_path: Path) -> None:
    """A source that is not there, one that is no image, a layer cut short, and a bad function."""
    good = docker_save(layer({"a": "NEEDLE-x-1\n"}), tags=["good:1"])
    cut = docker_save(layer({"b": "NEEDLE-x-2\n" + "x" * 5000}), tags=["cut:1"])
    (tmp_path / "good.tar").write_bytes(good)
    (tmp_path / "none.tar").write_bytes(b"no image")
    (tmp_path / "cut.tar").write_bytes(cut[: len(cut) // 2])
    names = ["gone.tar", "none.tar", "cut.tar", "good.tar"]
    done = scan([str(tmp_path / name) for name in names], NEEDLES)
    assert [one.value.line for one in done] == [b"NEEDLE-x-1"]
    assert sorted(Path(one.source).name for one in done.failures) == sorted(names[:3])
    assert all(one.reason and "\n" not in one.reason for one in done.failures)
    failing = scan([str(tmp_path / "good.tar")], fleets.fails)
    assert list(failing) == []
    [failure] = failing.failures
    assert (failure.path, failure.reason) == ("/a", "ValueError: not this one")


def test_a_function_sees_the_file(tmp_path: Path) -> None:
    """Its attributes and other names, and a binary file of which only what is asked for is read."""
    content = b"begin" + b"x" * 1_000_000
    (tmp_path / "app.tar").write_bytes(
        docker_save(
            layer({"d/f": Member(content), "e": Hard("d/f"), "l": Sym("e"), ".wh.x": ""}),
            steps=["COPY"],
        )
    )
    done = scan([str(tmp_path / "app.tar")], fleets.described, processes=1)
    [found] = done
    assert found.step == "COPY"
    assert found.shown == (True,)
    assert {found.path, *found.value.pop("names")} == {"/d/f", "/e"}
    assert found.value == {"size": 1_000_005, "mode": 0o644, "start": b"begin", "tail": b"xxx"}
    assert done.bytes_read < 200_000


def test_each_layer_is_indexed_once(tmp_path: Path) -> None:
    """Archives that are read in place have each a copy of a base; it is one layer all the same."""
    base = [layer({f"b/{number}": f"NEEDLE-base-{number}\n"}) for number in range(3)]
    for number in range(40):
        own = layer({"own": f"NEEDLE-own-{number}\n", f"b/.wh.{number % 4}": ""})
        (tmp_path / f"{number}.tar").write_bytes(docker_save(*base, own))
    sources = [str(tmp_path / f"{number}.tar") for number in range(40)]
    found = list(scan(sources, NEEDLES, processes=1))
    assert len(found) == 43
    for one in found:
        holders = [int(Path(holder.source).stem) for holder in one.holders]
        wanted = [one.path == "/own" or at % 4 != int(one.path[-1]) for at in holders]
        assert list(one.shown) == wanted
    indexes = [path for path in (tmp_path / "cache/index").iterdir() if path.suffix == ".idx"]
    assert len(indexes) == 43


def test_a_worker_pulls_the_layer_that_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no other of the image, if another worker opened it into a cache of its own."""
    image = SampleImage(tuple(layer({f"f{n}": f"NEEDLE-own-{n}\n"}) for n in range(3)))
    monkeypatch.setenv("HOME", str(tmp_path))
    with BadRegistry(served(image)) as server:
        plan = Plan()
        request = SourceRequest(f"docker://{server.place}/team/app:v1", SourceOptions())
        monkeypatch.setattr(worker, "_open", OrderedDict())
        for one in worker.plan(request):
            plan.add(request, one)
        part = next(one for one in plan.parts() if one.layer.diff_id == digest(image.layers[1]))
        for cache, blobs in (("cache", []), ("other", [image.config, gz(image.layers[1])])):
            monkeypatch.setenv("IMAGEFS_CACHE", str(tmp_path / cache))
            monkeypatch.setattr(worker, "_open", OrderedDict())
            server.asked.clear()
            for _ in range(2):
                read = worker.read(NEEDLES, part)
                assert [path for _, path, _ in read.found] == ["/f1"]
                assert read.failures == []
            asked = [one.path.rpartition("/")[2] for one in server.asked if "/blobs/" in one.path]
            assert sorted(set(asked)) == sorted(map(digest, blobs))
            assert asked.count(digest(gz(image.layers[1]))) == (cache == "other")
        monkeypatch.setenv("IMAGEFS_CACHE", str(tmp_path / "third"))
        server.answers.update(served(SampleImage((layer({"x": ""}),))))
        [failure] = worker.read(NEEDLES, part).failures
        assert failure.layer == part.layer.diff_id
        assert "means another image" in failure.reason


def test_a_link_above_shows_what_was_deleted(tmp_path: Path) -> None:
    """A file whose own name is gone, but which a later layer linked to, is shown."""
    (tmp_path / "app.tar").write_bytes(
        docker_save(layer({"a": "NEEDLE-x-1\n"}), layer({"b": Hard("a")}), layer({".wh.a": ""}))
    )
    [found] = scan([str(tmp_path / "app.tar")], NEEDLES)
    assert (found.path, found.shown) == ("/a", (True,))


def test_functions_have_names_of_their_own() -> None:
    """State of one is not another's."""
    assert name_of(fleets.fails) != name_of(fleets.described)
    assert "not this one" in name_of(fleets.fails)


def test_plans_of_ten_thousand_images_are_small() -> None:
    """What a client remembers of images that are planned and not read."""
    limit = 300 << 20
    script = (
        "from tests.scanning.test_scan import planned\n"
        "plan = planned(10_000)\n"
        "assert (plan.images, plan.layers) == (10_000, 3 * 500 + 12 * 10_000), plan.layers\n"
        "assert sum(1 for _ in plan.parts()) == plan.layers\n"
        "status = open('/proc/self/status').read()\n"
        "print(int(status.split('VmHWM:')[1].split()[0]) << 10)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)
    assert int(done.stdout) < limit


def planned(count: int) -> Plan:
    """A plan of that many images, each of three layers of a base and twelve of its own."""
    plan = Plan()
    for number in range(count):
        ids = [f"sha256:b{number % 500:059x}{at:04x}" for at in range(3)]
        ids += [f"sha256:{number:032x}{at:032x}" for at in range(1, 13)]
        layers = tuple(
            PlannedLayer(diff_id, f"RUN step {at} of many # buildkit", 1 << 20)
            for at, diff_id in enumerate(ids)
        )
        request = SourceRequest(f"docker://registry.example/team/app:{number}", SourceOptions())
        plan.add(request, PlannedImage(f"sha256:{number:064x}", f"app:{number}", layers))
    return plan


def test_the_package_offers_it() -> None:
    """`imagefs.scan` is the same."""
    assert imagefs.scan is scan

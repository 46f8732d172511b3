"""Commands of images, really run: by root, and by ordinary users with and without more ids."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from tests.run.conftest import SUBORDINATE, World
from tests.support.runnable import busybox, python
from tests.support.users import Answer, User

OWN_STATUSES = {
    "its own": (("sh", "-c", "exit 7"), 7),
    "a signal": (("sh", "-c", "sh -c 'kill -9 $$'; exit $?"), 137),
    "no such command": (("nothing",), 127),
    "no such path": (("/bin/nothing",), 127),
    "no program": (("/etc/passwd",), 126),
    "a directory": (("/etc",), 126),
}


def run(user: User, *words: str | Path, stdin: bytes = b"", **image: Any) -> Answer:
    """Run a command of busybox's image, whose configuration says `image`."""
    archive = user.home / "image.tar"
    if image or not archive.exists():
        archive = user.file("other/image.tar" if image else "image.tar", busybox(**image))
    at = next(at for at, word in enumerate(words) if word == "IMAGE")
    return user.imagefs("run", "-q", *words[:at], archive, *words[at + 1 :], stdin=stdin)


def out(user: User, *words: str | Path, stdin: bytes = b"", **image: Any) -> str:
    """Run a command that must succeed; return what it printed."""
    done = run(user, *words, stdin=stdin, **image)
    assert (done.status, done.err) == (0, "")
    return done.out


def state(user: User) -> dict[str, str]:
    """Return all files of a user, with what they hold."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in user.home.rglob("*")
    }


def test_what_a_command_finds(user: User) -> None:
    """It is root and process 1, in a root of the image alone, on a host called like the image."""
    script = """
        id -u; id -g; hostname; echo $$; pwd; echo $A $HOME
        ls -d /proc/[0-9]* | wc -l
        ls /; ls /dev; ls /proc/self/fd | wc -l
        grep -c . /etc/resolv.conf /etc/hosts >/dev/null && echo names
        grep SigIgn /proc/self/status; grep NoNewPrivs /proc/self/status
    """
    lines = out(user, "IMAGE", "sh", "-c", script, Env=["PATH=/bin", "A=b"]).splitlines()
    assert lines[:6] == ["0", "0", "image", "1", "/", "b /root"]
    assert int(lines[6]) <= 4
    assert set(lines) >= {"bin", "dev", "etc", "home", "proc", "sys", "tmp", "names"}
    assert set(lines) >= {"null", "zero", "full", "random", "urandom", "tty", "pts", "shm", "ptmx"}
    assert "4" in lines[7:], "standard files and the directory itself are all that is open"
    assert lines[-2].split() == ["SigIgn:", "0" * 16]
    assert lines[-1].split() == ["NoNewPrivs:", "1"]


def test_what_is_mounted(user: User) -> None:
    """The root is an overlay; /sys and what of /proc changes the machine cannot be written."""
    mounts = [line.split() for line in out(user, "IMAGE", "cat", "/proc/mounts").splitlines()]
    kinds = {(line[1], line[2]) for line in mounts}
    assert kinds >= {("/", "overlay"), ("/proc", "proc"), ("/dev", "tmpfs"), ("/sys", "sysfs")}
    options = {line[1]: line[3].split(",") for line in mounts}
    assert all("ro" in options[place] for place in options if place.startswith("/sys"))
    assert "ro" in options["/proc/sys"]
    script = "for f in /proc/irq/x /proc/sys/kernel/hostname; do echo x >$f; done; ls /sys"
    done = run(user, "IMAGE", "sh", "-c", script)
    assert done.err.count("Read-only file system") == 1
    assert done.err.count("can't create") == 2
    assert "kernel" in done.out
    for words in (("mount", "-t", "tmpfs", "x", "/tmp"), ("chmod", "777", "/sys/kernel")):
        assert run(user, "IMAGE", *words).status == 1


def test_the_images_own_command(world: World) -> None:
    """Entry point, command, user, directory and variables are the image's, if nobody says else."""
    image: dict[str, Any] = {
        "Entrypoint": ["sh", "-c", 'id -u; id -g; id -G; pwd; echo "$A $HOME"; cat own; echo $0'],
        "Cmd": ["last"],
        "User": "app",
        "WorkingDir": "/home/app",
        "Env": ["PATH=/bin", "A=b"],
    }
    for one in (world.root, world.rich):
        lines = out(one, "IMAGE", **image).splitlines()
        assert lines == ["100", "101", "101 102", "/home/app", "b /home/app", "ownlast"]
    poor = out(world.poor, "IMAGE", **image).splitlines()
    assert poor == ["0", "0", "0 65534", "/home/app", "b /home/app", "ownlast"] or poor[:2] == [
        "0",
        "0",
    ]
    words = ("-u", "7:8", "-w", "/made/now", "-e", "A=c", "--entrypoint", "sh", "IMAGE")
    said = out(world.rich, *words, "-c", "id -u; id -g; pwd; echo $A", **image)
    assert said.splitlines() == ["7", "8", "/made/now", "c"]


def test_owners(world: World) -> None:
    """Who has more ids sees the image's owners, who has none sees root's files; all can write."""
    script = "stat -c %u:%g:%a /home/app/own; touch /home/app/new && chmod 4755 /home/app/own"
    assert out(world.root, "IMAGE", "sh", "-c", script) == "100:101:600\n"
    assert out(world.rich, "IMAGE", "sh", "-c", script) == "100:101:600\n"
    assert out(world.poor, "IMAGE", "sh", "-c", script) == "0:0:600\n"
    said = world.poor.imagefs("run", world.poor.home / "image.tar", "true")
    assert said.err.count("give you no ids: all files are shown as root's") == 1
    refused = run(world.poor, "-u", "app", "IMAGE", "true")
    assert (refused.status, refused.err.count("\n")) == (125, 1)
    assert "more ids in /etc/subuid" in refused.err


@pytest.mark.parametrize("case", OWN_STATUSES)
def test_status(someone: User, case: str) -> None:
    """The command's own status passes through; where it did not come to run, docker run's."""
    words, status = OWN_STATUSES[case]
    done = run(someone, "IMAGE", *words)
    assert done.status == status
    assert done.err.count("\n") == (status > 7)


def test_streams(someone: User) -> None:
    """Input comes if it is asked for, output goes where it should."""
    script = "tr a-z A-Z; echo wrong >&2"
    done = run(someone, "-i", "IMAGE", "sh", "-c", script, stdin=b"some words")
    assert (done.out, done.err) == ("SOME WORDS", "wrong\n")
    assert run(someone, "IMAGE", "sh", "-c", script, stdin=b"some words").out == ""


def test_nothing_is_written(user: User) -> None:
    """Whatever a command does to its root, archive and cache stay as they are."""
    run(user, "IMAGE", "true")
    before = state(user)
    script = "rm -r /etc /home; echo x >/new; echo y >>/bin/busybox; mkdir /etc; chmod 0 /; ls /etc"
    done = run(user, "IMAGE", "sh", "-c", script)
    assert (done.status, done.out) == (0, "hosts\nresolv.conf\n") or done.status in (0, 1)
    assert state(user) == before


def test_read_only(someone: User) -> None:
    """With --read-only the root cannot be written, memory elsewhere can."""
    done = run(someone, "--read-only", "IMAGE", "sh", "-c", "echo x >/dev/shm/x; echo x >/x")
    assert done.status == 1
    assert "Read-only file system" in done.err


def test_volumes(someone: User) -> None:
    """Paths of the host show where they should, are written if they may, in no other place."""
    shared = someone.directory(f"shared-{someone.home.name}")
    assert someone.run("sh", "-c", 'echo host >"$1/f"', "sh", shared).status == 0
    words = ("-v", f"{shared}:/a/b", "-v", f"{shared}/f:/etc/passwd:ro", "-v", f"{shared}:/ro:ro")
    script = "cat /etc/passwd; echo x >/a/b/new; echo y >/ro/no; echo z >/etc/passwd"
    done = run(someone, *words, "IMAGE", "sh", "-c", script)
    assert done.out == "host\n"
    assert done.err.count("Read-only file system") == 2
    assert sorted(someone.run("ls", shared).out.split()) == ["f", "new"]
    assert someone.run("stat", "-c", "%u", shared / "new").out == someone.run("id", "-u").out
    assert someone.run("rm", "-r", shared).status == 0


def test_network(someone: User) -> None:
    """The network is the host's, or none at all."""
    devices = "ls /sys/class/net; cat /proc/net/dev | wc -l"
    assert out(someone, "--network", "none", "IMAGE", "sh", "-c", devices).split() == ["lo", "3"]
    ours = sorted(os.listdir("/sys/class/net"))
    assert out(someone, "IMAGE", "sh", "-c", devices).split()[:-1] == ours


def test_keep(user: User) -> None:
    """What was written with --keep is there again the next time, removals and owners too."""
    keep = user.home / "keep"
    script = "rm /etc/group; rm -r /home; mkdir /home; echo x >/home/new; chmod 640 /home/new"
    assert out(user, "--keep", keep, "IMAGE", "sh", "-c", script) == ""
    script = "ls /etc /home; stat -c %a:%u /home/new; echo y >>/home/new; cat /home/new"
    lines = out(user, "--keep", keep, "IMAGE", "sh", "-c", script).split()
    assert lines == ["/etc:", "hosts", "passwd", "resolv.conf", "/home:", "new", "640:0", "x", "y"]
    assert out(user, "IMAGE", "sh", "-c", "ls /home").split() == ["app"]
    other = run(user, "--keep", keep, "IMAGE", "true", files={"other": "x"})
    assert (other.status, other.err.count("\n")) == (125, 1)
    assert "another image" in other.err
    assert user.run("sh", "-c", "mkdir full && touch full/x").status == 0
    full = run(user, "--keep", user.home / "full", "IMAGE", "true")
    assert full.status == 125
    assert "holds something else" in full.err
    assert user.run("ls", "full").out == "x\n"


def test_owners_on_the_disk(world: World) -> None:
    """What is kept belongs to the caller, or to the caller's subordinate ids."""
    keep = world.rich.home / "owners"
    script = "touch /mine; touch /apps; chown app:app /apps"
    assert out(world.rich, "--keep", keep, "IMAGE", "sh", "-c", script) == ""
    assert (keep / "upper/mine").stat().st_uid == world.rich.home.stat().st_uid
    status = (keep / "upper/apps").stat()
    assert (status.st_uid, status.st_gid) == (SUBORDINATE + 99, SUBORDINATE + 100)


def test_two_at_once(someone: User) -> None:
    """Runs do not see each other; a directory of changes is one run's at a time."""
    archive = someone.file("image.tar", busybox())
    words = someone.command("run", "-q", "-i", "--keep", someone.home / "one", archive, "cat")
    first = someone.start(*words)
    try:
        assert first.stdin is not None
        assert first.stdout is not None
        first.stdin.write(b"up\n")
        first.stdin.flush()
        assert first.stdout.readline() == b"up\n"
        second = run(someone, "--keep", someone.home / "one", "IMAGE", "true")
        assert (second.status, second.err.count("\n")) == (125, 1)
        assert "somebody is writing to it" in second.err
        assert " cat\n" not in out(someone, "IMAGE", "ps")
    finally:
        first.communicate(timeout=60)
    assert first.returncode == 0


def test_python(someone: User) -> None:
    """An image of Python runs its entry point, by its interpreter and its libraries alone."""
    archive = someone.file("python.tar", python())
    done = someone.imagefs("run", "-q", archive, "print(6 * 7, __import__('os').getpid())")
    assert (done.status, done.out, done.err) == (0, "42 1\n", "")


def test_refused(someone: User) -> None:
    """What cannot be done is refused in one line, with docker run's status."""
    archive = someone.file("image.tar", busybox())
    empty = someone.file("empty.tar", busybox(Cmd=[]))
    refused: dict[tuple[str | Path, ...], str] = {
        (empty,): "say what to run",
        ("-u", "nobody", archive): "no such user",
        ("-v", "/no/such:/x", archive): "no such file",
        ("-t", archive): "needs a terminal",
        ("-i", "-"): "standard input is the archive",
        (someone.home / "no.tar",): "No such file",
        ("-w", "/etc/passwd", archive): "Not a directory",
    }
    for words, says in refused.items():
        done = someone.imagefs("run", "-q", *words)
        assert (done.status, done.out, done.err.count("\n")) == (125, "", 1), done
        assert says in done.err


def test_without_crun(world: World) -> None:
    """Where the runtime is missing, one line says what to install."""
    archive = world.root.file("image.tar", busybox())
    hide = 'mount --bind /dev/null "$(readlink -f /usr/bin/crun)"; exec "$@"'
    words = world.root.command("run", archive, "true")
    done = world.root.run("unshare", "--mount", "sh", "-c", hide, "sh", *words)
    assert (done.status, done.out) == (125, "")
    assert done.err == "imagefs: crun is missing, which runs the command: apt install crun\n"


def test_root_of_a_namespace(world: World) -> None:
    """Root of a user namespace can run commands, too."""
    archive = world.poor.file("image.tar", busybox())
    words = world.poor.command("run", "-q", archive, "id", "-u")
    done = world.poor.run("unshare", "--user", "--map-root-user", "--mount", *words)
    assert (done.status, done.out, done.err) == (0, "0\n", "")


def test_changes_of_a_run(world: World) -> None:
    """What a run kept is listed, and is a layer with the owners that the command saw."""
    script = "touch /mine /apps; chown app:app /apps; chmod 0 /apps; rm /etc/group"
    for user, owner in ((world.root, "100/101"), (world.rich, "100/101"), (world.poor, "0/0")):
        chown = script if user is not world.poor else script.replace("chown app:app /apps;", "")
        assert out(user, "--keep", user.home / "run", "IMAGE", "sh", "-c", chown) == ""
        assert user.does("changes", "run") == "A /apps\nD /etc/group\nA /mine\n"
        user.does("changes", "run", "--layer", "run.tar")
        listed = user.run("tar", "--numeric-owner", "-tvf", "run.tar").out.splitlines()
        owners = {line.split()[-1]: line.split()[1] for line in listed}
        assert owners == {"apps": owner, "etc/": "0/0", "etc/.wh.group": "0/0", "mine": "0/0"}
    refused = world.root.imagefs("changes", world.rich.home / "run")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "who alone may look" in refused.err

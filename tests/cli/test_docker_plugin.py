"""`docker imagefs`, by the real docker command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imagefs import __version__
from imagefs.cli import docker_plugin
from imagefs.errors import UsageError
from tests.support.engines import RunningEngine
from tests.support.needs import DOCKER, need_docker
from tests.support.saved import docker_save
from tests.support.tars import layer


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A configuration of docker's with the plugin in it, and an archive app.tar."""
    need_docker()
    program = tmp_path / "cli-plugins/docker-imagefs"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom imagefs.cli.docker_plugin import main\nmain()\n")
    program.chmod(0o755)
    (tmp_path / "app.tar").write_bytes(docker_save(layer({"etc/motd": "hello\n"})))
    return tmp_path


def docker(home: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "DOCKER_CONFIG": str(home), "DOCKER_HOST": "unix:///nowhere.sock"}
    return subprocess.run(
        [DOCKER, *words], cwd=home, env=environment, capture_output=True, check=False
    )


def test_docker_knows_the_plugin(home: Path) -> None:
    """It is listed with its version and what it is for."""
    info = json.loads(docker(home, "info", "--format", "{{json .ClientInfo}}").stdout)
    [plugin] = [one for one in info["Plugins"] if one["Name"] == "imagefs"]
    assert plugin["Version"] == __version__
    assert plugin["ShortDescription"] == "Look into images without extracting them"
    assert "Err" not in plugin


def test_commands_run_as_docker_s(home: Path) -> None:
    """Their output, errors and exit statuses pass."""
    assert docker(home, "imagefs", "cat", "app.tar", "/etc/motd").stdout == b"hello\n"
    missing = docker(home, "imagefs", "cat", "app.tar", "/etc/nope")
    assert (missing.returncode, missing.stdout) == (1, b"")
    assert missing.stderr == b"imagefs: /etc/nope: No such file or directory\n"
    assert docker(home, "imagefs", "nope").returncode == 2


def test_docker_s_own_options_choose_the_engine(home: Path, docker_engine: RunningEngine) -> None:
    """--host before `imagefs` is the engine that is asked."""
    docker_engine.load_root("plugged:v1", {"etc/motd": b"from the engine\n"})
    done = docker(home, "--host", docker_engine.host, "imagefs", "cat", "plugged:v1", "/etc/motd")
    assert (done.returncode, done.stdout) == (0, b"from the engine\n")
    answer = docker(home, "--tlscacert=ca.pem", "imagefs", "mounts")
    assert answer.returncode == 2
    assert answer.stderr == (
        b"imagefs: docker's option --tlscacert=ca.pem does not go with `docker imagefs`\n"
    )


@pytest.mark.parametrize(
    ("words", "found", "variables"),
    [
        (["imagefs", "ls", "--host", "x"], ["ls", "--host", "x"], {"DOCKER_HOST": "old"}),
        (["-D", "imagefs", "mounts"], ["--debug", "mounts"], {}),
        (["--context", "far", "imagefs"], [], {"DOCKER_CONTEXT": "far", "DOCKER_HOST": None}),
        (["-H=tcp://h", "imagefs"], [], {"DOCKER_HOST": "tcp://h"}),
        (["--config", "/c", "--tlsverify", "imagefs"], [], {"DOCKER_TLS_VERIFY": "1"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_words_are_docker_s_behind_its_options(
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    found: list[str],
    variables: dict[str, str | None],
) -> None:
    """What docker reads of its own options, imagefs reads from the environment."""
    environment = {"DOCKER_HOST": "old"}
    monkeypatch.setattr(os, "environ", environment)
    assert docker_plugin.words(words) == found
    assert {name: environment.get(name) for name in variables} == variables


def test_an_option_that_does_not_go_is_named() -> None:
    """None is dropped in silence."""
    with pytest.raises(UsageError, match="docker's option --log-level does not go with"):
        docker_plugin.words(["--log-level", "debug", "imagefs"])

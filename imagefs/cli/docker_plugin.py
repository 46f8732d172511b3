"""`docker imagefs ...`: the program that the docker command runs as its plugin.

Docker asks each `docker-NAME` of its plugin directories for metadata, and runs it with the words
that it was itself called with, its own options before the plugin's name
(cli/cli-plugins/metadata in docker/cli).
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from imagefs import __version__
from imagefs.errors import UsageError

_METADATA = {
    "SchemaVersion": "0.1.0",
    "Vendor": "imagefs",
    "Version": __version__,
    "ShortDescription": "Look into images without extracting them",
}
# Docker's own options that say which engine is meant: they come as what imagefs reads anyway.
_VARIABLES = {
    "--host": "DOCKER_HOST",
    "-H": "DOCKER_HOST",
    "--context": "DOCKER_CONTEXT",
    "-c": "DOCKER_CONTEXT",
    "--config": "DOCKER_CONFIG",
}
_SWITCHES = {"--tlsverify": "DOCKER_TLS_VERIFY", "--tls": "DOCKER_TLS"}
_DEBUG = ("--debug", "-D")


def main() -> NoReturn:
    """Run as docker runs its plugins."""
    if sys.argv[1:] == ["docker-cli-plugin-metadata"]:
        sys.stdout.write(json.dumps(_METADATA) + "\n")
        sys.exit()
    from imagefs.cli.main import main as run  # noqa: PLC0415

    run(sys.argv[1:], words)


def words(args: Sequence[str]) -> list[str]:
    """Return imagefs's words in docker's, whose own options go into the environment."""
    found: list[str] = []
    rest = iter(args)
    for word in rest:
        if word == "imagefs":
            break
        name, equals, value = word.partition("=")
        if name in _VARIABLES:
            os.environ[_VARIABLES[name]] = value if equals else next(rest, "")
            if _VARIABLES[name] == "DOCKER_CONTEXT":
                os.environ.pop("DOCKER_HOST", None)  # which would come before it
        elif word in _SWITCHES:
            os.environ[_SWITCHES[word]] = "1"
        elif word in _DEBUG:
            found.append("--debug")
        else:
            raise UsageError(f"docker's option {word} does not go with `docker imagefs`")
    return found + list(rest)

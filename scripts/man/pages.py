"""What the manual pages say: the commands' own help, and what holds for all of them.

Pages are in the language of man(7). Nothing of them is written where the help already says it.
"""

from collections.abc import Iterator
from textwrap import dedent

import click

from imagefs import __version__
from imagefs.cli import mount_helper
from imagefs.cli.main import cli
from imagefs.fuse.kernel_flags import KERNEL_FLAGS

_PROGRAM = """
    .SH EXIT STATUS
    .TP
    .B 0
    It was done.
    .TP
    .B 1
    Something was wrong with the image, the engine or the machine; for commands that compare or
    judge, what they found.
    .TP
    .B 2
    The command was misused; for commands that compare or judge, all trouble.
    .TP
    .B 130
    It was interrupted.
    .SH ENVIRONMENT
    .TP
    .B IMAGEFS_CACHE
    The directory that layers and indexes are kept in, instead of
    .IR ~/.cache/imagefs .
    .TP
    .BR DOCKER_HOST ", " DOCKER_CONTEXT ", " DOCKER_CONFIG
    The engine, as for the docker command; by TLS with
    .B DOCKER_TLS_VERIFY
    and
    .BR DOCKER_CERT_PATH .
    .TP
    .B NO_COLOR
    Print no colours.
    .SH FILES
    .TP
    .I ~/.cache/imagefs
    Layers and indexes; it can be deleted at any time.
    .TP
    .I ~/.local/state/imagefs/imagefs.log
    What daemons log where there is neither a journal nor syslog.
    .SH SEE ALSO
    .BR mount.imagefs (8),
    .BR fusermount3 (1),
    .BR docker (1),
    .BR podman (1)
"""
_HELPER = """
    .SH DESCRIPTION
    .BR mount (8)
    mounts an image by the type
    .B fuse.imagefs
    once
    .B imagefs
    is found in the path that it uses, or
    .B mount.imagefs
    is linked as
    .IR /sbin/mount.fuse.imagefs .
    A line of
    .IR /etc/fstab :
    .PP
    .RS
    .nf
    /srv/images/app.tar  /srv/app  fuse.imagefs  view=rootfs,allow_other,nofail  0 0
    .fi
    .RE
    .SH OPTIONS
    Options are those of
    .BR "imagefs mount" ,
    with underscores:
"""
_KERNEL = """
    .PP
    and those of
    .BR mount (8)
    that are the kernel's:
"""
_REFUSED = """
    .PP
    What cannot be honoured is refused by name. Mounts are read-only, nosuid and nodev, always.
    .SH SEE ALSO
    .BR imagefs (1),
    .BR mount (8),
    .BR fstab (5)
"""


def pages() -> dict[str, str]:
    """Return the pages by file name."""
    return {"imagefs.1": _imagefs(), "mount.imagefs.8": _mount_helper()}


def _imagefs() -> str:
    context = cli.make_context("imagefs", [], resilient_parsing=True)
    lines = [
        f'.TH IMAGEFS 1 "" "imagefs {__version__}" "User Commands"',
        ".SH NAME",
        r"imagefs \- " + _plain(cli.help or "").split(".")[0].lower(),
        ".SH SYNOPSIS",
        r".B imagefs",
        r"[\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGS\fR]...",
        ".SH DESCRIPTION",
        *_paragraphs(cli.help or ""),
        ".SH OPTIONS",
        *_options(cli, context),
        ".SH COMMANDS",
    ]
    for name, command in _commands(cli, context):
        lines += [
            f".SS {_plain(name)} {_usage(command, context)}",
            *_paragraphs(command.help or ""),
        ]
        lines += _options(command, context)
    return "\n".join(lines) + dedent(_PROGRAM)


def _mount_helper() -> str:
    options = [
        *(rf"\fB{name}\fR=\fIVALUE\fR" for name in mount_helper.WITH_VALUE),
        *(rf"\fB{name}\fR" for name in mount_helper.FLAGS),
    ]
    lines = [
        f'.TH MOUNT.IMAGEFS 8 "" "imagefs {__version__}" "System Administration"',
        ".SH NAME",
        r"mount.imagefs \- mount a container image as a directory tree",
        ".SH SYNOPSIS",
        r".B mount \-t fuse.imagefs",
        r"[\fB\-o\fR \fIOPTIONS\fR] \fISOURCE\fR \fIMOUNTPOINT\fR",
    ]
    flags = ", ".join(rf"\fB{flag}\fR" for flag in KERNEL_FLAGS)
    middle = dedent(_HELPER) + ",\n".join(options) + "," + dedent(_KERNEL)
    return "\n".join(lines) + middle + flags + "." + dedent(_REFUSED)


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((f"{name} {below}", one) for below, one in _commands(command, context))
        elif command is not None:
            yield name, command


def _usage(command: click.Command, context: click.Context) -> str:
    words = command.collect_usage_pieces(context)
    return " ".join(rf"\fI{_plain(word)}\fR" for word in words)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for option in command.get_params(context):
        found = option.get_help_record(context)
        if found is not None and found[1]:
            yield from (".TP", rf"\fB{_plain(found[0])}\fR", _plain(found[1]))


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield from (".PP", _plain(" ".join(paragraph.split())))


def _plain(text: str) -> str:
    """Return words that man(7) reads as they are: no escapes, and no line that is a request."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped

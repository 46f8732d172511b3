"""The exit status of commands that compare or judge: 1 is what they found, and 2 is trouble."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from imagefs.errors import UsageError, in_words


@contextmanager
def trouble() -> Iterator[None]:
    """Have whatever goes wrong end with exit status 2."""
    try:
        yield
    except (click.ClickException, UsageError, BrokenPipeError):
        raise
    except Exception as error:
        raise click.ClickException(in_words(error)) from error

"""The page itself: what was gathered of one image or two, as one file of HTML.

Owns how the page is kept harmless: whatever is an image's is escaped, no letter in it is obeyed,
and the page's own policy lets run nothing but the style and the script that it has in it.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from imagefs import __version__
from imagefs.image.short_id import short_ids
from imagefs.report.differences import Differences
from imagefs.report.facts import cut
from imagefs.report.survey import Survey
from imagefs.report.view import DifferencesView, View
from imagefs.text import size_text

_NAME = 120
"""Letters of an image's name that are shown."""


def page(surveys: Sequence[Survey], differs: Differences | None = None) -> str:
    """Return the page of one image, or of two beside each other and how they differ."""
    environment = _environment()
    style, script = _asset("style.css"), _asset("script.js")
    most = max((layer.brought for one in surveys for layer in one.waste.layers), default=0)
    reports = [
        View(one, name, most, len(surveys))
        for one, name in zip(surveys, _names(surveys), strict=True)
    ]
    return environment.get_template("page.html.j2").render(
        reports=reports,
        differs=differs and DifferencesView(differs),
        style=Markup(style),
        script=Markup(script),
        policy=policy(style, script),
        version=__version__,
    )


def _names(surveys: Sequence[Survey]) -> list[str]:
    """Return what to call each image; those of one name are told apart by id or number."""
    images = [one.image for one in surveys]
    names = [image.names[0] if image.names else image.id for image in images]
    if len(set(names)) < len(names):
        short = short_ids(image.id for image in images)
        marks = [short[image.id] for image in images]
        if len(set(marks)) < len(marks):
            marks = [str(number) for number, _ in enumerate(images, 1)]
        names = [f"{name} ({mark})" for name, mark in zip(names, marks, strict=True)]
    return [cut(name, _NAME) for name in names]


def policy(style: str, script: str) -> str:
    """Return a Content-Security-Policy that allows these two, and nothing else."""
    return (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)};"
        " base-uri 'none'; form-action 'none'"
    )


def _source(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"


@cache
def _asset(name: str) -> str:
    return resources.files("imagefs.report").joinpath("templates", name).read_text("utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("imagefs.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["size"] = size_text
    return environment

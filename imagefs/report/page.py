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
from imagefs.report.survey import Survey
from imagefs.report.view import View
from imagefs.text import size_text


def page(surveys: Sequence[Survey]) -> str:
    """Return the page of one image, or of two beside each other."""
    environment = _environment()
    style, script = _asset("style.css"), _asset("script.js")
    reports = [View(one, len(surveys)) for one in surveys]
    return environment.get_template("page.html.j2").render(
        reports=reports,
        two=len(reports) == 2,
        style=Markup(style),
        script=Markup(script),
        policy=policy(style, script),
        version=__version__,
    )


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

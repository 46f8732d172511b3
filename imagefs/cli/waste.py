"""`imagefs waste`: what an image's layers bring, show and hide, and rules that they must keep."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from imagefs.cli import gate, output
from imagefs.cli.gate import Verdict
from imagefs.cli.options import json_option, source_argument, source_options
from imagefs.cli.output import Size
from imagefs.cli.progress_bars import reporter
from imagefs.cli.trouble import trouble
from imagefs.image.options import SourceOptions
from imagefs.source import opening
from imagefs.source.opening import SourceRequest
from imagefs.store.store import Store
from imagefs.text import counted, size_text
from imagefs.tree import waste as counting
from imagefs.tree.causes import WORDS, Cause
from imagefs.tree.waste import Copies, Examined, Waste

_RULES = {
    "fail_above": gate.OURS,
    "lowest_efficiency": "lowestEfficiency",
    "highest_wasted_bytes": "highestWastedBytes",
    "highest_user_wasted_percent": "highestUserWastedPercent",
}
_BAR = 10


@click.command(short_help="Tell what of its layers an image does not show, and why.")
@source_argument
@click.option(
    "--top",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    metavar="N",
    help="How many steps, paths and duplicates to list.",
)
@click.option("--duplicates", is_flag=True, help="List files of the same content, too.")
@click.option("--fail-above", metavar="SIZE|PERCENT", help="Fail if more is hidden: 20M, 5%.")
@click.option("--dive-ci", type=Path, metavar="FILE", help="Take rules from a .dive-ci of dive's.")
@click.option(
    "--lowest-efficiency",
    "--lowestEfficiency",
    metavar="RATIO",
    help="Fail if a smaller part of all bytes shows: 0.95.",
)
@click.option(
    "--highest-wasted-bytes",
    "--highestWastedBytes",
    metavar="SIZE",
    help="Fail if more bytes are hidden: 20MB.",
)
@click.option(
    "--highest-user-wasted-percent",
    "--highestUserWastedPercent",
    metavar="RATIO",
    help="Fail if more is hidden, as a part of what all but the bottom layer bring: 0.2.",
)
@json_option
@source_options
def waste(
    source: str,
    options: SourceOptions,
    *,
    top: int,
    duplicates: bool,
    dive_ci: Path | None,
    as_json: bool,
    quiet: bool,
    **limits: str | None,
) -> int:
    """Tell what of its layers an image does not show, and why.

    Of each layer, the bytes that its files bring, that rootfs shows, and that it hides. Exits with
    1 if a rule is broken, and with 2 if anything goes wrong.
    """
    with trouble():
        rules = gate.read_dive_ci(dive_ci) if dive_ci else {}
        rules |= {_RULES[key]: limit for key, limit in limits.items() if limit is not None}
        # A limit that is none is told before the image is opened.
        gate.judge(rules, Waste([], Counter(), []))
        store = Store()
        with reporter(quiet=quiet) as progress:
            image = opening.open_image(SourceRequest(source, options), store, progress)
            examined = counting.examine(image, store.index_dir)
        found = counting.measure(examined.hiding, examined.contents, top)
        copies = None
        if duplicates:
            copies = counting.duplicates(examined.hiding, examined.contents)
        verdicts = gate.judge(rules, found)
        if as_json:
            output.show_json(_as_json(examined, found, copies, verdicts))
        else:
            _show(examined, found, copies, top)
            _show_verdicts(verdicts)
        output.flush()
    return 0 if all(one.kept for one in verdicts) else 1


def _show(examined: Examined, found: Waste, copies: Sequence[Copies] | None, top: int) -> None:
    names, layers = examined.image.layer_names(), examined.image.layers
    numbers = [name.partition("-")[0] for name in names]
    most = max((one.brought for one in found.layers), default=0)
    rows: list[tuple[object, ...]] = [
        (
            name,
            Size(one.brought),
            Size(one.shown),
            Size(one.lost),
            output.bar(one.shown, one.lost, most, _BAR),
            layer.created_by,
        )
        for name, layer, one in zip(names, layers, found.layers, strict=True)
    ]
    sums = found.brought, found.brought - found.lost, found.lost
    part = float(100 * (1 - gate.efficiency(found)))
    rows.append(("all layers", *map(Size, sums), "", f"{part:.1f}% of all bytes are hidden"))
    output.show_table(("DIRECTORY", "BROUGHT", "SHOWN", "HIDDEN", "", "CREATED BY"), rows)
    if found.pairs and top:
        output.show_lines([""])
        output.show_table(
            ("HIDDEN", "CAUSE", "OF LAYER", "BY LAYER", "STEP THAT HIDES IT"),
            [
                (Size(size), WORDS[cause], numbers[made], numbers[by], layers[by].created_by)
                for (made, by, cause), size in found.pairs.most_common(top)
            ],
        )
    if found.spoils:
        output.show_lines([""])
        output.show_table(
            ("HIDDEN", "FILES", "CAUSE", "OF LAYER", "BY LAYER", "PATH"),
            [
                (Size(size), files, WORDS[cause], numbers[made], numbers[by], _path(path))
                for path, (made, by, cause), size, files in found.spoils
            ],
        )
    if copies is not None:
        total = size_text(sum(one.wasted for one in copies))
        words = (
            f"{counted(len(copies), 'content')} in several files of rootfs:"
            f" {total} less if each were there once"
        )
        output.show_lines(["", words if copies else "no two files of rootfs have the same content"])
    if copies and top:
        output.show_table(
            ("WASTED", "EACH", "COPIES", "PATHS"),
            [
                (Size(one.wasted), Size(one.size), len(one.paths), "  ".join(map(_path, one.paths)))
                for one in copies[:top]
            ],
        )


def _show_verdicts(verdicts: Sequence[Verdict]) -> None:
    if verdicts:
        output.show_lines([""])
        output.show_table(
            ("RULE", "FOUND", "ALLOWED", ""),
            [
                (one.rule, one.found, one.limit, "kept" if one.kept else "BROKEN")
                for one in verdicts
            ],
        )


def _as_json(
    examined: Examined, found: Waste, copies: Sequence[Copies] | None, verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """Return all that is known, in bytes; layers are told by their place, the bottom one's 0."""
    names, layers = examined.image.layer_names(), examined.image.layers
    said: dict[str, Any] = {
        "brought": found.brought,
        "shown": found.brought - found.lost,
        "hidden": found.lost,
        "efficiency": float(gate.efficiency(found)),
        "user_wasted": float(gate.user_wasted(found)),
        "causes": {cause.value: found.causes[cause] for cause in Cause},
        "layers": [
            {
                "directory": name,
                "diff_id": layer.diff_id,
                "created_by": layer.created_by,
                "brought": one.brought,
                "shown": one.shown,
                "hidden": one.lost,
                "causes": {cause.value: one.hidden[cause] for cause in Cause},
            }
            for name, layer, one in zip(names, layers, found.layers, strict=True)
        ],
        "steps": [
            {"made_by": made, "hidden_by": by, "cause": cause.value, "bytes": size}
            for (made, by, cause), size in found.pairs.most_common()
        ],
        "paths": [
            {
                "path": _path(path),
                "made_by": made,
                "hidden_by": by,
                "cause": cause.value,
                "bytes": size,
                "files": files,
            }
            for path, (made, by, cause), size, files in found.spoils
        ],
        "rules": [asdict(one) for one in verdicts],
    }
    if copies is not None:
        said["duplicates"] = [
            {"bytes": one.size, "wasted": one.wasted, "paths": list(map(_path, one.paths))}
            for one in copies
        ]
    return said


def _path(path: bytes) -> str:
    return "/" + os.fsdecode(path)

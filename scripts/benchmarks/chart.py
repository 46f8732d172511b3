"""Draws the chart: for each work, how many times the extracted tree's time everybody needs.

Run as a program with the data's file and the picture's, by a Python that has matplotlib.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found]

mpl.use("Agg")
from matplotlib import pyplot

_OTHERS = ("#8da0cb", "#66c2a5", "#a6d854", "#b3b3b3", "#e5c494", "#ffd92f", "#e78ac3", "#7570b3")
_OURS = ("#d73027", "#fc8d59", "#7f0000")


def draw(about: dict[str, Any], picture: Path) -> None:
    """Draw one group of bars for each row, on a logarithmic scale."""
    rows = about["rows"]
    names = [name for name in about["order"] if any(name in row for row in rows.values())]
    colours = _colours(names, about["ours"])
    figure, axes = pyplot.subplots(figsize=(10, 1.1 * len(rows) + 1))
    height = 0.86 / len(names)
    for at, name in enumerate(names):
        places = [row + at * height for row, values in enumerate(rows.values()) if name in values]
        ratios = [values[name] for values in rows.values() if name in values]
        axes.barh(places, ratios, height, label=name, color=colours[name])
        if name == about["ours"]:
            for place, ratio in zip(places, ratios, strict=True):
                axes.text(ratio * 1.03, place, f"{ratio:.2g}", va="center", fontsize=7)
    axes.set_yticks([row + 0.43 for row in range(len(rows))], list(rows), fontsize=9)
    axes.set_xscale("log")
    axes.set_xlabel("times the extracted tree on ext4 (less is better)")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.invert_yaxis()
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=5, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(picture, dpi=130)


def _colours(names: list[str], ours: str) -> dict[str, str]:
    own = [name for name in names if name.startswith(ours)]
    others = [name for name in names if name not in own]
    return dict(zip(own, _OURS, strict=False)) | dict(zip(others, _OTHERS, strict=False))


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))

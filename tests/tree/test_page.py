"""The page about images without a mount: its examples run as they stand there."""

import io
import re
from pathlib import Path

import pytest

from tests.support.saved import docker_save
from tests.support.tars import File, layer
from tests.test_readme import ROOT

PAGE = (ROOT / "imagefs/tree/README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def parquet() -> bytes:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow has no wheel here")
    from pyarrow import parquet as written  # noqa: PLC0415

    out = io.BytesIO()
    written.write_table(pyarrow.table({"size": [1, 2, 3]}), out)
    return out.getvalue()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split()[1])
def test_an_example_runs(
    example: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As somebody would paste it, beside an archive that has what it reads."""
    for name in set(re.findall(r"^import (\w+)", example, re.MULTILINE)) | {"fsspec"}:
        pytest.importorskip(name, reason=f"{name} has no wheel here")
    import fsspec  # noqa: PLC0415

    from imagefs.tree.spec import ImageFileSystem  # noqa: PLC0415

    fsspec.register_implementation("imagefs", ImageFileSystem, clobber=True)
    members = {
        "etc/motd": "hello\n",
        "srv/data/sales.csv": "name,size\none,1\n",
        "srv/set/year=2024/part.parquet": File(parquet()),
    }
    (tmp_path / "app.tar").write_bytes(docker_save(layer(members), steps=("ADD all",)))
    monkeypatch.chdir(tmp_path)
    said: dict[str, object] = {}
    exec(example, said)
    printed = capsys.readouterr().out
    if "sales" in said:
        assert said["sales"].equals(said["same"])  # type: ignore[attr-defined]
    elif "sizes" in said:
        assert said["sizes"].num_rows == 3  # type: ignore[attr-defined]
        assert "srv/data/sales.csv" in printed
    elif "found" in said:
        assert said["found"] == [(3,)]
    else:
        assert "6 ADD all" in printed
        assert "b'hello\\n'" in printed

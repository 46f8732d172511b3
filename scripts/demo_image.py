"""Write the image of the demo, as `docker save` would: `python demo_image.py ARCHIVE`.

Five layers of a small shop, in which two of the mistakes that images are searched for are made:
a key that a later layer deletes, and a cache that a later layer empties.
"""

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Mapping

_MADE = 1714567800  # 2024-05-01T12:50:00Z

LAYERS: tuple[tuple[str, Mapping[str, str]], ...] = (
    (
        "ADD rootfs.tar / # buildkit",
        {
            "etc/": "",
            "etc/os-release": "NAME=Tiny\nVERSION_ID=1\n",
            "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
            "etc/motd": "Welcome to Tiny.\n",
            "usr/share/doc/tiny/copyright": "Public domain.\n",
        },
    ),
    (
        "COPY . /srv/shop # buildkit",
        {
            "srv/shop/": "",
            "srv/shop/server.py": "PORT = 8000\nprint(f'listening on {PORT}')\n",
            "srv/shop/api.key": "API_KEY=c0ffee\n",
            "srv/shop/cache/page-1.html": "<h1>one</h1>\n",
            "srv/shop/cache/page-2.html": "<h1>two</h1>\n",
        },
    ),
    (
        "RUN adduser shop # buildkit",
        {
            "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nshop:x:1000:1000::/srv/shop:/bin/sh\n",
            "srv/shop/.profile": "export PORT=8000\n",
        },
    ),
    (
        "RUN rm api.key && rm -r cache && mkdir cache # buildkit",
        {
            "srv/shop/.wh.api.key": "",
            "srv/shop/cache/": "",
            "srv/shop/cache/.wh..wh..opq": "",
            "usr/share/.wh.doc": "",
        },
    ),
    (
        "RUN echo closing down > /etc/motd # buildkit",
        {
            "etc/motd": "The shop is closing down.\n",
            "srv/shop/server.py": "PORT = 8080\nprint(f'listening on {PORT}')\n",
            "srv/shop/.wh..profile": "",
        },
    ),
)


def _tar(files: Mapping[str, bytes]) -> bytes:
    """Return a tar of these files; a name that ends in a slash is a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.mtime, member.size = _MADE, len(content)
            member.mode = 0o644
            if name.endswith("/"):
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def archive() -> bytes:
    """Return the image in the layout of Docker 1.10 to 24."""
    tars = [_tar({name: text.encode() for name, text in files.items()}) for _, files in LAYERS]
    created = "2024-05-01T12:50:00Z"
    history = [{"created": created, "created_by": command} for command, _ in LAYERS]
    start = {"created": created, "created_by": 'CMD ["server.py"]', "empty_layer": True}
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["python3", "/srv/shop/server.py"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_hex(tar)}" for tar in tars]},
            "history": [*history, start],
        }
    )
    files: dict[str, bytes] = {}
    names = []
    for tar in tars:
        # A layer's directory is called by an id of its own, which nothing depends on.
        directory = _hex(b"layer of the shop" + tar)
        files |= {f"{directory}/": b"", f"{directory}/VERSION": b"1.0"}
        files |= {f"{directory}/json": _json({"id": directory}), f"{directory}/layer.tar": tar}
        names.append(f"{directory}/layer.tar")
    config_name = f"{_hex(config)}.json"
    item = {"Config": config_name, "RepoTags": ["shop:latest"], "Layers": names}
    files[config_name] = config
    return _tar({**dict(sorted(files.items())), "manifest.json": _json([item])})


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as out:
        out.write(archive())

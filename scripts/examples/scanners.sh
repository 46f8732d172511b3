#!/bin/sh
# Run Trivy or Syft, whichever is installed, on the mounted root of each image: scanners.sh SOURCE...
# They see plain directories, and nothing has to be pulled, loaded or extracted for them.

set -eu
mnt=$(mktemp -d)
trap 'imagefs unmount --lazy "$mnt" 2>/dev/null || true; rmdir "$mnt"' EXIT
for source; do
    imagefs mount --quiet --view rootfs "$source" "$mnt"
    echo "== $source"
    if command -v trivy >/dev/null; then
        trivy rootfs --quiet "$mnt"
    elif command -v syft >/dev/null; then
        syft --quiet "dir:$mnt"
    else
        echo "neither trivy nor syft is installed" >&2
        exit 1
    fi
    imagefs unmount "$mnt"
done

"""Every archive that engines and builders write, told apart by content alone.

    reader      opens what is at a path, or on standard input
    ingest      brings in what has to be decompressed or arrives by a pipe
    spool       takes such an archive apart: layers for the store, the rest in a `record`
    members     an archive's files by name; `beneath` finds those of a directory
    detect      which format it is; then docker, docker_v1, oci or rootfs_tar reads it
    descriptors tells images of registries from what else is in their shape
    docker_oci  adds to a docker-archive's images what its index.json knows of other platforms
    choice      which of several images or platforms is meant
    uncompress  makes the layers of the chosen one readable, by `compression` and its `windows`
    producer    which tool most likely wrote it

`model` is what they pass on to each other.
"""

"""Every archive that engines and builders write, told apart by content alone.

    archive     opens what is at a path, or on standard input
    spool       takes in what has to be decompressed or arrives by a pipe
    members     an archive's files by name; `beneath` finds those of a directory
    detect      which format it is; then docker_archive, docker_legacy, oci or rootfs_tar reads it
    descriptors tells images of registries from what else is in their shape
    platforms   adds to a docker-archive's images what its index.json knows of other platforms
    choice      which of several images or platforms is meant
    plain       makes the layers of the chosen one readable

`values` is what they pass on to each other.
"""

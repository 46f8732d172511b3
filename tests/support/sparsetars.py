"""Who writes sparse files into tars: every format there is, by the tools that write it."""

SPARSE_WRITERS = {
    "old-gnu": ("tar", "--format=gnu", "-S"),
    "pax-0.0": ("tar", "--format=posix", "-S", "--sparse-version=0.0"),
    "pax-0.1": ("tar", "--format=posix", "-S", "--sparse-version=0.1"),
    "pax-1.0": ("tar", "--format=posix", "-S", "--sparse-version=1.0"),
    "bsdtar": ("bsdtar", "--format=pax", "--read-sparse"),
}
"""The beginning of a command for each, up to what is to be packed and where."""

"""The drivers that put a `FileSystem` before the kernel: one native, one by way of libfuse."""

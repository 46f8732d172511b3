"""Fuzzing: each target is a function of bytes whose first line says what must hold.

`test_targets.py` runs all of them briefly with the suite; `./scripts/fuzz` runs them for long,
guided by coverage. What they find becomes a named case of the tests.
"""

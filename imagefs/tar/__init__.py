"""Bytes in, members out: the tar formats."""

"""The command line; only this prints."""

"""The OCI distribution API."""

"""Snapshot, load, the store that the service reads, replay and parity."""

import features.feast_store  # noqa: F401  (before Feast is imported)

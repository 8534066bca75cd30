import features.feast_store  # noqa: F401  (before Feast is imported)

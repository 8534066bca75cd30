"""Shapes at the model's tensor boundaries are checked in every test, whichever imports the model first."""

from jaxtyping import install_import_hook

install_import_hook(["training.losses", "training.model"], "beartype.beartype")

"""How the service was started -> the address on which it will listen: `--host`, BENTOML_HOST, or the configuration."""

import click
from bentoml._internal.configuration.containers import BentoMLContainer


def listening_host() -> str:
    """Asked before any worker is started, where BentoML says it in no other way (1.4.39)."""
    command = click.get_current_context(silent=True)
    told = command.params.get("host") if command else None
    return told or BentoMLContainer.http.host.get()

"""How the service was started -> the address on which it will listen: `--host`, BENTOML_HOST, or the configuration."""

import click
from bentoml._internal.configuration.containers import BentoMLContainer


def listening_host() -> str | None:
    """Asked before any worker is started, where BentoML says it in no other way (1.4.39); None where nobody typed a
    command: the gate then refuses what comes in by an address that others reach.
    """
    command = click.get_current_context(silent=True)
    return None if command is None else command.params.get("host") or BentoMLContainer.http.host.get()

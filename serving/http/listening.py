"""The command that started the service -> its future address: `--host`, BENTOML_HOST or the configuration."""

import click
from bentoml._internal.configuration.containers import BentoMLContainer


def listening_host() -> str | None:
    """The address, before any worker is started; BentoML 1.4.39 has no other way to ask. None if the service was not
    started by a command; the gate then refuses requests on addresses that other machines can reach.
    """
    command = click.get_current_context(silent=True)
    return None if command is None else command.params.get("host") or BentoMLContainer.http.host.get()

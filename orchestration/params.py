"""The section of params.yaml that belongs to orchestration. No stage reads it, so that a change makes nothing again."""

from contracts.section import Section, Several


class AlertParams(Section):
    """Who is told when a run or a check fails."""

    webhook: str | None  # an address that is sent a POST; $NAME in it is a variable of the environment
    command: Several[str] | None  # a program and its arguments, given the message on its standard input

"""params.yaml's source -> the identity of its log. What was kept for another log is refused, with what to do."""

from contracts.errors import InputError
from contracts.source_id import TABLE, fingerprint
from features.terms.params import SourceParams


def identity_of(source: SourceParams) -> str:
    """Which log this is, 12 hexadecimal digits: its fingerprint, or the one it had where source.same_as says so.

    What source.same_as says (<then>-<now>) holds for the path and columns that it was said of, and for no others.
    """
    now = _now(source)
    then, _, said_of = (source.same_as or "").partition("-")
    return then if said_of == now else now


def refuse_other(kept_for: str | None, source: SourceParams, what: str) -> None:
    """Raises InputError where what is kept belongs to another log. kept_for: an identity; None: from before there was
    one, which the first log that meets it takes over."""
    if kept_for in (None, identity_of(source)):
        return
    raise InputError(
        f"{what} came to another log (identity {kept_for}) than the one that source.id {source.id!r} names now "
        f"({source.name} {source.path}, identity {identity_of(source)}). If that is another log, give it a name of its "
        f'own, under which live events begin anew: `make set ARGS="source.id=..."`. If it is the same log, moved or '
        f'mapped anew: `make set ARGS="source.same_as={kept_for}-{_now(source)}"`.'
    )


def _now(source: SourceParams) -> str:
    return fingerprint(source.name, source.path, source.columns.model_dump() if source.name == TABLE else {})

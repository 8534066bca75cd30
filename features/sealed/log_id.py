"""The source in params.yaml -> the identity of its log, and the error where stored data belongs to another log."""

from contracts.errors import InputError
from contracts.source_id import TABLE, fingerprint
from features.terms.params import SourceParams


def identity_of(source: SourceParams) -> str:
    """The identity of the log, 12 hexadecimal digits: its fingerprint, or the earlier one that source.same_as gives.

    source.same_as (<then>-<now>) applies only while the fingerprint of path and columns is <now>.
    """
    now = _now(source)
    then, _, said_of = (source.same_as or "").partition("-")
    return then if said_of == now else now


def refuse_other(kept_for: str | None, source: SourceParams, what: str) -> None:
    """Raises InputError if stored data belongs to another log. kept_for: its identity; None: stored by a version
    without identities, which any log may take over."""
    if kept_for in (None, identity_of(source)):
        return
    raise InputError(
        f"{what} came to another log (identity {kept_for}) than the one that source.id {source.id!r} names now "
        f"({source.name} {source.path}, identity {identity_of(source)}). If this is a different log, give it its own "
        f'name, which starts with no live events: `make set ARGS="source.id=..."`. If it is the same log, moved or '
        f'with other columns: `make set ARGS="source.same_as={kept_for}-{_now(source)}"`.'
    )


def _now(source: SourceParams) -> str:
    return fingerprint(source.name, source.path, source.columns.model_dump() if source.name == TABLE else {})

"""The SQL of features/live/sqlite.py: the tables of a tail, and the statements that read and change them."""

from features.sealed.event import EVENT, OUTCOME, LiveEvent

VERSION = 2
"""Version of the tables; FROM_1 migrates version 1."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS log (
    seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL, revision INTEGER NOT NULL, user_id TEXT NOT NULL,
    item_id TEXT NOT NULL, occurred_at INTEGER NOT NULL, label REAL NOT NULL, role TEXT NOT NULL,
    in_history INTEGER NOT NULL, impression_id TEXT, position INTEGER, session_id TEXT, device TEXT,
    is_subscriber INTEGER, reading_item_id TEXT, known_at INTEGER,
    event_key INTEGER NOT NULL, current INTEGER NOT NULL, UNIQUE (event_id, revision)
);
CREATE INDEX IF NOT EXISTS by_user ON log (user_id, current, COUNTS_FROM, item_id, event_key);
CREATE TABLE IF NOT EXISTS forgotten (user TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
"""
"""current: whether the row is in its user's history: in_history, and not a show whose outcome counts from the same
time. user: hash_of."""
COUNTS_FROM = "max(occurred_at, ifnull(known_at, occurred_at))"
"""LiveEvent.counts_from."""
SCHEMA = SCHEMA.replace("COUNTS_FROM", COUNTS_FROM)
FROM_1 = f"""
ALTER TABLE log ADD COLUMN known_at INTEGER;
DROP INDEX by_user;
CREATE INDEX by_user ON log (user_id, current, {COUNTS_FROM}, item_id, event_key);
"""
"""Migrates a file of version 1."""
FIELDS = ", ".join(LiveEvent._fields)
NEWEST = "SELECT coalesce(max(seq), 0) FROM marks WHERE name = 'newest'"
PRUNED = "SELECT coalesce(max(seq), 0) FROM marks WHERE name = 'pruned'"
MARK = "INSERT INTO marks VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET seq = excluded.seq"
INSERT = (
    f"INSERT INTO log (seq, {FIELDS}, event_key, current) VALUES ({', '.join('?' * (len(LiveEvent._fields) + 3))}) "
    "ON CONFLICT (event_id, revision) DO NOTHING"
)
OUTCOME_HELD = f"SELECT 1 FROM log WHERE event_id = ? AND revision = {OUTCOME} AND in_history AND {COUNTS_FROM} <= ?"
SUPERSEDE = f"UPDATE log SET current = 0 WHERE event_id = ? AND revision = {EVENT} AND {COUNTS_FROM} >= ?"
HISTORY = (
    f"SELECT {FIELDS} FROM log WHERE user_id = ? AND current = 1 "
    f"ORDER BY {COUNTS_FROM} DESC, item_id DESC, event_key DESC LIMIT ?"
)
BEHIND = ("behind", "behind_end", "behind_loaded")
"""The marks of a clock.Behind, in the order of its fields."""
FORGOTTEN = "SELECT 1 FROM forgotten WHERE user = ?"
HELD = f"SELECT {FIELDS} FROM log WHERE event_id = ? ORDER BY revision LIMIT 1"
SECRETS = "CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"

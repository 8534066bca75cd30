"""The servers that have a key -> their append-only files rewritten, so that they keep no bytes of what was deleted."""

import logging
import time

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from features.live.deadline import left_s
from features.live.redis_durable import is_forbidden
from features.live.redis_servers import POLL_S, Servers, name_of

WAITED_S = 30.0
UNDER_WAY = (
    "The Redis at %s has been rewriting its append-only file for more than %g s: bytes of forgotten users stay in it "
    "until the next rewrite. Once this one has ended, order it: `redis-cli -p %s BGREWRITEAOF`."
)
log = logging.getLogger("leitmotif")


def rewrite(servers: Servers, key: str) -> None:
    """Order a rewrite, in the background, of a key's server and, in a cluster, of its connected replicas.

    A rewrite that is under way began with the data of before, and Redis refuses to plan another: it is waited for, for
    WAITED_S or what is left of a request, and then logged. A server that forbids the command rewrites when its owner
    says. A replica that is disconnected and resumes later keeps its old file until that is rewritten.
    """
    wait_s = left_s(WAITED_S)
    until = time.monotonic() + wait_s
    for server in servers.copies(key):
        try:
            while not _is_ordered(server):
                if time.monotonic() > until:
                    name = name_of(server)
                    log.warning(UNDER_WAY, name, wait_s, name.rpartition(":")[2])
                    break
                time.sleep(POLL_S)
        except ResponseError:
            raise
        except RedisError:  # a replica that is away
            if server is servers.of(key):
                raise


def _is_ordered(server: Redis) -> bool:
    """Order a rewrite: False while one of before is under way."""
    try:
        server.bgrewriteaof()
    except ResponseError as error:
        if "in progress" in str(error):
            return False
        if not is_forbidden(error):
            raise
    return True

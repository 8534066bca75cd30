"""GET / -> the web page; GET /page/<version>/<file> -> its files, which browsers may cache.

The version is a hash of all files, so a page never loads scripts of another version.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FILES = Path(__file__).resolve().parent.parent / "page"
INDEX = "index.html"
VERSION = b"{{version}}"
"""The placeholder in the page's links to its files."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SAFE = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
"""Scripts, styles and data only from this service, and no embedding in frames."""
CACHED = {"cache-control": "public, max-age=31536000, immutable"}
REVALIDATED = {"cache-control": "no-cache"}


async def index(request: Request) -> Response:
    """GET /: the page itself."""
    version, files = page()
    etag = f'"{version}"'
    headers = SAFE | REVALIDATED | {"etag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(files[INDEX], media_type=TYPES[".html"], headers=headers)


async def part(request: Request) -> Response:
    """GET /page/<version>/<file>: 404 for files of another version."""
    version, files = page()
    name = request.path_params["name"]
    if request.path_params["version"] != version or name not in files or name == INDEX:
        raise HTTPException(404)
    return Response(files[name], media_type=TYPES[Path(name).suffix], headers=SAFE | CACHED)


@lru_cache(maxsize=1)
def page() -> tuple[str, dict[str, bytes]]:
    """The version and the bytes of each file, read once per process."""
    files = {path.name: path.read_bytes() for path in sorted(FILES.iterdir()) if path.suffix in TYPES}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    version = digest.hexdigest()[:16]
    return version, files | {INDEX: files[INDEX].replace(VERSION, version.encode())}


ROUTES = [
    Route("/", index),
    Route("/page/{version}/{name}", part),
]

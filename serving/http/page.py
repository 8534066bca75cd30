"""GET / -> the page where people see a theme turn; GET /page/<version>/<file> -> what it is made of, kept by browsers.

The version is a hash of all its files, so that a page and its scripts are always of one make.
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
"""Where the page names its files."""
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
"""Scripts, styles and data from this service alone, in nobody's frame."""
KEPT = {"cache-control": "public, max-age=31536000, immutable"}
ASKED_AGAIN = {"cache-control": "no-cache"}


async def index(request: Request) -> Response:
    """GET /: the page itself."""
    version, files = page()
    etag = f'"{version}"'
    headers = SAFE | ASKED_AGAIN | {"etag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(files[INDEX], media_type=TYPES[".html"], headers=headers)


async def part(request: Request) -> Response:
    """GET /page/<version>/<file>: 404 for a file of another version, which would not fit."""
    version, files = page()
    name = request.path_params["name"]
    if request.path_params["version"] != version or name not in files or name == INDEX:
        raise HTTPException(404)
    return Response(files[name], media_type=TYPES[Path(name).suffix], headers=SAFE | KEPT)


@lru_cache(maxsize=1)
def page() -> tuple[str, dict[str, bytes]]:
    """The version and the bytes of each file, read once a process."""
    files = {path.name: path.read_bytes() for path in sorted(FILES.iterdir()) if path.suffix in TYPES}
    told = hashlib.sha256()
    for name, content in files.items():
        told.update(f"{name}\0{len(content)}\0".encode() + content)
    version = told.hexdigest()[:16]
    return version, files | {INDEX: files[INDEX].replace(VERSION, version.encode())}


ROUTES = [
    Route("/", index),
    Route("/page/{version}/{name}", part),
]

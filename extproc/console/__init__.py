"""The console: a page for browsers that shows what a process does. Files only, and their paths; nothing is built.

Whatever comes from a run, a model or a client is put into the page as text (`static/dom.js` knows no other way). Add a
page: a module in `static/` with one function, and its line in `PAGES` of `app.js`. May import nothing of ours.
"""

import hashlib
from dataclasses import dataclass
from importlib.resources import files as resources

_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class File:
    """A file as browsers get it."""

    data: bytes
    type: str
    etag: str


def files() -> dict[str, File]:
    """The files by the paths where they are served; the page itself is at `/`."""
    found = {}
    for each in resources(__name__).joinpath("static").iterdir():
        data = each.read_bytes()
        type = _TYPES[each.name.rpartition(".")[2]]
        path = "/" if each.name == "index.html" else f"/console/{each.name}"
        found[path] = File(data, type, f'"{hashlib.sha256(data).hexdigest()[:16]}"')
    return found

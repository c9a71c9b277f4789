"""The processor's own HTTP interface: what is at work, what runs did, and the console that shows it.

`app` has the paths, `guard` says who may ask, `live` tells what happens as it happens, `playground` hands requests on,
`scraped` is for Prometheus alone.
"""

from extproc.serving.admin.app import Access, admin
from extproc.serving.admin.facts import Facts
from extproc.serving.admin.guard import token_in
from extproc.serving.admin.scraped import scraped

__all__ = ["Access", "Facts", "admin", "scraped", "token_in"]

"""The processor's own HTTP interface: what is at work, what runs did, and the console that shows it.

`app` has the paths, `guard` says who may ask, `live` tells what happens as it happens, `playground` hands requests on.
"""

from extproc.serving.admin.app import Access, admin
from extproc.serving.admin.facts import Facts
from extproc.serving.admin.guard import token_in

__all__ = ["Access", "Facts", "admin", "token_in"]

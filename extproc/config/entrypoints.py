"""What clients ask for by name: the recipe that it leads to, and who is told from whom there."""

from looper.patterns.workflows.pauses.state import Identity
from looper.settings import Setting

OTHER = "other"
"""The tenant of whoever is not on the list, and of whom nobody says anything."""


class Entrypoint(Setting):
    """A public name with more than its recipe: who is told from whom, as `limits.tenants` lists them."""

    recipe: str
    tenant: Identity | None = None

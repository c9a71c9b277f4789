"""Paths that are none of ours, and which go to a model of the operator's choice as they come."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from extproc import paths
from looper.settings import Name, Setting

_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()+,=:@-]+)+")


def _check_path(path: str) -> str:
    """The path, without the `/*` that says what goes without saying: what is below it goes with it."""
    bare = path.removesuffix("*").rstrip("/")
    if not _PATH.fullmatch(bare) or {".", ".."} & set(bare.split("/")):
        raise ValueError(
            f"{path!r} is no path such as /v1/files, which stands for all below it, too"
        )
    for ours in (paths.CHAT, paths.MODELS):
        if f"{bare}/".startswith(f"{ours}/"):
            raise ValueError(f"{ours} is answered here, and passes to nobody")
    return bare


PassedPath = Annotated[str, AfterValidator(_check_path)]


class Passthrough(Setting):
    """Paths, each with all that is below it, that lead to a model byte for byte; no recipe sees these requests."""

    model: Name = Field(description="whose `url` stands in place of /v1, and whose key goes along")
    paths: tuple[PassedPath, ...] = Field(min_length=1, description="such as /v1/files")

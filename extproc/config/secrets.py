"""What a reference to a secret refers to."""

from collections.abc import Mapping
from pathlib import Path

from extproc.errors import ConfigError
from looper.settings import SecretReference
from looper.settings.files import read_text


def secret(reference: SecretReference, environment: Mapping[str, str], where: str) -> str:
    """Raises ConfigError if it is not there, which names the place `where` it is asked for and never what it is."""
    if reference.env is not None:
        if not (found := environment.get(reference.env, "").strip()):
            raise ConfigError([f"{where}: {reference.env} is not set in the environment"])
        return found
    assert reference.file is not None
    try:
        found = read_text(Path(reference.file)).strip()
    except OSError:
        raise ConfigError([f"{where}: {reference.file} cannot be read"]) from None
    if not found:
        raise ConfigError([f"{where}: {reference.file} is empty"])
    return found

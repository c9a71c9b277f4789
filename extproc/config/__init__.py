"""The configuration: what may stand in it, how it is read, and what must hold between its parts."""

from extproc.config.lint import warnings
from extproc.config.load import load_config, parse_config
from extproc.config.model import (
    Address,
    Config,
    Egress,
    EnvoySettings,
    Limits,
    check_address,
)

__all__ = [
    "Address",
    "Config",
    "Egress",
    "EnvoySettings",
    "Limits",
    "check_address",
    "load_config",
    "parse_config",
    "warnings",
]

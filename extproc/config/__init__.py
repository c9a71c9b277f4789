"""The configuration: what may stand in it, how it is read, and what must hold between its parts.

`model` is the root; settings of a part stand beside the part. `checks` are errors, `lint` warns. May import `decisions`
and below.
"""

from extproc.config.addresses import Address, Egress, check_address
from extproc.config.lint import absences, warnings
from extproc.config.load import Loaded, load, load_config, parse, parse_config
from extproc.config.model import Config, EnvoySettings, Limits

__all__ = [
    "Address",
    "Config",
    "Egress",
    "EnvoySettings",
    "Limits",
    "Loaded",
    "absences",
    "check_address",
    "load",
    "load_config",
    "parse",
    "parse_config",
    "warnings",
]

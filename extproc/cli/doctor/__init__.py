"""`looper doctor`: whether models and Envoy are what the configuration takes them for."""

from extproc.cli.doctor.examine import Places, examine
from extproc.cli.doctor.findings import Finding, as_json, as_table, has_failed

__all__ = ["Finding", "Places", "as_json", "as_table", "examine", "has_failed"]

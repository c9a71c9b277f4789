"""The official test suite of JSON Schema, for the drafts that are checked.

It is in `json_schema_suite.tar.xz`, with its licence: what the source archive of `jsonschema` 4.26.0 has below `json`,
but for drafts that are not checked, formats, and what tests would have to fetch. A copy of 38 kB needs no network, and
does not change from one day to the next.
"""

import json
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from looper.contract.json_schema import Schema
from looper.contract.json_text import parse

SUITE = Path(__file__).with_name("json_schema_suite.tar.xz")
DRAFTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
LEFT_OPEN = {
    (
        "draft4",
        "optional/zeroTerminatedFloats",
    ),  # 1.0 is an integer in all other drafts, and models write it
    ("draft7", "optional/content"),  # what is inside a string is a remark, as `format` is
}
"""What a draft leaves open, and is not done here: these are lenient and are not named."""
PARTS = {"draft4": 610, "draft6": 829, "draft7": 913, "draft2019-09": 1_227, "draft2020-12": 1_257}
"""How many tests each draft has, without those of what it leaves open."""


@cache
def files() -> dict[tuple[str, str], bytes]:
    with tarfile.open(SUITE) as archive:
        members = [each for each in archive if each.isfile() and each.name.endswith(".json")]
        texts = {each.name: archive.extractfile(each) for each in members}
        found = {name: each.read() for name, each in texts.items() if each is not None}
    split = {name.removesuffix(".json").partition("/"): text for name, text in found.items()}
    return {(draft, part): text for (draft, _, part), text in split.items()}


def cases(draft: str) -> Iterator[tuple[str, str, Any, list[dict[str, Any]]]]:
    for (of, part), text in files().items():
        if of == draft:
            for group in json.loads(text):
                yield part, f"{part}: {group['description']}", group["schema"], group["tests"]


@pytest.mark.parametrize("draft", DRAFTS)
def test_no_draft_is_misread(draft: str) -> None:
    """Every schema is taken, every valid value fits, and what fits though it is invalid has something that is named."""
    wrong, count, named = [], 0, 0
    for part, title, schema, tests in cases(draft):
        if isinstance(schema, dict):
            schema = {"$schema": DRAFTS[draft], **schema}
        compiled = Schema(json.dumps(schema))
        for test in tests:
            fits = compiled.fault(parse(json.dumps(test["data"]))) is None
            lenient = fits and not test["valid"]
            count += not part.startswith("optional/")
            named += lenient and bool(compiled.unchecked)
            excused = lenient and (compiled.unchecked or (draft, part) in LEFT_OPEN)
            if fits is not test["valid"] and not excused:
                wrong.append(f"{title}: {test['description']}")
    assert wrong == []
    assert count == PARTS[draft]
    assert named < 50  # references to what would have to be fetched, mostly


@pytest.mark.parametrize("draft", ["draft4", "draft6", "draft7"])
def test_an_older_schema_is_known_by_its_shape(draft: str) -> None:
    """Without its draft's name, no older schema is refused, and no value that it allows."""
    wrong = [
        f"{title}: {test['description']}"
        for _, title, schema, tests in cases(draft)
        for test in tests
        if test["valid"] and Schema(json.dumps(schema)).fault(parse(json.dumps(test["data"])))
    ]
    assert wrong == []

"""From a document to nodes. No schema is compiled within another one, so that a chain of references costs no stack."""

from collections.abc import Callable, Mapping

from looper.contract.json_schema import ecma
from looper.contract.json_schema.drafts import NEWEST, Draft
from looper.contract.json_schema.places import Places
from looper.contract.json_schema.read import Malformed
from looper.contract.json_schema.work import ANY, Checks, Marks, Node, everything, never, shorten
from looper.contract.json_text import Json
from looper.contract.patterns import Pattern

_MOST_PATTERNS = 100
_PATTERN_MEMORY = 256 << 10
_LONGEST, _WRITTEN_OUT = 1_000, 100_000


class BadSchema(ValueError):
    """A schema that is none. The text names keywords and limits only."""


class Compiler:
    """Compiles a document with its keywords' `checks` and `marks`. What cannot be checked is in `unchecked`."""

    def __init__(
        self,
        root: Json,
        checks: "Mapping[str, KeywordChecks]",
        marks: "Mapping[str, KeywordMarks]",
        *,
        cautious: bool = False,
    ) -> None:
        self.places = Places(root)
        self._checks = checks
        self._marks = marks
        self._nodes: dict[int, Node] = {}
        self._pending: list[tuple[dict[str, Json], Node]] = []
        self._patterns: dict[str, Pattern | None] = {}
        self.cautious = cautious
        """Whether nothing may depend on what does not hold, because of some schemas that is not known."""
        self.unchecked: list[str] = []

    def compile(self) -> Node:
        """Raises BadSchema."""
        root = self.node(self.places.root)
        while self._pending:
            self._compile(*self._pending.pop())
        return root

    def node(self, schema: Json) -> Node:
        """The node of a schema; its checks are there once all is compiled."""
        if isinstance(schema, bool):
            node = Node()
            if not schema:
                node.add(dict.fromkeys(ANY, never))
            return node
        if not isinstance(schema, dict):
            raise BadSchema("a schema is an object, or true or false")
        # One schema may be reached by several references, and by one from within itself.
        if id(schema) not in self._nodes:
            self._nodes[id(schema)] = Node()
            self._pending.append((schema, self._nodes[id(schema)]))
        return self._nodes[id(schema)]

    def draft(self, schema: Json) -> Draft:
        return self.places.of(schema).draft or NEWEST

    def _compile(self, schema: dict[str, Json], node: Node) -> None:
        draft = self.places.of(schema).draft
        if draft is None:
            self.unchecked.append("$schema")
            node.add_marks({dict: everything, list: everything})
            return
        known = self._checks.keys() - draft.ignored
        counting = {"$ref"} if draft.alone and "$ref" in schema else schema.keys() & known
        # In the order in which they are written, but for those that ask what the others have looked at.
        written = [keyword for keyword in schema if keyword in counting]
        for keyword in sorted(written, key=lambda each: each.startswith("unevaluated")):
            try:
                node.add(self._checks[keyword](self, schema[keyword], schema))
            except Malformed as error:
                raise BadSchema(f"`{keyword}` {error}") from None
            if keyword in self._marks:
                node.add_marks(self._marks[keyword](self, schema[keyword], schema))

    def pattern(self, source: str) -> Pattern | None:
        """The pattern, or None if it cannot be checked in bounded time."""
        if source not in self._patterns:
            self._patterns[source] = self._compiled(source)
        return self._patterns[source]

    def _compiled(self, source: str) -> Pattern | None:
        try:
            if len(self._patterns) < _MOST_PATTERNS and len(source) <= _LONGEST:
                return Pattern(ecma.as_re2(source), _PATTERN_MEMORY, _WRITTEN_OUT)
        except ValueError:
            pass
        self.unchecked.append(f"pattern {shorten(source)}")
        return None

    def referred(self, reference: str, schema: Json) -> Node | None:
        """What a schema refers to, or None if that is not in the document."""
        try:
            return self.node(self.places.target(reference, self.places.of(schema)))
        except LookupError:
            self.unchecked.append(f"$ref {shorten(reference)}")
            return None


KeywordChecks = Callable[[Compiler, Json, Json], Checks]
KeywordMarks = Callable[[Compiler, Json, Json], Marks]

"""Headers of clients that no model gets, but for those that one model is to have."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_mutation
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Value

from extproc import headers
from extproc.bootstrap.forwarding import GROWTH
from extproc.bootstrap.messages import header, literal
from extproc.bootstrap.upstreams import Upstream
from extproc.config import Config
from looper.calling.models import Model

_ASIDE = "x-looper-kept-"


@dataclass(frozen=True, slots=True)
class Dropped:
    """What is dropped, and kept for some; a name that ends in `*` stands for all that begin so."""

    names: Sequence[str]
    kept: dict[str, Sequence[str]]

    @classmethod
    def of(cls, config: Config) -> "Dropped":
        names = (*headers.NOT_FOR_BACKENDS, *headers.DROPPED, *config.envoy.drop_headers)
        return cls(tuple(dict.fromkeys(names)), dict(config.envoy.keep_headers))

    @property
    def everywhere(self) -> list[str]:
        """Names that no model is to have."""
        return [name for name in self._whole if name not in self._kept_by_some]

    def at(self, model: Model) -> list[str]:
        """Names that some models are to have, and this one is not."""
        mine = self.kept.get(model.name, ())
        return [name for name in self._whole if name in self._kept_by_some and name not in mine]

    def mutations(self, model: Model) -> header_mutation.HeaderMutationPerRoute:
        """What routes do to headers, of a model's answers too: some of them would have Envoy or a client do things.

        Where a beginning is dropped, what is kept of it is put aside in the meantime."""
        mine = self.kept.get(model.name, ())
        prefixes = [name[:-1] for name in self.names if name.endswith("*") and name not in mine]
        saved = [name for name in mine if name.startswith(tuple(prefixes))]
        places = [f"{_ASIDE}{number}" for number in range(len(saved))]
        return header_mutation.HeaderMutationPerRoute(
            mutations=header_mutation.Mutations(
                request_mutations=[
                    *_copied(saved, places),
                    *(_without(prefix) for prefix in prefixes),
                    *_copied(places, saved),
                    *([_without(_ASIDE)] if saved else ()),
                ],
                request_trailers_mutations=[_without(GROWTH)],
                query_parameter_mutations=query_of(model),
                response_mutations=[_without("x-envoy-")],
            )
        )

    @property
    def _whole(self) -> list[str]:
        return [name for name in self.names if not name.endswith("*")]

    @property
    def _kept_by_some(self) -> frozenset[str]:
        return frozenset(name for names in self.kept.values() for name in names)


def query_of(model: Model) -> list[core.KeyValueMutation]:
    """The query of the model's URL, which a client's own adds to, but does not change."""
    mutations, seen = [], set[str]()
    action = core.KeyValueAppendKeyValueAppendAction
    for name, value in Upstream.of(model).query:
        record = core.KeyValuePair(key=name, value=Value(string_value=literal(value)))
        how = action.APPEND_IF_EXISTS_OR_ADD if name in seen else action.OVERWRITE_IF_EXISTS_OR_ADD
        mutations.append(
            core.KeyValueMutation(append=core.KeyValueAppend(record=record, action=how))
        )
        seen.add(name)
    return mutations


def _copied(names: Sequence[str], others: Sequence[str]) -> Iterator[mutation.HeaderMutation]:
    for name, other in zip(names, others, strict=True):
        yield mutation.HeaderMutation(append=header(other, f"%REQ({name})%"))


def _without(prefix: str) -> mutation.HeaderMutation:
    return mutation.HeaderMutation(
        remove_on_match=mutation.HeaderMutationRemoveOnMatch(
            key_matcher=matcher.StringMatcher(prefix=prefix)
        )
    )

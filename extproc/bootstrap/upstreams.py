"""Where a model is: host, port, path, and the names of its route and cluster."""

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from extproc.bootstrap.messages import is_ip
from looper.calling.models import Model

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Upstream:
    """A model's URL, taken apart. Without one, its cluster knows where it is, and what it is called there."""

    tls: bool
    host: str
    port: int
    authority: str | None
    path: str
    query: tuple[tuple[str, str], ...] = ()
    """Names and values. Envoy quotes them again."""

    @classmethod
    def of(cls, model: Model) -> "Upstream":
        if model.url is None:
            return cls(False, "", 0, None, "/v1")
        url = urlsplit(model.url)
        host = url.hostname or ""
        port = url.port or _DEFAULT_PORTS[url.scheme]
        authority = f"[{host}]" if ":" in host else host
        if port != _DEFAULT_PORTS[url.scheme]:
            authority += f":{port}"
        query = tuple(_pair(each) for each in url.query.split("&") if each)
        return cls(url.scheme == "https", host, port, authority, url.path.rstrip("/"), query)

    @property
    def is_ip(self) -> bool:
        return is_ip(self.host)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return unquote(name), unquote(value)


def cluster_name(model: Model) -> str:
    """The operator's own, or one distinct from every cluster that is not a model, whatever the model is called."""
    return model.cluster or f"model:{model.name}"


def stat_name(model: Model) -> str:
    """The cluster's name in statistics: Envoy ends a cluster's name at its first dot there."""
    return cluster_name(model).replace(".", "_")

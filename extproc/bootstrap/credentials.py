"""Models' keys: Envoy reads them from files or its environment, and adds them as a call leaves. Python never does."""

import hashlib
import re
from pathlib import PurePosixPath

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.http.credential_injector.v3 import CredentialInjector
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import UpstreamCodec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic.v3 import Generic
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls

from extproc.bootstrap.messages import extension, http_filter, watched_file
from extproc.config import Config
from looper.calling.models import ApiKey


def from_environment(config: Config) -> list[tls.Secret]:
    """One static secret for each variable. Envoy reads them as it starts, and rejects a model's cluster without."""
    variables = {model.api_key.env for model in config.models if model.api_key}
    return [
        _secret(f"env:{variable}", core.DataSource(environment_variable=variable))
        for variable in sorted(filter(None, variables))
    ]


def files(config: Config) -> list[str]:
    """The files that keys are in, each once."""
    paths = {model.api_key.file for model in config.models if model.api_key}
    return sorted(filter(None, paths))


def from_file(path: str) -> tls.Secret:
    """A secret that Envoy reads again when its file is replaced."""
    return _secret(f"file:{path}", core.DataSource(filename=path))


def sds_name(path: str, *beside: str) -> str:
    """The name of the file that tells Envoy of the secret at `path`, and `beside` it: no other secret shares it."""
    readable = re.sub("[^A-Za-z0-9]+", "-", PurePosixPath(path).name).strip("-")[:64]
    whole = chr(0).join((path, *beside))
    return f"sds-{readable}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}.yaml"


def injector(key: ApiKey, directory: str | None) -> list[HttpFilter]:
    """The upstream filters that put a key into each attempt, over whatever may stand there."""
    generic = Generic(
        credential=_reference(key, directory),
        header=key.header,
        header_value_prefix=key.value_prefix,
    )
    return [
        http_filter(
            "envoy.filters.http.credential_injector",
            CredentialInjector(
                overwrite=True,
                credential=extension("envoy.http.injected_credentials.generic", generic),
            ),
        ),
        # Envoy insists on it as the last of the filters upstream.
        http_filter("envoy.filters.http.upstream_codec", UpstreamCodec()),
    ]


def _secret(name: str, source: core.DataSource) -> tls.Secret:
    return tls.Secret(name=name, generic_secret=tls.GenericSecret(secret=source))


def _reference(key: ApiKey, directory: str | None) -> tls.SdsSecretConfig:
    if key.file is None:
        return tls.SdsSecretConfig(name=f"env:{key.env}")
    if directory is None:  # then it is one of Envoy's own secrets, too
        return tls.SdsSecretConfig(name=f"file:{key.file}")
    # What changes is the key, beside which this watches; the file that names it never does.
    mount = str(PurePosixPath(key.file).parent)
    source = watched_file(directory, sds_name(key.file), watch=mount)
    return tls.SdsSecretConfig(name=f"file:{key.file}", sds_config=source)

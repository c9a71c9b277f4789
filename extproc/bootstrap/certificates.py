"""Certificates that Envoy proves itself with: files that it reads again when they are replaced."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls

from extproc.bootstrap.credentials import sds_name
from extproc.bootstrap.messages import pack, watched_file
from extproc.config import Config
from extproc.config.overlay import DownstreamTls
from looper.calling.models import Tls


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key."""

    certificate: str
    key: str

    @classmethod
    def of(cls, settings: Tls | DownstreamTls) -> "Pair | None":
        if settings.certificate is None or settings.key is None:
            return None
        return cls(settings.certificate, settings.key)

    @property
    def name(self) -> str:
        return f"certificate:{self.certificate}:{self.key}"

    @property
    def file(self) -> str:
        """The file that tells Envoy of it."""
        return sds_name(self.certificate, self.key)

    def secret(self) -> tls.Secret:
        """Both files are read together, when something is renamed in the folder of the first."""
        folder = str(PurePosixPath(self.certificate).parent)
        return tls.Secret(
            name=self.name,
            tls_certificate=tls.TlsCertificate(
                certificate_chain=core.DataSource(filename=self.certificate),
                private_key=core.DataSource(filename=self.key),
                watched_directory=core.WatchedDirectory(path=folder),
            ),
        )

    def reference(self, directory: str | None) -> tls.SdsSecretConfig:
        """By its file in the folder, or where there is none, by its name among Envoy's own secrets."""
        if directory is None:
            return tls.SdsSecretConfig(name=self.name)
        return tls.SdsSecretConfig(name=self.name, sds_config=watched_file(directory, self.file))


def pairs(config: Config) -> list[Pair]:
    """All that the configuration names, each once."""
    return list(dict.fromkeys(filter(None, _pairs(config))))


def _pairs(config: Config) -> Iterator[Pair | None]:
    if config.envoy.tls is not None:
        yield Pair.of(config.envoy.tls)
    for model in config.models:
        yield Pair.of(model.tls)


def downstream(settings: DownstreamTls, directory: str | None) -> core.TransportSocket:
    """How a listener speaks TLS, and whose certificates it wants of clients."""
    pair = Pair.of(settings)
    assert pair is not None
    common = tls.CommonTlsContext(
        alpn_protocols=["h2", "http/1.1"],
        tls_certificate_sds_secret_configs=[pair.reference(directory)],
    )
    asked = settings.client_ca is not None
    if asked:
        common.validation_context = tls.CertificateValidationContext(
            trusted_ca=core.DataSource(filename=str(settings.client_ca))
        )
    context = tls.DownstreamTlsContext(
        common_tls_context=common,
        require_client_certificate=asked and settings.client_certificate == "required",
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))

"""A certificate authority that also issues what no authority should."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from airloom.identity import ROLE_URI, Role, role_host
from testbed.certificates import make_authority

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Authority:
    """Certificates in a folder, by name."""

    folder: Path

    @staticmethod
    def make(folder: Path) -> Authority:
        """Make the authority's own key."""
        make_authority(folder)
        return Authority(folder)

    def settings(self, name: str) -> dict[str, str]:
        """How an agent of that name is told its certificate."""
        paths = {"ca": "ca.crt", "certificate": f"{name}.crt", "key": f"{name}.key"}
        return {field: str(self.folder / file) for field, file in paths.items()}

    def credentials(self, name: str) -> grpc.ChannelCredentials:
        """For a client that shows the certificate of that name."""
        files = [self.folder / file for file in ("ca.crt", f"{name}.key", f"{name}.crt")]
        return grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))

    def issue(self, name: str, *roles: str) -> None:
        """A certificate for an agent on this machine, with roles; with none as before there were any."""
        hosts = [x509.DNSName(role_host(Role(role))) for role in roles]
        self.issue_for(name, [x509.DNSName(name), *hosts], roles)

    def issue_for(
        self, file: str, names: Sequence[x509.GeneralName], roles: Sequence[str] = ()
    ) -> None:
        """A certificate for any names at all."""
        ca = x509.load_pem_x509_certificate((self.folder / "ca.crt").read_bytes())
        ca_key = serialization.load_pem_private_key((self.folder / "ca.key").read_bytes(), None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.timezone.utc)
        day = datetime.timedelta(days=1)
        subjects = [
            *names,
            x509.IPAddress(ipaddress.ip_address(_LOOPBACK)),
            *(x509.UniformResourceIdentifier(f"{ROLE_URI}{role}") for role in roles),
        ]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, file)]))
            .issuer_name(ca.subject)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + 30 * day)
            .public_key(key.public_key())
            .add_extension(x509.SubjectAlternativeName(subjects), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        (self.folder / f"{file}.crt").write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
        )
        (self.folder / f"{file}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

"""A local certificate authority, certificates for agents, and keys for encrypted telemetry."""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import zmq.auth
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from airloom.errors import ConfigurationError
from airloom.identity import NAME_PATTERN, ROLE_DOMAIN, ROLE_URI, Role, role_host

DAYS = 825
"""That a certificate is valid for, unless said otherwise."""
MOST_DAYS = 3650
"""As long as the authority itself."""
_CA = "ca"


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _builder(subject: x509.Name, issuer: x509.Name, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        # Boards without a battery-backed clock start in the past.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def make_authority(folder: Path) -> None:
    """Write ca.crt and ca.key, unless they are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{_CA}.crt").exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("airloom local CA")
    certificate = (
        _builder(name, name, MOST_DAYS)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_private(folder / f"{_CA}.key", _key_pem(key))
    (folder / f"{_CA}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def issue(
    folder: Path,
    name: str,
    hosts: Sequence[str] = (),
    *,
    roles: Sequence[Role] = (),
    days: int = DAYS,
) -> None:
    """Write NAME.crt and NAME.key, signed by the folder's authority, valid for the hosts.

    No role is that of a device.

    Raises:
        ConfigurationError: the name is no agent's, or a host is the name of a role.
    """
    _check_names(name, hosts)
    ca = x509.load_pem_x509_certificate((folder / f"{_CA}.crt").read_bytes())
    ca_key = serialization.load_pem_private_key((folder / f"{_CA}.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(_name(name), ca.subject, days)
        .public_key(key.public_key())
        .add_extension(
            x509.SubjectAlternativeName(list(_alternative_names(name, hosts, roles))),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    _write_private(folder / f"{name}.key", _key_pem(key))
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _check_names(name: str, hosts: Sequence[str]) -> None:
    if not re.fullmatch(NAME_PATTERN, name) or name == _CA:
        raise ConfigurationError(
            f"{name!r} is no agent's name: 1 to 64 letters, digits, _ . - (and not {_CA})"
        )
    for each in (name, *hosts):
        if each.lower().endswith(ROLE_DOMAIN):
            raise ConfigurationError(
                f"{each!r} is what certificates with a role are called: give the role with --role"
            )


def _alternative_names(
    name: str, hosts: Sequence[str], roles: Sequence[Role]
) -> Iterator[x509.GeneralName]:
    """Names that a certificate is valid for; the first is the agent's own."""
    yield x509.DNSName(name)
    for host in hosts:
        try:
            yield x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            yield x509.DNSName(host)
    for role in roles:
        yield x509.UniformResourceIdentifier(f"{ROLE_URI}{role.value}")
        yield x509.DNSName(role_host(role))


def make_curve_keys(folder: Path, name: str) -> Path:
    """Write ZeroMQ's NAME.key (public) and NAME.key_secret for telemetry; return the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    _, secret = zmq.auth.create_certificates(folder, name)
    Path(secret).chmod(0o600)
    return Path(secret)

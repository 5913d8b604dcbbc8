"""A local certificate authority, certificates for agents, and keys for encrypted telemetry."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

import zmq.auth
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

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
        _builder(name, name, 3650)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_private(folder / f"{_CA}.key", _key_pem(key))
    (folder / f"{_CA}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def issue(folder: Path, name: str, hosts: Sequence[str] = ()) -> None:
    """Write NAME.crt and NAME.key, signed by the folder's authority, valid for the hosts."""
    ca = x509.load_pem_x509_certificate((folder / f"{_CA}.crt").read_bytes())
    ca_key = serialization.load_pem_private_key((folder / f"{_CA}.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(_name(name), ca.subject, 825)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    _write_private(folder / f"{name}.key", _key_pem(key))
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def make_curve_keys(folder: Path, name: str) -> Path:
    """Write ZeroMQ's NAME.key (public) and NAME.key_secret for telemetry; return the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    _, secret = zmq.auth.create_certificates(folder, name)
    Path(secret).chmod(0o600)
    return Path(secret)

"""A certificate authority of one's own, and a server's certificate by it, made for one test."""

import ssl
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.stores import LOOPBACK

if TYPE_CHECKING:
    from cryptography import x509

ALWAYS = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def authority_and_server(folder: Path, *names: str) -> tuple[Path, ssl.SSLContext]:
    """The file with the authority's certificate, and what a server on loopback needs, which may stand for servers with these names."""
    pytest.importorskip("cryptography", reason="makes the certificates; moto brings it")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority of the tests")])

    def certificate(
        name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType, is_authority: bool
    ) -> x509.Certificate:
        builder = x509.CertificateBuilder(authority_name, name, key.public_key(), x509.random_serial_number(), *ALWAYS)
        builder = builder.add_extension(x509.BasicConstraints(is_authority, None), critical=True).add_extension(extension, critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
        return builder.add_extension(identifier, critical=False).sign(authority_key, hashes.SHA256())

    authority = certificate(authority_name, authority_key, x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), True)
    served = x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK)), *(_general_name(name) for name in names)])
    server = certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]), server_key, served, False)
    (folder / "authority.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (folder / "server.pem").write_bytes(
        server_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + server.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return folder / "authority.pem", context


def _general_name(name: str) -> "x509.GeneralName":
    """A name, or an address, as a certificate has it."""
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)

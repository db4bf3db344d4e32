"""Certificates of every kind, good and bad."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import trustme
from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from raftkv.transport.tcp import Tls

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
BOTH = (SERVER, CLIENT)
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@frozen
class Issued:
    """A certificate in files."""

    cert: Path
    key: Path
    serial: int


class Authority:
    """A certificate authority with a directory for what it issues."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self.ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.directory = directory
        self.file = directory / f"{name}.pem"
        self.ca.cert_pem.write_to_path(str(self.file))
        key = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self._cert = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())
        self._count = 0

    def issue(
        self,
        *names: str,
        usages: tuple[x509.ObjectIdentifier, ...] | None = BOTH,
        days: tuple[int, int] = (-1, 1),
        common_name: str = "a member",
        critical: bool = False,
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        serial = x509.random_serial_number()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(self._cert.subject)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(NOW + days[0] * DAY)
            .not_valid_after(NOW + days[1] * DAY)
            # Newer Pythons ask for it in every certificate that an authority issued.
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if names:
            alternatives = x509.SubjectAlternativeName([_general(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        if usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=critical)
        cert = builder.sign(self._key, hashes.SHA256())
        self._count += 1
        stem = self.directory / f"{self.file.stem}-{self._count}"
        issued = Issued(stem.with_suffix(".crt"), stem.with_suffix(".key"), serial)
        issued.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return issued

    def revoke(self, *serials: int) -> Path:
        """A revocation list with these on it."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._cert.subject)
            .last_update(NOW - DAY)
            .next_update(NOW + DAY)
        )
        for serial in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(NOW - DAY)
                .build()
            )
        path = self.directory / "crl.pem"
        crl = builder.sign(self._key, hashes.SHA256())
        path.write_bytes(crl.public_bytes(serialization.Encoding.PEM))
        return path

    def tls(self, issued: Issued, *, crl: Path | None = None, allow_tls12: bool = False) -> Tls:
        return Tls(issued.cert, issued.key, self.file, crl=crl, allow_tls12=allow_tls12)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)

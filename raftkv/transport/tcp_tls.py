"""TLS between members: who may connect is decided by certificates that name the members' hosts.

Both sides show a certificate of the same authority. Each must be made for both roles
(extendedKeyUsage serverAuth *and* clientAuth), because every member dials and is dialled: a
certificate issued to a mere client of the database opens nothing here. The dialer checks that the
certificate names the host that it dialled; the acceptor checks, when it knows who the dialer says
it is, that the certificate names that member's host. Common names are never looked at, and no name
is ever looked up backwards.

Files are looked at before each connection and read again when they changed, so that certificates
and revocation lists are renewed by replacing files. While they cannot be read, what was read last
stays valid.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final, cast

from attrs import field, frozen

from raftkv.errors import TransportError, WireError

__all__ = ["Tls", "TlsCipher", "TlsContexts", "names_host", "usages"]

_log = logging.getLogger("raftkv.transport")

_READ_BYTES: Final = 256 * 2**10
# DER: tags, and the object identifiers of extendedKeyUsage and the two uses we want to see in it.
_OBJECT_ID: Final = 0x06
_EXTENSIONS: Final = 0xA3
_EXTENDED_KEY_USAGE: Final = bytes.fromhex("551d25")
_SERVER_AUTH: Final = bytes.fromhex("2b06010505070301")
_CLIENT_AUTH: Final = bytes.fromhex("2b06010505070302")
_NO_TLS: Final = frozenset(
    {"wrong version number", "http request", "unknown protocol", "packet length too long"}
)


def _path(value: str | Path) -> Path:
    return Path(value)


@frozen
class Tls:
    """Where certificates are, and how strict to be. All files are PEM.

    ``cert`` is this member's certificate (with intermediate ones behind it), ``key`` its private
    key, ``ca`` the authority that all members' certificates come from; use one for the members
    alone.
    """

    cert: Path = field(converter=_path)
    key: Path = field(converter=_path)
    ca: Path = field(converter=_path)
    crl: Path | None = field(
        default=None, converter=lambda value: None if value is None else _path(value), kw_only=True
    )
    """A revocation list of the authority; certificates on it are refused from the next connection
    on."""
    key_password: str | None = field(default=None, kw_only=True, repr=False)
    """If the key is encrypted."""
    allow_tls12: bool = field(default=False, kw_only=True)
    """TLS 1.2, too, with authenticated ciphers only. Otherwise 1.3 alone."""


class TlsContexts:
    """OpenSSL's contexts for both roles, renewed when files change.

    Raises TransportError if the files cannot be used; later on, that is logged and the old ones
    stay.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._stamps = self._look()
        self._dialling, self._accepting = _make(tls)

    def dialling(self, host: str) -> TlsCipher:
        """For a connection to ``host``, which the certificate must name."""
        self._renew()
        return TlsCipher(self._dialling, server_side=False, host=host)

    def accepting(self) -> TlsCipher:
        """For a connection from whoever it is."""
        self._renew()
        return TlsCipher(self._accepting, server_side=True, host=None)

    def _look(self) -> tuple[object, ...]:
        """What tells a file from its successor."""
        tls = self._tls
        stamps: list[object] = []
        for path in (tls.cert, tls.key, tls.ca, tls.crl):
            try:
                found = None if path is None else path.stat()
            except OSError:
                found = None
            stamps.append(found and (found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(stamps)

    def _renew(self) -> None:
        stamps = self._look()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self._dialling, self._accepting = _make(self._tls)
        except TransportError as error:
            _log.error("changed TLS files are not used: %s", error)
        else:
            _log.info("TLS files changed and were read again")


class TlsCipher:
    """One connection's TLS, between two buffers. Raises WireError with what is wrong."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, host: str | None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=host
        )
        self._is_ready = False

    @property
    def is_ready(self) -> bool:
        """Whether the handshake is over, and the certificate is good for both roles."""
        return self._is_ready

    def begin(self) -> bytes:
        """The dialer speaks first."""
        self._shake()
        return self._outgoing.read()

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """Decrypt; answers (clear bytes, bytes to send)."""
        self._incoming.write(data)
        if not self._is_ready:
            self._shake()
        clear: list[bytes] = []
        try:
            while self._is_ready and (read := self._tls.read(_READ_BYTES)):
                clear.append(read)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            pass  # the end is near: the socket will say so
        except ssl.SSLError as error:
            raise WireError(_reason(error)) from error
        return b"".join(clear), self._outgoing.read()

    def send(self, data: bytes) -> bytes:
        """Encrypt."""
        left = memoryview(data)
        try:
            while left:
                left = left[self._tls.write(left) :]
        except ssl.SSLError as error:
            raise WireError(_reason(error)) from error
        return self._outgoing.read()

    def farewell(self) -> bytes:
        """An alert that is due, or the announcement of the end."""
        if self._is_ready:
            # It fails for want of the other side's farewell, for which we do not wait.
            with suppress(ssl.SSLError):
                self._tls.unwrap()
        return self._outgoing.read()

    def names(self, host: str) -> bool:
        """Whether the peer's certificate names ``host``."""
        return names_host(cast("Mapping[str, object]", self._tls.getpeercert() or {}), host)

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise WireError(_reason(error)) from error
        der = self._tls.getpeercert(binary_form=True)
        if der is None:
            raise WireError("it showed no certificate")
        if usages(der) != (True, True):
            raise WireError(
                "its certificate is not a member's: extendedKeyUsage must hold serverAuth and"
                " clientAuth"
            )
        self._is_ready = True


def names_host(certificate: Mapping[str, object], host: str) -> bool:
    """Whether a verified certificate (as ``getpeercert`` gives it) names ``host`` in its SAN.

    An address matches an address; a name matches a name, whose first label may be ``*`` and stands
    for exactly one.
    """
    names = cast("Sequence[tuple[str, str]]", certificate.get("subjectAltName", ()))
    try:
        wanted = ip_address(host)
    except ValueError:
        return any(kind == "DNS" and _matches(name, host) for kind, name in names)
    for kind, name in names:
        # OpenSSL writes IPv6 addresses in full, and spaces around what it cannot read.
        try:
            if kind == "IP Address" and ip_address(name.strip()) == wanted:
                return True
        except ValueError:
            continue
    return False


def _matches(pattern: str, host: str) -> bool:
    pattern, host = pattern.lower().rstrip("."), host.lower().rstrip(".")
    first, _, rest = pattern.partition(".")
    if first != "*":
        return pattern == host
    label, _, domain = host.partition(".")
    return bool(label) and "." in rest and domain == rest


def usages(der: bytes) -> tuple[bool, bool]:
    """Whether a certificate is for servers, and whether for clients, by its extendedKeyUsage.

    ``ssl`` does not tell. The structure is walked, not searched: its subject, which stands before
    the extensions, may contain any bytes that its authority let pass. Raises WireError if it is
    not DER.
    """
    certificate = _elements(der)[:1]
    for _, content in certificate:
        for _, signed in _elements(content)[:1]:
            for tag, extensions in _elements(signed):
                if tag == _EXTENSIONS:
                    return _usages(extensions)
    return False, False


def _usages(extensions: bytes) -> tuple[bool, bool]:
    for _, listed in _elements(extensions):
        for _, extension in _elements(listed):
            parts = _elements(extension)
            if parts[:1] == [(_OBJECT_ID, _EXTENDED_KEY_USAGE)]:
                found = [each for _, uses in _elements(parts[-1][1]) for each in _elements(uses)]
                return (_OBJECT_ID, _SERVER_AUTH) in found, (_OBJECT_ID, _CLIENT_AUTH) in found
    return False, False


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Tags and contents of the DER elements that follow each other. Raises WireError."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(der):
        tag, size = der[at], int.from_bytes(der[at + 1 : at + 2], "big")
        at += 2
        if size >= 0x80:
            digits = size & 0x7F
            size = int.from_bytes(der[at : at + digits], "big")
            at += digits
        if at + size > len(der):
            raise WireError("its certificate cannot be read")
        found.append((tag, der[at : at + size]))
        at += size
    return found


def _make(tls: Tls) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts for dialling and accepting. Raises TransportError with what to do."""
    _check_own(tls)
    dialling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepting.verify_mode = ssl.CERT_REQUIRED
    accepting.num_tickets = 0  # a resumed session would not see a certificate again
    dialling.hostname_checks_common_name = False
    for context in (dialling, accepting):
        context.minimum_version = (
            ssl.TLSVersion.TLSv1_2 if tls.allow_tls12 else ssl.TLSVersion.TLSv1_3
        )
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
        _load(context, tls)
    return dialling, accepting


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    try:
        # An empty password rather than a question on the terminal.
        context.load_cert_chain(tls.cert, tls.key, password=tls.key_password or "")
    except (OSError, ValueError) as error:
        raise TransportError(
            f"TLS certificate {tls.cert} and key {tls.key} cannot be used together: {_words(error)}"
        ) from error
    for path in (tls.ca, tls.crl):
        if path is None:
            continue
        try:
            context.load_verify_locations(path)
        except (OSError, ValueError) as error:
            raise TransportError(f"TLS file {path} cannot be used: {_words(error)}") from error
    if tls.crl is not None:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _check_own(tls: Tls) -> None:
    """Our own certificate must be what every peer will ask for: better told here than by them."""
    try:
        text = tls.cert.read_text("ascii")
        start = text.index("-----BEGIN CERTIFICATE-----")
        stop = text.index("-----END CERTIFICATE-----") + len("-----END CERTIFICATE-----")
        der = ssl.PEM_cert_to_DER_cert(text[start:stop])
        for_both = usages(der) == (True, True)
    except (OSError, ValueError, WireError) as error:
        text = f"TLS certificate {tls.cert} cannot be read: {_words(error)}"
        raise TransportError(text) from error
    if not for_both:
        raise TransportError(
            f"TLS certificate {tls.cert} is not for members: issue it with"
            " extendedKeyUsage = serverAuth, clientAuth"
        )


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return _reason(error)
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return str(error)


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's error as words for a log: whose certificate is refused, and why."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if reason == "peer did not return a certificate":
        return "it showed no certificate"
    if "alert" in reason and ("certificate" in reason or "unknown ca" in reason):
        return f"it refuses our certificate: {reason}"
    if reason in _NO_TLS:
        return f"it does not speak TLS: {reason}"
    return f"TLS failed: {reason}"

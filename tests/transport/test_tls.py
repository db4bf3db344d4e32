"""Who may connect over TLS: a matrix of certificates, against both the dialer and the acceptor."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
import trustme
from anyio.streams.tls import TLSStream
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import ConfigError, TransportError, WireError
from raftkv.transport import tcp_tls
from raftkv.transport.base import Lane
from raftkv.transport.tcp import Limits, TcpTransport, Tls
from raftkv.transport.tcp_settings import parse_address
from raftkv.transport.tcp_tls import names_host, usages
from raftkv.transport.wire import Code, FrameParser, Greeting, decode_refusal, encode_greeting
from tests.transport.certificates import BOTH, CLIENT, SERVER, Authority, Issued
from tests.transport.conftest import LogLines
from tests.transport.tcp_world import QUICK, Member, stranger
from tests.transport.world import Recorder, hello, runtime

ONE, TWO, THREE = "127.0.0.1", "127.0.0.2", "127.0.0.3"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def member(number: int, tls: Tls, limits: Limits = QUICK) -> AsyncGenerator[Member]:
    end = TcpTransport(f"127.0.0.{number}:0", runtime=runtime(), tls=tls, limits=limits)
    recorder = Recorder()
    async with end.serve(hello(number), recorder):
        yield Member(end, recorder)


def introduce(*all_members: tuple[int, Member]) -> None:
    for me, one in all_members:
        one.transport.set_peers(
            {other: peer.transport.address for other, peer in all_members if other != me}
        )


@pytest.mark.parametrize("allow_tls12", [False, True])
async def test_members_with_good_certificates_meet(authority: Authority, allow_tls12: bool) -> None:
    first = authority.tls(authority.issue(ONE), allow_tls12=allow_tls12)
    second = authority.tls(authority.issue("example.org", TWO), allow_tls12=allow_tls12)
    async with member(1, first) as one, member(2, second) as two:
        introduce((1, one), (2, two))
        await one.recorder.until(lambda: len(one.recorder.ups) == 4)
        big = os.urandom(3_000_000)
        for lane in Lane:
            assert one.transport.send(2, b"small", lane)
            assert one.transport.send(2, big, lane)
        await two.recorder.until(lambda: len(two.recorder.frames) == 4)
        assert two.recorder.payloads(1, Lane.RAFT) == [b"small", big]
        assert two.recorder.payloads(1, Lane.BULK) == [b"small", big]


async def test_certificates_of_a_common_tool_are_good(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    leaf = ca.issue_cert(ONE, TWO)
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "leaf.crt"))
    leaf.private_key_pem.write_to_path(str(tmp_path / "leaf.key"))
    tls = Tls(str(tmp_path / "leaf.crt"), str(tmp_path / "leaf.key"), str(tmp_path / "ca.pem"))
    async with member(1, tls) as one, member(2, tls) as two:
        introduce((1, one), (2, two))
        await one.recorder.until(lambda: len(one.recorder.ups) == 4)


BAD: dict[str, tuple[Callable[[Authority, Authority], Issued], str, str]] = {
    # how it is made; what the good acceptor logs; what the good dialer logs
    "another authority": (
        lambda _, other: other.issue(TWO),
        "its certificate is refused: unable to get local issuer certificate",
        "its certificate is refused: unable to get local issuer certificate",
    ),
    "expired": (
        lambda ca, _: ca.issue(TWO, days=(-3, -1)),
        "its certificate is refused: certificate has expired",
        "its certificate is refused: certificate has expired",
    ),
    "not yet valid": (
        lambda ca, _: ca.issue(TWO, days=(1, 3)),
        "its certificate is refused: certificate is not yet valid",
        "its certificate is refused: certificate is not yet valid",
    ),
    "another host": (
        lambda ca, _: ca.issue(THREE, "example.org"),
        "refused: the certificate does not name 127.0.0.2, where member 2 is",
        "its certificate is refused: IP address mismatch",
    ),
    "common name only": (
        lambda ca, _: ca.issue(common_name=TWO),
        "refused: the certificate does not name 127.0.0.2, where member 2 is",
        "its certificate is refused: IP address mismatch",
    ),
    "for servers only": (
        lambda ca, _: ca.issue(TWO, usages=(SERVER,)),
        "its certificate is refused: unsuitable certificate purpose",
        "extendedKeyUsage must hold serverAuth and clientAuth",
    ),
    "for clients only": (
        lambda ca, _: ca.issue(TWO, usages=(CLIENT,)),
        "extendedKeyUsage must hold serverAuth and clientAuth",
        "its certificate is refused: unsuitable certificate purpose",
    ),
    "for anything": (
        lambda ca, _: ca.issue(TWO, usages=None),
        "extendedKeyUsage must hold serverAuth and clientAuth",
        "extendedKeyUsage must hold serverAuth and clientAuth",
    ),
}


@pytest.mark.parametrize("bad_dials", [True, False], ids=["dials", "is dialled"])
@pytest.mark.parametrize("kind", BAD)
async def test_a_member_with_a_bad_certificate_is_refused(
    kind: str,
    bad_dials: bool,
    authority: Authority,
    tmp_path: Path,
    lines: LogLines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look_away(_: Tls) -> None:
        """An attacker uses whatever it has."""

    monkeypatch.setattr(tcp_tls, "_check_own", look_away)
    make, accepting_line, dialling_line = BAD[kind]
    issued = make(authority, Authority(tmp_path, "other"))
    good = authority.tls(authority.issue(ONE))
    async with member(1, good) as one, member(2, authority.tls(issued)) as two:
        # The good one has to know where the other should be, and so dials it, too.
        one.transport.set_peers({2: two.transport.address})
        await lines.until_line("cannot connect to member 2")
        if bad_dials:
            two.transport.set_peers({1: one.transport.address})
            # The other one's lines, about our dialling, are there as well.
            await lines.until_line("connection from", accepting_line)
        else:
            assert dialling_line in lines.having("cannot connect to member 2")[0]
        assert one.recorder.ups == one.recorder.asked == two.recorder.ups == []


async def test_a_revoked_certificate_is_refused_by_both_sides(
    authority: Authority, lines: LogLines
) -> None:
    issued = authority.issue(TWO)
    crl = authority.revoke(issued.serial)
    good = authority.tls(authority.issue(ONE), crl=crl)
    async with member(1, good) as one, member(2, authority.tls(issued)) as two:
        introduce((1, one), (2, two))
        for part in ("connection from", "cannot connect to member 2"):
            await lines.until_line(part, "its certificate is refused: certificate revoked")
        assert one.recorder.ups == two.recorder.ups == []


async def test_a_revocation_list_hurts_nobody_who_is_not_on_it(authority: Authority) -> None:
    crl = authority.revoke(12345)
    first = authority.tls(authority.issue(ONE), crl=crl)
    second = authority.tls(authority.issue(TWO), crl=crl)
    async with member(1, first) as one, member(2, second) as two:
        introduce((1, one), (2, two))
        await one.recorder.until(lambda: len(one.recorder.ups) == 4)


def raw_context(authority: Authority, issued: Issued | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.file)
    if issued is not None:
        context.load_cert_chain(issued.cert, issued.key)
    return context


@asynccontextmanager
async def raw(address: str, context: ssl.SSLContext) -> AsyncGenerator[TLSStream]:
    """TLS, and then whatever the test says."""
    where = parse_address(address)
    plain = await anyio.connect_tcp(where.host, where.port)
    async with plain:
        yield await TLSStream.wrap(
            plain, hostname=where.host, ssl_context=context, standard_compatible=False
        )


async def hear(stream: TLSStream) -> bytes:
    heard = b""
    try:
        while True:
            heard += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
        return heard


async def test_whoever_shows_no_certificate_is_refused(
    authority: Authority, lines: LogLines
) -> None:
    async with member(1, authority.tls(authority.issue(ONE))) as one:
        async with raw(one.transport.address, raw_context(authority, None)) as stream:
            assert await hear(stream) == b""
        await lines.until_line("closed: it showed no certificate")
        assert len(lines.loud()) == 1


async def test_a_member_cannot_speak_for_another(authority: Authority, lines: LogLines) -> None:
    issued = authority.issue(THREE)
    async with member(1, authority.tls(authority.issue(ONE))) as one:
        one.transport.set_peers({2: "127.0.0.2:1", 3: "127.0.0.3:1"})
        async with raw(one.transport.address, raw_context(authority, issued)) as stream:
            await stream.send(encode_greeting(Greeting(hello(2), 1, Lane.RAFT)))
            (frame,) = FrameParser(4096).feed(await hear(stream))
            refusal = decode_refusal(frame)
        assert refusal.code == Code.CERTIFICATE
        assert refusal.sentence == "the certificate does not name 127.0.0.2, where member 2 is"
        assert one.recorder.asked == one.recorder.ups == []
        # Under its own name it is welcome.
        async with raw(one.transport.address, raw_context(authority, issued)) as stream:
            await stream.send(encode_greeting(Greeting(hello(3), 1, Lane.RAFT)))
            await one.recorder.until(lambda: one.recorder.ups == [(3, hello(3))])


async def test_a_member_nobody_has_heard_of_is_judged_by_the_address_it_claims(
    authority: Authority,
) -> None:
    issued = authority.issue(THREE)
    async with member(1, authority.tls(authority.issue(ONE))) as one:
        for address, answer in (
            ("127.0.0.3:7400", None),
            ("127.0.0.2:7400", "the certificate does not name 127.0.0.2, where member 3 is"),
            ("nonsense", "member 3 is unknown and tells no address"),
            ("", "member 3 is unknown and tells no address"),
        ):
            me = hello(3, address=address)
            one.recorder.asked.clear()
            async with raw(one.transport.address, raw_context(authority, issued)) as stream:
                await stream.send(encode_greeting(Greeting(me, 1, Lane.RAFT)))
                if answer is None:
                    await one.recorder.until(lambda: one.recorder.ups == [(3, me)])  # noqa: B023
                    assert one.recorder.asked == [me]
                else:
                    (frame,) = FrameParser(4096).feed(await hear(stream))
                    assert decode_refusal(frame).sentence == answer
                    assert one.recorder.asked == []


async def test_a_peer_that_does_not_speak_tls_is_refused(
    authority: Authority, lines: LogLines
) -> None:
    async with member(1, authority.tls(authority.issue(ONE))) as one:
        for data in (
            encode_greeting(Greeting(hello(2), 1, Lane.RAFT)),
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x00" * 64,
        ):
            lines.records.clear()
            async with stranger(one.transport.address) as visitor:
                await visitor.say(data)
                await visitor.hear()
            await lines.until_line("closed: it does not speak TLS")
            assert len(lines.loud()) == 1
        assert one.recorder.asked == []


async def test_a_dialer_without_tls_and_one_with_it_do_not_meet(
    authority: Authority, lines: LogLines
) -> None:
    plain = TcpTransport("127.0.0.2:0", runtime=runtime(), limits=QUICK)
    recorder = Recorder()
    async with (
        member(1, authority.tls(authority.issue(ONE))) as one,
        plain.serve(hello(2), recorder),
    ):
        introduce((1, one), (2, Member(plain, recorder)))
        await lines.until(
            lambda: len(lines.having("cannot connect")) >= 2 and len(lines.having("from")) >= 2
        )
        assert one.recorder.ups == recorder.ups == []


async def test_old_tls_is_refused_unless_allowed(authority: Authority, lines: LogLines) -> None:
    issued = authority.issue(TWO)
    async with member(1, authority.tls(authority.issue(ONE))) as one:
        one.transport.set_peers({2: "127.0.0.2:1"})
        context = raw_context(authority, issued)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            async with raw(one.transport.address, context):
                pass
        await lines.until_line("TLS failed: unsupported protocol")


async def test_a_stranger_in_the_middle_of_its_tls_handshake_runs_out_of_time(
    authority: Authority, lines: LogLines
) -> None:
    limits = Limits(handshake_seconds=0.05)
    async with member(1, authority.tls(authority.issue(ONE)), limits) as one:
        async with stranger(one.transport.address) as visitor:
            await visitor.say(b"\x16\x03\x01\x00\xf0")  # a record that never comes
            assert await visitor.hear() == b""
        await lines.until_line("it did not introduce itself in time")
        assert len(lines.loud()) == 1


async def test_renewed_certificates_count_for_the_next_connection(
    authority: Authority, tmp_path: Path, lines: LogLines
) -> None:
    live = authority.issue(TWO)
    renewed = authority.issue(THREE)  # not its host: to see that it is used
    async with (
        member(1, authority.tls(authority.issue(ONE))) as one,
        member(2, authority.tls(live)) as two,
    ):
        introduce((1, one), (2, two))
        await one.recorder.until(lambda: len(one.recorder.ups) == 4)
        for old, new in ((live.cert, renewed.cert), (live.key, renewed.key)):
            new.replace(old)
        # What is connected stays so; a new connection sees the new certificate.
        assert one.transport.send(2, b"still")
        await two.recorder.until(lambda: two.recorder.payloads(1) == [b"still"])
        one.transport.set_peers({})
        one.transport.set_peers({2: two.transport.address})
        await lines.until_line("cannot connect to member 2")
        assert "IP address mismatch" in lines.having("cannot connect to member 2")[0]


async def test_broken_renewals_are_told_and_not_used(authority: Authority, lines: LogLines) -> None:
    live = authority.issue(TWO)
    async with (
        member(1, authority.tls(authority.issue(ONE))) as one,
        member(2, authority.tls(live)) as two,
    ):
        live.key.unlink()
        introduce((1, one), (2, two))
        await one.recorder.until(lambda: len(one.recorder.ups) == 4)
        (line,) = lines.loud()
        assert line.startswith("changed TLS files are not used: TLS certificate")


def test_files_that_cannot_be_used_are_refused_at_once(
    authority: Authority, tmp_path: Path
) -> None:
    good, other = authority.issue(ONE), authority.issue(ONE)
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("nothing")
    missing = tmp_path / "missing.pem"
    cases = [
        (Tls(missing, good.key, authority.file), "missing.pem cannot be read: no such file"),
        (Tls(garbage, good.key, authority.file), "garbage.pem cannot be read"),
        (Tls(good.cert, missing, authority.file), "cannot be used together"),
        (Tls(good.cert, other.key, authority.file), "cannot be used together"),
        (Tls(good.cert, good.key, missing), "missing.pem cannot be used"),
        (Tls(good.cert, good.key, garbage), "garbage.pem cannot be used"),
        (Tls(good.cert, good.key, authority.file, crl=garbage), "garbage.pem cannot be used"),
        (authority.tls(authority.issue(ONE, usages=(SERVER,))), "extendedKeyUsage = serverAuth"),
    ]
    for tls, sentence in cases:
        with pytest.raises(TransportError, match=sentence):
            TcpTransport("10.0.0.1:1", runtime=runtime(), tls=tls)
    with pytest.raises(ConfigError, match="contradict"):
        TcpTransport("10.0.0.1:1", runtime=runtime(), tls=authority.tls(good), insecure=True)
    TcpTransport("10.0.0.1:1", runtime=runtime(), tls=authority.tls(good)).set_peers({2: "h:1"})


def test_a_password_is_never_shown() -> None:
    assert "secret" not in repr(Tls("a", "b", "c", key_password="secret"))


@pytest.mark.parametrize(
    ("names", "host", "expected"),
    [
        ([("DNS", "n1.example.org")], "n1.example.org", True),
        ([("DNS", "N1.Example.org")], "n1.example.ORG.", True),
        ([("DNS", "n1.example.org")], "n2.example.org", False),
        ([("DNS", "*.example.org")], "n2.example.org", True),
        ([("DNS", "*.example.org")], "a.n2.example.org", False),
        ([("DNS", "*.example.org")], "example.org", False),
        ([("DNS", "*.org")], "example.org", False),
        ([("DNS", "*")], "localhost", False),
        ([("DNS", "n*.example.org")], "n2.example.org", False),
        ([("DNS", "a.*.org")], "a.b.org", False),
        ([("DNS", "10.0.0.1")], "10.0.0.1", False),
        ([("IP Address", "10.0.0.1")], "10.0.0.1", True),
        ([("IP Address", "10.0.0.1")], "10.0.0.2", False),
        ([("IP Address", "0:0:0:0:0:0:0:1")], "::1", True),
        ([("IP Address", "<invalid>")], "::1", False),
        ([("DNS", "x"), ("email", "n1@a"), ("DNS", "n1")], "n1", True),
        ([], "n1", False),
    ],
)
def test_a_certificate_names_a_host_in_its_alternatives_alone(
    names: list[tuple[str, str]], host: str, expected: bool
) -> None:
    subject = ((("commonName", host),),)
    assert names_host({"subject": subject, "subjectAltName": tuple(names)}, host) is expected


def test_usages_are_read_from_the_extension_and_from_nowhere_else(authority: Authority) -> None:
    # DER of an extendedKeyUsage with both uses, as a subject that its authority let pass.
    spoof = bytes.fromhex("0603551d25041630140608 2b06010505070301 06082b06010505070302")
    for uses, critical, expected in (
        (BOTH, False, (True, True)),
        (BOTH, True, (True, True)),
        ((CLIENT,), True, (False, True)),
        ((SERVER,), False, (True, False)),
        (None, False, (False, False)),
    ):
        issued = authority.issue(
            ONE, usages=uses, critical=critical, common_name=spoof.decode("latin-1")
        )
        assert usages(ssl.PEM_cert_to_DER_cert(issued.cert.read_text())) == expected


@given(st.data())
def test_bytes_that_are_no_certificate_raise_a_wire_error(data: st.DataObject) -> None:
    der = bytearray(CERTIFICATE)
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    with suppress(WireError):
        usages(bytes(der[: data.draw(st.integers(0, len(der)))]))


def _certificate() -> bytes:
    leaf = trustme.CA().issue_cert(ONE)
    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


CERTIFICATE = _certificate()

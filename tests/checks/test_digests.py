"""Checksums: the digest fields of RFC 9530, and sha256 in JSON sources."""

import base64
import contextlib
import hashlib
import string
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiorelay.checks.digests import expect_digests, expect_sha256, parse_digest_field
from aiorelay.checks.pipeline import ThreadedCheck
from aiorelay.errors import BadDigest, DigestMismatch

HELLO = b'{"hello": "world"}\n'
# RFC 9530, appendix B.1
HELLO_256 = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
A, B = b"a" * 32, b"b" * 64


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (f"sha-256=:{b64(A)}:", {"sha-256": A}),
        (f"sha-512=:{b64(B)}:", {"sha-512": B}),
        (f"sha-256=:{b64(A)}:,sha-512=:{b64(B)}:", {"sha-256": A, "sha-512": B}),
        (f"  sha-512=:{b64(B)}: \t,\t sha-256=:{b64(A)}:  ", {"sha-256": A, "sha-512": B}),
        (f"sha-256=:{b64(A).rstrip('=')}:", {"sha-256": A}),  # RFC 8941, 4.2.7: padding is optional
        (f'sha-256=:{b64(A)}:;a;b=1;c="x, y;\\"z";  d=:eA==:;e=?1;f=tok/en;g=-1.5', {"sha-256": A}),
        (f"sha-256=:{b64(B[:32])}:, sha-256=:{b64(A)}:", {"sha-256": A}),  # the last one counts
        ("md5=:eHh4:", {}),
        (f"md5=:eHh4:, unixsum=::, sha-256=:{b64(A)}:", {"sha-256": A}),
    ],
)
def test_digest_fields_that_can_be_read(value: str, wanted: dict[str, bytes]) -> None:
    assert parse_digest_field(value) == wanted


@pytest.mark.parametrize(
    "value",
    [
        "",
        ",",
        "sha-256",
        "sha-256=",
        f"sha-256={b64(A)}",  # as RFC 3230 had it
        f"SHA-256=:{b64(A)}:",
        f"sha-256 =:{b64(A)}:",
        f"sha-256=:{b64(A)}",
        f"sha-256=:{b64(A)}:,",
        f"sha-256=:{b64(A)}: sha-512=:{b64(B)}:",
        f"sha-256=:{b64(A)}:;",
        f"sha-256=:{b64(A)}:;A=1",
        "sha-256=:****:",
        "sha-256=:A:",
        "sha-256=:AAAA====:",
        f"sha-256=:{b64(A[:31])}:",
        f"sha-256=:{b64(B)}:",
        f"sha-512=:{b64(A)}:",
        f"\tsha-256=:{b64(A)}:",
        f"sha-256=:{b64(A)}:\n",
        "sha-256=é",
    ],
)
def test_digest_fields_that_cannot_be_read_are_refused(value: str) -> None:
    with pytest.raises(BadDigest, match="Repr-Digest"):
        parse_digest_field(value, "Repr-Digest")


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("sha-256"), st.binary(min_size=32, max_size=32)),
            st.tuples(st.just("sha-512"), st.binary(min_size=64, max_size=64)),
            st.tuples(st.text(string.ascii_lowercase, min_size=1), st.binary()),
        ),
        min_size=1,
    ),
    st.sampled_from([",", ", ", " ,\t"]),
)
def test_a_written_digest_field_can_be_read(members: list[tuple[str, bytes]], comma: str) -> None:
    value = comma.join(f"{name}=:{b64(digest)}:" for name, digest in members)
    known = {name: digest for name, digest in members if name in {"sha-256", "sha-512"}}
    assert parse_digest_field(value) == known


@given(st.one_of(st.text(), st.text('sha-256=:;,A"? 1')))
def test_any_text_is_read_or_refused(value: str) -> None:
    with contextlib.suppress(BadDigest):
        assert set(parse_digest_field(value)) <= {"sha-256", "sha-512"}


async def judged(check: ThreadedCheck, *blocks: bytes) -> None:
    try:
        for block in blocks:
            await check.feed(block)
        await check.finish()
    finally:
        await check.close()


async def test_the_example_of_the_rfc_matches(pool: ThreadPoolExecutor) -> None:
    await judged(expect_digests(parse_digest_field(HELLO_256), pool, field="Content-Digest"), HELLO[:4], HELLO[4:])


LARGE = bytes(range(256)) * 8192


@pytest.mark.parametrize("data", [b"", b"small", LARGE], ids=["empty", "small", "large"])
@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
async def test_a_matching_digest_passes(pool: ThreadPoolExecutor, data: bytes, algorithm: str) -> None:
    digest = hashlib.new(algorithm.replace("-", ""), data).digest()
    blocks = [data[start : start + 300_000] for start in range(0, len(data), 300_000)]
    await judged(expect_digests({algorithm: digest}, pool, field="Content-Digest"), *blocks)


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("bad", ["sha-256", "sha-512"])
async def test_all_given_digests_must_match(pool: ThreadPoolExecutor, data: bytes, bad: str) -> None:
    expected = {"sha-256": hashlib.sha256(data).digest(), "sha-512": hashlib.sha512(data).digest()}
    expected[bad] = hashlib.new(bad.replace("-", ""), data + b"!").digest()
    with pytest.raises(DigestMismatch, match=f"{bad} digest that Repr-Digest gives"):
        await judged(expect_digests(expected, pool, field="Repr-Digest"), data)


@pytest.mark.parametrize("upper", [False, True])
async def test_sha256_of_a_source_is_hexadecimal_in_either_case(pool: ThreadPoolExecutor, upper: bool) -> None:  # noqa: FBT001
    digest = hashlib.sha256(HELLO).hexdigest()
    await judged(expect_sha256(digest.upper() if upper else digest, pool), HELLO)


async def test_sha256_of_a_source_must_match(pool: ThreadPoolExecutor) -> None:
    with pytest.raises(DigestMismatch, match="sha256"):
        await judged(expect_sha256(hashlib.sha256(b"other").hexdigest(), pool), HELLO)

"""The wire format of Redis: requests out of any pieces of a stream, replies, limits."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmemheap.kvstore.patterns import glob_pattern, glob_prefix
from pmemheap.kvstore.resp import (
    NO_ARRAY,
    ProtocolError,
    Reply,
    ReplyError,
    RequestParser,
    Verbatim,
    encode,
    encode_request,
    parse_integer,
    split_inline,
)

words = st.binary(max_size=40)
requests = st.lists(words, min_size=1, max_size=6)


def parse(*pieces: bytes, **limits: int) -> tuple[list[list[bytes]], str | None]:
    parser = RequestParser(**limits)
    found = [request for piece in pieces for request in parser.feed(piece)]
    return found, None if parser.error is None else str(parser.error)


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"*1\r\n$4\r\nPING\r\n", [[b"PING"]]),
        (b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", [[b"GET", b""]]),
        (b"*1\r\n$6\r\na\r\nb\r\n\r\n", [[b"a\r\nb\r\n"]]),
        (b"*0\r\n*-1\r\n\r\n*1\r\n$1\r\nx\r\n", [[b"x"]]),
        (b"PING\r\n", [[b"PING"]]),
        (b"  set  a   b \n", [[b"set", b"a", b"b"]]),
        (b"get a\n*1\r\n$4\r\nPING\r\nget b\n", [[b"get", b"a"], [b"PING"], [b"get", b"b"]]),
        (b'set "a b\\n\\x41\\"" \'c\\\'d\\n\' ""\r\n', [[b"set", b'a b\nA"', b"c'd\\n", b""]]),
    ],
)
def test_requests(stream: bytes, expected: list[list[bytes]]) -> None:
    assert parse(stream) == (expected, None)
    assert parse(*(bytes([byte]) for byte in stream)) == (expected, None)


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (b"*1\r\n:4\r\n", "expected '$', got ':'"),
        (b"*1\r\n\r\n", "expected '$', got ''"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$9223372036854775808\r\n", "invalid bulk length"),
        (b"*1\r\n$+1\r\n", "invalid bulk length"),
        (b"*1\r\n$9223372036854775807\r\n", "too big request, more than 67108864 bytes"),
        (b"*1\r\n$1\r\nabc", "expected CRLF after a bulk string"),
        (b'get "a\r\n', "unbalanced quotes in request"),
        (b'get "a"b\r\n', "unbalanced quotes in request"),
        (b"get 'a\\", None),
    ],
)
def test_what_is_no_request_is_an_error_after_those_that_are(
    stream: bytes, error: str | None
) -> None:
    assert parse(b"PING\r\n" + stream + b"\r\nPING\r\n"[: 8 if error else 0]) == (
        [[b"PING"]],
        error,
    )


def test_nothing_comes_after_an_error() -> None:
    parser = RequestParser()
    assert parser.feed(b"*x\r\nPING\r\n") == []
    assert isinstance(parser.error, ProtocolError)
    assert parser.feed(b"PING\r\n" * 1000) == []


@given(stream=st.lists(requests, max_size=6), data=st.data())
def test_any_split_of_a_stream_gives_the_same_requests(
    stream: list[list[bytes]], data: st.DataObject
) -> None:
    sent = b"".join(encode_request(*request) for request in stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=12)))
    pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    assert parse(*pieces) == (stream, None)


pieces_of_protocol = st.sampled_from(
    [
        b"*",
        b"$",
        b"\r\n",
        b"\n",
        b"\r",
        b"0",
        b"1",
        b"2",
        b"-1",
        b"a",
        b" ",
        b'"',
        b"'",
        b"\\",
        b"\0",
    ]
)


@given(st.lists(pieces_of_protocol | st.binary(max_size=5), max_size=40), st.data())
def test_any_split_of_noise_gives_the_same_requests_and_the_same_error(
    noise: list[bytes], data: st.DataObject
) -> None:
    sent = b"".join(noise)
    limits = {"max_request": 60, "max_arguments": 3, "max_line": 20}
    cut = data.draw(st.integers(0, len(sent)))
    whole = parse(sent, **limits)
    assert parse(*(bytes([byte]) for byte in sent), **limits) == whole
    assert parse(sent[:cut], sent[cut:], **limits) == whole


def quoted(word: bytes) -> bytes:
    return b'"%b"' % b"".join(b"\\x%02x" % byte for byte in word)


@given(requests)
def test_a_quoted_line_gives_its_words(request: list[bytes]) -> None:
    assert split_inline(b" ".join(map(quoted, request))) == request


# ---------------------------------------------------------------- limits


def test_a_request_is_refused_when_it_announces_too_much() -> None:
    fits = encode_request(b"SET", b"k", b"v" * 74)
    limit = len(fits)
    assert parse(fits, max_request=limit) == ([[b"SET", b"k", b"v" * 74]], None)
    announced = fits[: fits.index(b"v")]
    error = f"too big request, more than {limit - 1} bytes"
    assert parse(announced, max_request=limit - 1) == ([], error)


def test_the_limit_is_for_one_request_not_for_the_stream() -> None:
    one = encode_request(b"SET", b"k", b"v")
    assert parse(one * 1000, max_request=len(one)) == ([[b"SET", b"k", b"v"]] * 1000, None)


def test_many_small_arguments_are_counted_as_well() -> None:
    error = "too big request, more than 100 bytes"
    assert parse(b"*1000\r\n" + b"$0\r\n\r\n" * 20, max_request=100) == ([], error)
    assert parse(b"*4\r\n", max_arguments=3)[1] == "invalid multibulk length"


def test_a_line_without_an_end_is_refused() -> None:
    parser = RequestParser(max_line=1000)
    for _ in range(20):
        parser.feed(b"x" * 100)
    assert str(parser.error) == "too big inline request"
    assert parse(b"*" + b"1" * 100, max_line=50)[1] == "too big mbulk count string"
    assert parse(b"*1\r\n$" + b"1" * 100, max_line=50)[1] == "too big bulk count string"
    assert parse(b"a b c d\n", max_arguments=3)[1] == "too many words in inline request"


def test_a_long_string_in_many_pieces_is_taken_in_linear_time() -> None:
    value = bytes(8 << 20)
    sent = encode_request(b"SET", b"k", value)
    pieces = [sent[at : at + 1024] for at in range(0, len(sent), 1024)]
    assert parse(*pieces) == ([[b"SET", b"k", value]], None)


# ---------------------------------------------------------------- replies


def decode(stream: bytes) -> tuple[object, bytes]:
    """Read one reply in the most naive way; return it with the rest."""
    line, rest = stream.split(b"\r\n", 1)
    kind, text = line[:1], line[1:]
    if kind == b":":
        return int(text), rest
    if kind in {b"+", b"-"}:
        return (kind, text), rest
    length = int(text)
    if length < 0:
        return None, rest
    if kind == b"$":
        assert rest[length : length + 2] == b"\r\n"
        return rest[:length], rest[length + 2 :]
    items = []
    for _ in range(length):
        item, rest = decode(rest)
        items.append(item)
    return items, rest


@given(st.recursive(st.none() | st.integers() | st.binary(max_size=20), st.lists))
def test_replies_can_be_read_back(reply: int | bytes | list[object] | None) -> None:
    assert decode(encode(reply)) == (reply, b"")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "resp2", "resp3"),
    [
        (None, b"$-1\r\n", b"_\r\n"),
        (NO_ARRAY, b"*-1\r\n", b"_\r\n"),
        ({b"a": 1, b"b": None}, b"*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n$-1\r\n",
         b"%2\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n_\r\n"),
        (frozenset({b"a"}), b"*1\r\n$1\r\na\r\n", b"~1\r\n$1\r\na\r\n"),
        (Verbatim("a\r\nä"), b"$5\r\na\r\n\xc3\xa4\r\n", b"=9\r\ntxt:a\r\n\xc3\xa4\r\n"),
        ([{}, [None], ReplyError("ERR x")], b"*3\r\n*0\r\n*1\r\n$-1\r\n-ERR x\r\n",
         b"*3\r\n%0\r\n*1\r\n_\r\n-ERR x\r\n"),
        ("OK", b"+OK\r\n", b"+OK\r\n"),
        (b"x", b"$1\r\nx\r\n", b"$1\r\nx\r\n"),
    ],
)  # fmt: skip
def test_replies_in_both_protocols(reply: Reply, resp2: bytes, resp3: bytes) -> None:
    assert encode(reply) == encode(reply, 2) == resp2
    assert encode(reply, 3) == resp3


def test_a_status_and_an_error_are_one_line() -> None:
    assert encode("OK") == b"+OK\r\n"
    assert encode(ReplyError("ERR a\r\nb")) == b"-ERR a  b\r\n"
    assert encode([True, False]) == b"*2\r\n:1\r\n:0\r\n"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0", 0), (b"-1", -1), (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)), (b"9223372036854775808", None), (b"", None),
        (b"-0", None), (b"+1", None), (b"01", None), (b" 1", None), (b"1_0", None), (b"1\n", None),
        (b"1" * 5000, None),
    ],
)  # fmt: skip
def test_numbers_have_one_spelling(text: bytes, number: int | None) -> None:
    assert parse_integer(text) == number


# ---------------------------------------------------------------- patterns


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (b"*", [b"", b"a", b"\n\xff"], []),
        (b"h?llo", [b"hello", b"h\nllo"], [b"hllo", b"heello"]),
        (b"h*llo", [b"hllo", b"heeeello"], [b"hell"]),
        (b"h[ae]llo", [b"hello", b"hallo"], [b"hillo"]),
        (b"h[^e]llo", [b"hallo"], [b"hello"]),
        (b"h[b-a]llo", [b"hallo", b"hbllo"], [b"hcllo"]),
        (b"a\\*b", [b"a*b"], [b"axb"]),
        (b"a[\\]^]b", [b"a]b", b"a^b"], [b"axb"]),
        (b"[]", [], [b"", b"]"]),
        (b"a.b+", [b"a.b+"], [b"axb", b"a.bb"]),
        (b"*a*b*", [b"ab", b"xaybz"], [b"ba"]),
        (b"ab*b", [b"abb"], [b"ab"]),
    ],
)
def test_patterns(pattern: bytes, matching: list[bytes], others: list[bytes]) -> None:
    compiled = glob_pattern(pattern)
    assert all(compiled.fullmatch(key) for key in matching)
    assert not any(compiled.fullmatch(key) for key in others)
    assert all(key.startswith(glob_prefix(pattern)) for key in matching)


@given(st.text("ab*?", max_size=10), st.text("ab", max_size=10))
def test_stars_match_as_a_plain_regular_expression_does(pattern: str, key: str) -> None:
    plain = pattern.replace("*", ".*").replace("?", ".")
    expected = re.fullmatch(re.sub(r"(\.\*)+", ".*", plain), key) is not None
    assert (glob_pattern(pattern.encode()).fullmatch(key.encode()) is not None) == expected


def test_a_pattern_of_many_stars_is_quick() -> None:
    assert not glob_pattern(b"*a" * 30 + b"*b").fullmatch(b"a" * 1000)


def test_a_pattern_has_a_limit() -> None:
    with pytest.raises(ReplyError, match="4096"):
        glob_pattern(b"*" * 5000)

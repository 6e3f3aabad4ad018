"""`transports.url`: what is read, what is refused, and that no secret is ever shown."""

from __future__ import annotations

import copy
import pickle
import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from prefork.transports.url import InvalidUrl, Url, parse, parse_failover, redact

SECRET = "S3cr3t"

names = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["Cs"]))
hosts = st.text(alphabet=string.ascii_letters + string.digits + "-._é", max_size=20)
schemes = st.from_regex(r"[a-z][a-z0-9+.\-]{0,10}", fullmatch=True)
urls = st.builds(
    Url,
    scheme=schemes,
    user=st.none() | names.filter(bool),
    password=st.none() | st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    host=hosts | st.sampled_from(["::1", "fe80::1"]),
    port=st.none() | st.integers(0, 65535),
    path=st.just("") | names.map(lambda text: "/" + text),
    query=st.lists(st.tuples(names.filter(bool), names), max_size=3).map(tuple),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("memory://", Url("memory")),
        ("memory://Name", Url("memory", host="Name")),
        ("filesystem:///var/lib/app", Url("filesystem", path="/var/lib/app")),
        ("filesystem:/var/lib/app", Url("filesystem", path="/var/lib/app")),
        ("filesystem:", Url("filesystem")),
        ("filesystem:///with%20space/%C3%A9", Url("filesystem", path="/with space/é")),
        ("filesystem:///srv/a@b", Url("filesystem", path="/srv/a@b")),
        ("REDIS://h", Url("redis", host="h")),
        ("redis://localhost:6379/0", Url("redis", host="localhost", port=6379, path="/0")),
        ("redis://:p%40ss@h/1", Url("redis", password="p@ss", host="h", path="/1")),
        ("redis://:@h", Url("redis", password="", host="h")),
        ("amqp://u:p@h//", Url("amqp", user="u", password="p", host="h", path="//")),
        ("amqp://u:p:q@h", Url("amqp", user="u", password="p:q", host="h")),
        ("amqp://u:p@q@h", Url("amqp", user="u", password="p@q", host="h")),
        ("amqp://guest@h", Url("amqp", user="guest", host="h")),
        ("redis://[::1]:7000", Url("redis", host="::1", port=7000)),
        ("redis://[::1]", Url("redis", host="::1")),
        ("redis://h:", Url("redis", host="h")),
        (
            "redis+socket:///run/r.sock?virtual_host=1",
            Url("redis+socket", path="/run/r.sock", query=(("virtual_host", "1"),)),
        ),
        ("x://h?a=1&a=2&b&c=", Url("x", host="h", query=(("a", "1"), ("a", "2"), ("b", ""), ("c", "")))),
        ("x://h?u=http://a;b", Url("x", host="h", query=(("u", "http://a;b"),))),
    ],
)
def test_a_url_is_read_into_its_decoded_parts(text: str, expected: Url) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "scheme"),
        ("memory", "scheme"),
        ("//host", "scheme"),
        ("://host", "scheme"),
        ("1x://host", "scheme"),
        ("re dis://h", "scheme"),
        ("redis://a;redis://b", "several servers"),
        ("redis://h h", "space"),
        ("redis://h/\n", "control"),
        ("redis://h:port", "port"),
        ("redis://h:65536", "port"),
        ("redis://h:-1", "port"),
        ("redis://h:٣", "port"),
        ("redis://h:1:2", "port"),
        ("redis://[::1", "brackets"),
        ("redis://[::1]6379", "brackets"),
        (f"redis://u:{SECRET}/x@h", "%2F"),
        (f"redis://u:{SECRET}?x@h", "%3F"),
        (f"redis://:{SECRET}@h:port", "port"),
        (f"redis://:{SECRET}@a b", "space"),
        (f"redis://h:port?password={SECRET}", "port"),
    ],
)
def test_what_is_no_url_is_refused_with_the_reason_and_without_its_secrets(text: str, says: str) -> None:
    with pytest.raises(InvalidUrl, match=says) as raised:
        parse(text)
    assert SECRET not in str(raised.value) + repr(raised.value) + raised.value.shown
    assert raised.value.why in str(raised.value)


@given(urls)
def test_a_url_written_with_its_secrets_is_read_as_the_same(url: Url) -> None:
    assert parse(url.with_secrets()) == url


@given(
    urls, st.sampled_from(["password", "ssl_keyfile", "API-KEY", "X-Amz-Signature", "access_token", "pwd"])
)
def test_a_url_never_shows_its_secrets(url: Url, key: str) -> None:
    plain = Url(url.scheme, url.user, None, url.host, url.port, url.path, url.query)
    assume(SECRET not in plain.with_secrets())
    secret = Url(
        url.scheme,
        url.user,
        SECRET,
        url.host,
        url.port,
        url.path,
        (*url.query, (key, SECRET), ("z", "shown")),
    )
    for shown in (str(secret), repr(secret), f"{secret}", f"{secret!r}", redact(secret.with_secrets())):
        assert SECRET not in shown
    assert str(secret).endswith("z=shown")
    assert SECRET in secret.with_secrets()


@pytest.mark.parametrize("text", ["A:0", "redis:localhost", "filesystem:queue/here"])
def test_what_is_neither_a_host_nor_a_path_is_refused(text: str) -> None:
    with pytest.raises(InvalidUrl, match="write :// and a host"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        f"redis:{SECRET}@localhost",
        f"redis::{SECRET}@localhost:6379/0",
        f"amqp:bob:{SECRET}@h/x?q=a@b",
        f"amqp:/{SECRET}@h;amqp:b",
        f"my broker:{SECRET}@h",
    ],
)
def test_an_error_shows_no_password_where_the_slashes_were_forgotten(text: str) -> None:
    with pytest.raises(InvalidUrl) as raised:
        parse(text)
    assert SECRET not in f"{raised.value} {raised.value!r}"


@given(st.text())
@example("A:0")
def test_reading_any_text_gives_a_url_or_the_one_error(text: str) -> None:
    try:
        url = parse(text)
    except InvalidUrl:
        return
    assert parse(url.with_secrets()) == url


@given(st.text())
def test_redacting_never_raises_and_is_stable(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://user@h", "redis://user@h"),
        (f"redis://u:{SECRET}@h", "redis://u:**@h"),
        (f"redis://:{SECRET}@h", "redis://:**@h"),
        (f"a=redis://:{SECRET}@h and amqp://u:{SECRET}@i/", "a=redis://:**@h and amqp://u:**@i/"),
        (f"redis://:{SECRET}@a;redis://:{SECRET}@b", "redis://:**@a;redis://:**@b"),
        (f"redis://:{SECRET}@a,redis://:{SECRET}@b", "redis://:**@a,redis://:**@b"),
        (f"redis://:x/{SECRET}@h", "redis://:**@h"),
        (f"redis://:x@{SECRET}@h", "redis://:**@h"),
        (f"x://h?a=1&password={SECRET}&b=2", "x://h?a=1&password=**&b=2"),
        (f"x://h?p%61ssword={SECRET}", "x://h?p%61ssword=**"),
        (f"x://h?token={SECRET} failed", "x://h?token=** failed"),
        ("no url at all", "no url at all"),
    ],
)
def test_a_text_is_shown_without_the_secrets_of_its_urls(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_a_failover_list_is_read_in_order() -> None:
    urls = parse_failover("redis://a;redis://:p@b:2/1;")
    assert urls == (Url("redis", host="a"), Url("redis", password="p", host="b", port=2, path="/1"))


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "empty"), (";;", "empty"), ("redis://a;amqp://b", "one scheme"), ("redis://a;b", "scheme")],
)
def test_a_failover_list_that_makes_no_sense_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidUrl, match=says):
        parse_failover(text)


def test_a_url_is_a_value() -> None:
    url = parse(f"redis://u:{SECRET}@h/0?a=1&a=2")
    assert copy.copy(url) == url
    assert pickle.loads(pickle.dumps(url)) == url
    assert len({url, parse(url.with_secrets())}) == 1
    assert url.options == {"a": "2"}

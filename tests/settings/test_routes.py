"""The setting ``route``: its forms, what a route inherits, and the errors."""

import tomllib
from pathlib import Path

import pytest
from yarl import URL

from aiorelay.settings import SETTINGS, ConfigFile, Route, Settings, SettingsError, read

URL_A = "http://a.example/api"


def from_file(text):
    settings, origins = read({}, {}, ConfigFile("relay.toml", Path("/etc/aiorelay"), tomllib.loads(text)))
    assert origins["route"] == "file relay.toml"
    return settings


@pytest.mark.parametrize(
    "given",
    [
        f"/a={URL_A},field=file,max-size=1MiB",
        {"path": "/a", "upstream": URL_A, "field": "file", "max_size": "1MiB"},
        {"path": "/a", "upstream": URL(URL_A), "field": "file", "max-size": 2**20},
        Route(path="/a", upstream=URL(URL_A), own={"field": "file", "max_size": 2**20}),
    ],
    ids=["text", "table", "typed table", "Route"],
)
def test_a_route_is_written_as_text_or_as_a_table(given):
    settings = Settings(route=given)
    (route,) = settings.route
    assert (route.path, route.upstream, route.raw, route.tokens) == ("/a", URL(URL_A), False, ())
    own = settings.of_route(route)
    assert (own.upstream, own.field, own.max_size) == (URL(URL_A), "file", 2**20)


def test_tables_of_the_file_are_routes():
    settings = from_file(
        f"""
        [[route]]
        path = "/a/*"
        upstream = "{URL_A}"
        raw = true
        tokens = ["alice", "bob"]
        accept = [".csv", ".txt"]
        upstream_ca = "ca.pem"

        [[route]]
        path = "/b"
        upstream = "http://b.example"
        """
    )
    first, second = settings.route
    assert (first.path, first.raw, first.tokens) == ("/a/*", True, ("alice", "bob"))
    assert settings.of_route(first).accept == (".csv", ".txt")
    assert settings.of_route(first).upstream_ca == Path("/etc/aiorelay/ca.pem")
    assert settings.of_route(second).accept == ()


def test_a_comma_in_a_variable_separates_routes_only_before_a_path():
    settings, origins = read({}, {"AIORELAY_ROUTE": "/a=http://a,field=f,max-size=1KiB, /b=http://b?x=1,2"})
    assert [(each.path, str(each.upstream)) for each in settings.route] == [
        ("/a", "http://a"),
        ("/b", "http://b/?x=1,2"),
    ]
    assert origins["route"] == "environment AIORELAY_ROUTE"


def test_a_route_inherits_checks_and_limits_but_nothing_about_the_upload_api():
    settings = Settings(
        route=f"/a={URL_A}",
        max_size=7,
        accept=[".csv"],
        upstream="https://main.example",
        upstream_header=["X-Key: secret"],
        upstream_insecure=True,
        upstream_mode="spool",
        field="file",
    )
    own = settings.of_route(settings.route[0])
    assert (own.max_size, own.accept) == (7, (".csv",))
    assert (own.upstream_header, own.upstream_insecure, own.upstream_mode, own.field) == (
        (),
        False,
        "stream",
        "somefile",
    )


@pytest.mark.parametrize(
    ("own", "service", "ca"),
    [
        ("", "icaps://a.example/scan", "a.pem"),
        (",icap=icap://b.example/scan", "icap://b.example/scan", None),
        (",icap=icaps://b.example/scan,icap-ca=b.pem", "icaps://b.example/scan", "b.pem"),
    ],
    ids=["that of the relay", "its own", "its own with a CA"],
)
def test_the_ca_of_the_relay_is_not_that_of_an_icap_service_that_a_route_has(own, service, ca):
    settings = Settings(icap="icaps://a.example/scan", icap_ca="a.pem", route=f"/a={URL_A}{own}")
    of_route = settings.of_route(settings.route[0])
    assert str(of_route.icap) == service
    assert (of_route.icap_ca and of_route.icap_ca.name) == ca


def test_a_route_is_shown_as_it_can_be_written_without_its_secrets():
    text = f"/a={URL_A}?key=s3cret,raw=true,tokens=alice,tokens=bob,field=file,upstream-header=X-Key: s3cret"
    setting = SETTINGS["route"]
    settings = Settings(route=text)
    assert setting.show(settings.route) == (
        f"/a={URL_A}?***,raw=true,tokens=alice,tokens=bob,field=file,upstream-header=X-Key: ***"
    )
    assert Settings(route=setting.kind.show(settings.route[0])).route == settings.route
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize("path", ["/", "/a", "/a/", "/a/*", "/*", "/a/b.c~d/7", "/%C3%A4", "/a:b@c"])
def test_paths(path):
    assert Settings(route={"path": path, "upstream": URL_A}).route[0].path == path


@pytest.mark.parametrize("path", ["", "a", "*", "/a*", "/*/b", "/a/**", "/a?b", "/a#b", "/ä", "/a b", "/%4", "/{a}", 7])
def test_what_is_no_path(path):
    with pytest.raises(
        SettingsError, match=r"^route: table 1 has the path .*, which is none \(argument route\); begin"
    ):
        Settings(route={"path": path, "upstream": URL_A})


@pytest.mark.parametrize("path", ["/../a", "/a/./b", "/a/.."])
def test_a_path_has_no_dot_segments(path):
    with pytest.raises(SettingsError, match="with dot segments"):
        Settings(route={"path": path, "upstream": URL_A})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            'path = "/b"',
            (
                "route: table 2 has no upstream (file relay.toml); "
                "write PATH=URL, such as /legacy/*=https://old.example.org/api."
            ),
        ),
        (
            'path = "/b"\nupstream = "ftp://b"',
            (
                "route: table 2 has an upstream that is not an http or https URL (file relay.toml); "
                "try https://uploads.example.org/upload."
            ),
        ),
        (
            'path = "/b"\nupstream = "http://b"\nmax_size = "large"',
            "route: number 2, '/b': max-size: 'large' is not a size (file relay.toml); try 500, 64KiB or 2GiB.",
        ),
        (
            'path = "/b"\nupstream = "http://b"\nmaxsize = "1KiB"',
            (
                "route: number 2, '/b': maxsize: there is no such setting for '1KiB' (file relay.toml); "
                "did you mean max_size?"
            ),
        ),
        (
            'path = "/b"\nupstream = "http://b"\ngrace = "1s"',
            (
                "route: number 2, '/b': grace: holds for the relay as a whole (file relay.toml); "
                "set it outside of the route."
            ),
        ),
        (
            'path = "/a"\nupstream = "http://b"',
            "route: number 2, '/a' has the path of another one (file relay.toml); give each its own.",
        ),
        (
            'path = "/b"\nupstream = "http://b"\nraw = "perhaps"',
            "route: table 2 has a value of raw that is neither true nor false (file relay.toml); write true or false.",
        ),
        (
            'path = "/b"\nupstream = "http://b"\ntokens = [7]',
            'route: table 2 has tokens that are no names (file relay.toml); write tokens = ["alice", "bob"].',
        ),
    ],
)
def test_a_wrong_table_is_told_with_its_number(text, sentence):
    with pytest.raises(SettingsError) as caught:
        from_file(f'[[route]]\npath = "/a"\nupstream = "{URL_A}"\n[[route]]\n{text}\n')
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("/a", "route: '/a' is not a route (flag --route); write PATH=URL, such as"),
        ("a=http://a", "route: 'a=http://a' has the path 'a', which is none (flag --route); begin it with /"),
        ("/a=http://u:secret@a", "route: '/a=http://***@a' has an upstream that contains credentials (flag --route);"),
        ("/a=http://a,max-size=x", "route: number 1, '/a': max-size: 'x' is not a size (flag --route);"),
    ],
)
def test_a_wrong_flag_is_told_without_its_secrets(text, sentence):
    with pytest.raises(SettingsError) as caught:
        read({"route": [text]}, {})
    assert str(caught.value).startswith(sentence)


def test_a_relay_with_routes_needs_no_upstream():
    assert Settings(only="rest1", route=f"/a={URL_A}").upstream is None

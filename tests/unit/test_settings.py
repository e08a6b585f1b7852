"""Where settings come from, what wins, and what is refused at start."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
from pydantic import BaseModel

from wetread.errors import Misconfigured
from wetread.settings import Settings, is_loopback, load

MAIL = {"host": "mail.example.org", "sender": "wetread@example.org", "recipients": ["example.org"]}
EXAMPLE = Path(__file__).parents[2] / "wetread.example.toml"
PACS = {"name": "pacs", "kind": "dicom", "host": "127.0.0.1", "port": 104, "ae_title": "PACS", "sends": ["sr"]}
RIS = {"name": "ris", "kind": "mllp", "host": "127.0.0.1", "port": 2575, "sends": ["alert"]}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WETREAD_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "wetread.toml"


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()


def refusal(file: Path | None, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(Misconfigured) as caught:
        load(file, overrides)
    return caught.value.message


class TestTheExampleFile:
    """`wetread.example.toml` is the reference of all keys: `key = value` is a default, `#key = value` an example."""

    def test_holds_exactly_the_defaults(self) -> None:
        assert load(EXAMPLE).model_dump() == load(None).model_dump()

    def test_loads_with_every_example_in_it(self, file: Path) -> None:
        (file.parent / "site").mkdir()
        touch(file.parent / "tls", "wetread.pem", "wetread.key", "clients.pem", "hospital-ca.pem")
        (file.parent / "secrets").mkdir(exist_ok=True)
        (file.parent / "secrets" / "keycloak").write_text("s3cret\n")
        (file.parent / "secrets" / "ehr-hooks").write_text("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3\n")
        (file.parent / "secrets" / "mail").write_text("pa55word\n")
        (file.parent / "secrets" / "nats").touch()
        file.write_text(uncommented(EXAMPLE.read_text()))
        settings = load(file)
        assert settings.mllp.tls is not None
        assert settings.mllp.tls.client_ca is not None
        assert settings.outbound.destinations[0].ae_title == "PACS"
        assert settings.access.providers[0].client_secret.get_secret_value() == "s3cret"
        assert settings.outbound.mail is not None
        assert settings.outbound.mail.password.get_secret_value() == "pa55word"
        assert settings.outbound.endpoints[0].key == b"0123456789abcdef01234567"

    def test_names_every_key_and_no_other(self) -> None:
        assert keys_of_file(tomllib.loads(uncommented(EXAMPLE.read_text())), Settings) == set(keys_of_model(Settings))

    def test_says_what_each_key_means(self) -> None:
        """A comment stands above each key; keys that follow each other without a blank line share one."""
        explained = False
        for line in EXAMPLE.read_text().splitlines():
            if line.startswith("# "):
                explained = True
            elif not line:
                explained = False
            elif re.match(r"#?\w+ = ", line):
                assert explained or "[" in above(line), line


def above(line: str) -> str:
    lines = EXAMPLE.read_text().splitlines()
    return lines[lines.index(line) - 1]


def uncommented(text: str) -> str:
    return re.sub(r"^#(?=\[|[\w-]+ = )", "", text, flags=re.MULTILINE)


def section_of(annotation: Any) -> type[BaseModel] | None:
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def keys_of_model(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is None:
            yield prefix + name
        else:
            yield from keys_of_model(section, f"{prefix}{name}.")


def keys_of_file(values: dict[str, Any], model: type[BaseModel] | None, prefix: str = "") -> set[str]:
    """Keys of the file; a table that is a mapping in the settings (site.authorities) is one key."""
    found: set[str] = set()
    for name, value in values.items():
        field = model.model_fields.get(name) if model else None
        section = section_of(field.annotation) if field else None
        if section is None:
            found.add(prefix + name)
            continue
        for table in value if isinstance(value, list) else [value]:
            found |= keys_of_file(table, section, f"{prefix}{name}.")
    return found


class TestPrecedence:
    def test_defaults_need_no_file(self) -> None:
        settings = load(None)
        assert (settings.http.port, settings.mllp.port, settings.dicom.port) == (8080, 2575, 11112)
        assert settings.dicom.ae_title == "WETREAD"
        assert settings.models.default_phase == "silent"

    def test_command_line_over_environment_over_file(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file.write_text("[http]\nport = 1001\nhost = '127.0.0.2'\n[mllp]\nport = 1001\n[dicom]\nport = 1001\n")
        monkeypatch.setenv("WETREAD_HTTP__PORT", "1002")
        monkeypatch.setenv("WETREAD_MLLP__PORT", "1002")
        settings = load(file, {"http": {"port": 1003}})
        assert (settings.http.port, settings.mllp.port, settings.dicom.port) == (1003, 1002, 1001)
        assert settings.http.host == "127.0.0.2"

    def test_lists_and_tables_are_json_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WETREAD_MLLP__ALLOW", '["10.1.0.0/16"]')
        monkeypatch.setenv("WETREAD_SITE__AUTHORITIES", '{"HOSP": "urn:oid:1.2.3"}')
        monkeypatch.setenv(
            "WETREAD_OUTBOUND__DESTINATIONS",
            '[{"name": "ris", "kind": "mllp", "host": "10.1.0.9", "port": 2575, "sends": ["alert"]}]',
        )
        settings = load(None)
        assert settings.mllp.allow == ("10.1.0.0/16",)
        assert settings.site.authorities == {"HOSP": "urn:oid:1.2.3"}
        assert settings.outbound.destinations[0].sends == ("alert",)

    def test_an_optional_section_can_come_from_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch(tmp_path, "server.pem", "server.key")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("WETREAD_MLLP__TLS__CERTIFICATE", "server.pem")
        monkeypatch.setenv("WETREAD_MLLP__TLS__KEY", "server.key")
        tls = load(None).mllp.tls
        assert tls is not None
        assert tls.certificate == Path("server.pem")

    def test_an_empty_variable_counts_as_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WETREAD_DATABASE_URL", "")
        assert load(None).database_url is None

    def test_relative_paths_of_a_file_start_at_its_folder(self, file: Path) -> None:
        file.write_text(
            f"data_dir = 'data'\noverlay_dir = '{file.parent}'\n[models]\nfolders = ['own']\n"
            "[dicom.tls]\ncertificate = 'tls/a.pem'\nkey = 'tls/a.key'\n"
        )
        touch(file.parent / "tls", "a.pem", "a.key")
        settings = load(file)
        assert settings.data_dir == file.parent / "data"
        assert settings.overlay_dir == file.parent
        assert settings.models.folders == (file.parent / "own",)
        assert settings.dicom.tls is not None
        assert settings.dicom.tls.certificate == file.parent / "tls/a.pem"


class TestRefusals:
    """The message names the key and what was expected, and repeats no secret."""

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("prot = 1", "prot: no such setting; known: profile, data_dir"),
            ("[mllp]\nprot = 2575", "mllp.prot: no such setting; known: host, port"),
            ("[mllp.tls]\ncert = 'x'", "mllp.tls.cert: no such setting; known: certificate, key, client_ca"),
            ("_env_file = 'other'", "_env_file: no such setting"),
            ("[http]\nport = 'eighty'", "http.port: Input should be a valid integer"),
            ("[http]\nport = 65536", "http.port: Input should be less than or equal to 65535"),
            ("profile = 'test'", "profile: Input should be 'production' or 'demo'"),
            ("[dicom]\nae_title = 'SEVENTEEN-LETTERS'", "dicom.ae_title: String should have at most 16 characters"),
            ("[site]\ntime_zone = 'Berlin'", "site.time_zone: not a time zone of the IANA database"),
            ("[mllp]\ndefault_charset = 'latin'", ""),
            ("[mllp]\ndefault_charset = 'klingon'", "mllp.default_charset: not a character set"),
            ("[mllp]\nallow = ['10.1.0.0/8']", "mllp.allow: '10.1.0.0/8' is not a network"),
            ("[dicom]\nallow = ['pacs']", "dicom.allow: 'pacs' is not a network"),
            ("[outbound]\nallow = ['bücher.example']", "outbound.allow: 'bücher.example': write other letters as xn--"),
            ("[outbound]\nallow = ['10.0.0.1/8']", "outbound.allow: '10.0.0.1/8' is neither a network nor a host name"),
            ("overlay_dir = 'nowhere'", "overlay_dir: there is no folder"),
            ("[mllp.tls]\ncertificate = 'a.pem'\nkey = 'a.key'", "mllp.tls.certificate: there is no file"),
            ("[study]\nquiet_s = 0", "study.quiet_s: Input should be greater than 0"),
            ("database_url = 'sqlite:///secret'", "database_url: expected postgresql://"),
            ("http = 8080", "http: Input should be a valid dictionary"),
            ("= 1", "not TOML"),
        ],
    )
    def test_of_a_file(self, file: Path, text: str, named: str) -> None:
        file.write_text(text)
        if not named:
            load(file)
            return
        message = refusal(file)
        assert named in message
        assert "secret" not in message

    def test_every_fault_is_named_at_once(self, file: Path) -> None:
        file.write_text("[http]\nport = -1\n[dicom]\nport = -1\n")
        message = refusal(file)
        assert "http.port" in message
        assert "dicom.port" in message

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        assert "cannot be read" in refusal(tmp_path / "none.toml")

    @pytest.mark.parametrize(
        ("name", "value", "named"),
        [
            ("WETREAD_HTP__PORT", "1", "WETREAD_HTP__PORT: no such setting"),
            ("WETREAD_HTTP__PROT", "1", "http.prot: no such setting"),
            ("WETREAD_HTTP__PORT", "x", "http.port: Input should be a valid integer"),
            ("WETREAD_MLLP__ALLOW", "10.0.0.0/8", "mllp"),
        ],
    )
    def test_of_the_environment(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str, named: str) -> None:
        monkeypatch.setenv(name, value)
        assert named in refusal(None)

    def test_of_the_command_line(self) -> None:
        assert "http.port" in refusal(None, {"http": {"port": 70000}})


class TestListeners:
    @pytest.mark.parametrize("name", ["mllp", "dicom"])
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.0.5", "wetread.example.org", ""])
    def test_beyond_loopback_needs_an_allow_list_or_mutual_tls(self, name: str, host: str, tmp_path: Path) -> None:
        touch(tmp_path, "a.pem", "a.key", "ca.pem")
        assert f"{name}.host" in refusal(None, {name: {"host": host}})
        assert load(None, {name: {"host": host, "allow": ["10.1.0.0/16"]}})
        tls = {"certificate": tmp_path / "a.pem", "key": tmp_path / "a.key"}
        assert f"{name}.host" in refusal(None, {name: {"host": host, "tls": tls}})
        assert load(None, {name: {"host": host, "tls": {**tls, "client_ca": tmp_path / "ca.pem"}}})

    def test_http_beyond_loopback_needs_tls_or_a_proxy_or_networks(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.pem", "a.key")
        tls = {"certificate": tmp_path / "a.pem", "key": tmp_path / "a.key"}
        assert "http.host" in refusal(None, {"http": {"host": "0.0.0.0"}})
        for enough in ({"tls": tls}, {"trusted_proxies": ["10.1.2.3/32"]}, {"allow": ["10.1.0.0/16"]}):
            assert load(None, {"http": {"host": "0.0.0.0", **enough}})

    @pytest.mark.parametrize("key", ["allow", "trusted_proxies"])
    def test_networks_of_http_are_networks(self, key: str) -> None:
        assert f"http.{key}" in refusal(None, {"http": {key: ["10.1.2.3/16"]}})

    def test_a_certificate_that_clients_may_leave_out_is_no_mutual_tls(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.pem", "a.key", "ca.pem")
        files = {
            name: tmp_path / f for name, f in (("certificate", "a.pem"), ("key", "a.key"), ("client_ca", "ca.pem"))
        }
        tls = {**files, "require_client_certificate": False}
        assert "mllp.host" in refusal(None, {"mllp": {"host": "0.0.0.0", "tls": tls}})

    def test_the_record_answers_to_its_former_addresses_after_its_own(self) -> None:
        urls = {"base_url": "https://now.example", "former_base_urls": ["http://then.example:8080/"]}
        assert load(None, {"http": urls}).fhir_bases == ("https://now.example/fhir", "http://then.example:8080/fhir")

    def test_base_url_follows_tls(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.pem", "a.key")
        tls = {"certificate": tmp_path / "a.pem", "key": tmp_path / "a.key"}
        assert load(None, {"http": {"tls": tls}}).base_url == "https://127.0.0.1:8080"
        assert load(None, {"http": {"host": "::1"}}).base_url == "http://[::1]:8080"

    def test_versions_of_tls_are_named_as_text(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.pem", "a.key")
        for wrong in ("1.1", "1.0", "ssl3", 1.2):
            tls = {"certificate": tmp_path / "a.pem", "key": tmp_path / "a.key", "minimum_version": wrong}
            assert "http.tls.minimum_version" in refusal(None, {"http": {"tls": tls}})

    def test_an_ae_title_list_is_no_allow_list(self) -> None:
        assert "dicom.host" in refusal(None, {"dicom": {"host": "0.0.0.0", "allow_ae_titles": ["CT1"]}})

    @pytest.mark.parametrize(
        ("host", "stays"),
        [
            ("127.0.0.1", True),
            ("127.9.9.9", True),
            ("::1", True),
            ("[::1]:8080", True),
            ("localhost:8080", True),
            ("http://localhost/x", True),
            ("https://[::1]:8443/dicom-web", True),
            ("0.0.0.0", False),
            ("::", False),
            ("", False),
            ("localhost.example.org", False),
            ("http://127.0.0.1:80@pacs.example.org/", False),
            ("http://[broken", False),
        ],
    )
    def test_loopback(self, host: str, stays: bool) -> None:
        assert is_loopback(host) is stays


class TestDemoProfile:
    @pytest.mark.parametrize("origin", ["file", "environment", "command line"])
    def test_lays_its_defaults_wherever_it_is_chosen(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, origin: str
    ) -> None:
        file.write_text("profile = 'demo'\n" if origin == "file" else "")
        if origin == "environment":
            monkeypatch.setenv("WETREAD_PROFILE", "demo")
        settings = load(file, {"profile": "demo"} if origin == "command line" else {})
        assert settings.demo
        assert (settings.study.quiet_s, settings.models.default_phase, settings.site.processing_id) == (
            2,
            "active",
            "T",
        )

    def test_the_file_wins_over_its_defaults(self, file: Path) -> None:
        file.write_text("profile = 'demo'\n[study]\nquiet_s = 5\n")
        settings = load(file)
        assert (settings.study.quiet_s, settings.site.name) == (5, "Demo Hospital")

    def test_the_command_line_can_leave_it(self, file: Path) -> None:
        file.write_text("profile = 'demo'\n")
        assert load(file, {"profile": "production"}).models.default_phase == "silent"

    @pytest.mark.parametrize(
        ("values", "key"),
        [
            ({"http": {"host": "0.0.0.0"}}, "http.host"),
            ({"mllp": {"host": "10.0.0.1", "allow": ["10.0.0.0/8"]}}, "mllp.host"),
            ({"dicom": {"host": "::", "allow": ["10.0.0.0/8"]}}, "dicom.host"),
            ({"outbound": {"destinations": [{**PACS, "host": "10.0.0.2"}]}}, "outbound.destinations.pacs"),
            (
                {"outbound": {"destinations": [{"name": "w", "kind": "stow", "url": "http://x.org", "sends": ["sr"]}]}},
                "outbound.destinations.w",
            ),
            ({"outbound": {"allow": ["10.0.0.0/8"]}}, "outbound.allow"),
            ({"outbound": {"allow": ["hook.example.org"]}}, "outbound.allow"),
            ({"outbound": {"mail": MAIL}}, "outbound.mail.host"),
            ({"outbound": {"nats": {"servers": ["tls://n.example.org"], "subjects": [">"]}}}, "outbound.nats.servers"),
        ],
    )
    def test_stays_on_loopback(self, values: dict[str, Any], key: str) -> None:
        message = refusal(None, {"profile": "demo", **values})
        assert message.startswith(f"{key}: the demo profile stays on loopback")

    def test_takes_loopback_destinations(self) -> None:
        assert load(None, {"profile": "demo", "outbound": {"destinations": [PACS, RIS]}}).demo


class TestWaysOfNotifications:
    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"mail": {**MAIL, "username": "wetread", "security": "none"}}, "without TLS"),
            ({"mail": {**MAIL, "recipients": []}}, "outbound.mail.recipients"),
            ({"mail": {**MAIL, "sender": "wetread"}}, "outbound.mail.sender"),
            ({"nats": {"servers": ["nats://n.example.org:4222"], "subjects": [">"]}}, "beyond loopback"),
            ({"nats": {"servers": ["nats://me:hush@127.0.0.1"], "subjects": [">"]}}, "expected nats://host:4222"),
            ({"nats": {"servers": ["http://127.0.0.1"], "subjects": [">"]}}, "expected nats://host:4222"),
            ({"nats": {"servers": ["tls://n.example.org"], "subjects": []}}, "outbound.nats.subjects"),
        ],
    )
    def test_that_cannot_be_meant_or_tell_too_much_are_refused(self, values: dict[str, Any], said: str) -> None:
        message = refusal(None, {"outbound": values})
        assert said in message
        assert "hush" not in message


class TestDestinations:
    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"kind": "ftp"}, "kind: Input should be 'dicom', 'stow' or 'mllp'"),
            ({"host": ""}, "a destination of kind 'dicom' needs 'host'"),
            ({"port": 0}, "a destination of kind 'dicom' needs 'port'"),
            ({"ae_title": ""}, "a destination of kind 'dicom' needs 'ae_title'"),
            ({"kind": "stow"}, "a destination of kind 'stow' needs 'url'"),
            ({"name": "The PACS"}, "name: String should match pattern"),
            ({"sends": []}, "sends: Tuple should have at least 1 item"),
            ({"sends": ["pdf"]}, "sends.0: Input should be 'sr', 'seg', 'pr' or 'alert'"),
            ({"sends": ["sr", "alert"]}, "a destination of kind 'dicom' sends pr, seg, sr only"),
            ({"kind": "mllp"}, "a destination of kind 'mllp' sends alert only"),
            ({"prot": 1}, "prot: no such setting; known: name, kind"),
        ],
    )
    def test_must_be_whole(self, change: dict[str, Any], named: str) -> None:
        message = refusal(None, {"outbound": {"destinations": [{**PACS, **change}]}})
        assert "outbound.destinations.0" in message
        assert named in message

    def test_have_names_of_their_own(self) -> None:
        assert "two destinations are named 'pacs'" in refusal(None, {"outbound": {"destinations": [PACS, PACS]}})


class TestSecretsInFiles:
    def test_are_read_less_the_newline_at_their_end(self, file: Path) -> None:
        (file.parent / "url").write_text("postgresql://wetread:hush@db/wetread\n")
        file.write_text("database_url_file = 'url'\n")
        url = load(file).database_url
        assert url is not None
        assert url.get_secret_value() == "postgresql://wetread:hush@db/wetread"

    def test_may_be_named_by_the_environment_where_the_value_itself_wins(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (file.parent / "url").write_text("postgresql://file@db/wetread")
        monkeypatch.setenv("WETREAD_DATABASE_URL_FILE", str(file.parent / "url"))
        url = load(None).database_url
        assert url is not None
        assert url.get_secret_value() == "postgresql://file@db/wetread"
        monkeypatch.setenv("WETREAD_DATABASE_URL", "postgresql://variable@db/wetread")
        url = load(None).database_url
        assert url is not None
        assert url.get_secret_value() == "postgresql://variable@db/wetread"

    def test_must_be_there_and_hold_something(self, file: Path) -> None:
        assert "database_url_file" in refusal(None, {"database_url_file": file.parent / "none"})
        touch(file.parent, "empty")
        assert "is empty" in refusal(None, {"database_url_file": file.parent / "empty"})

    def test_do_not_show_where_they_are_wrong(self, file: Path) -> None:
        (file.parent / "url").write_text("mysql://wetread:hush@db/wetread")
        message = refusal(None, {"database_url_file": file.parent / "url"})
        assert "database_url" in message
        assert "hush" not in message


def test_the_database_password_does_not_show() -> None:
    settings = load(None, {"database_url": "postgresql://wetread:hush@db/wetread"})
    assert "hush" not in repr(settings)


class TestIdentityProviders:
    GIVEN: ClassVar[dict[str, Any]] = {
        "name": "kc",
        "display_name": "Keycloak",
        "issuer": "https://login.example.org/realms/hospital",
        "client_id": "wetread",
        "roles": {"radiology": ["radiologist"]},
    }

    def refused(self, *providers: dict[str, Any], allow: tuple[str, ...] = ("login.example.org",)) -> str:
        return refusal(None, {"outbound": {"allow": list(allow)}, "access": {"providers": list(providers)}})

    def test_their_host_is_one_that_this_server_may_call(self) -> None:
        given = {"outbound": {"allow": ["login.example.org"]}, "access": {"providers": [self.GIVEN]}}
        assert load(None, given).access.providers[0].roles == {"radiology": ("radiologist",)}
        said = self.refused(self.GIVEN, allow=("127.0.0.0/8",))
        assert "access.providers.kc.issuer" in said
        assert "outbound.allow" in said

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("issuer", "http://login.example.org/realms/hospital"),
            ("issuer", "https://login.example.org/?realm=x"),
            ("issuer", "login.example.org"),
            ("name", "Key/cloak"),
            ("roles", {"radiology": ["king"]}),
            ("without_group", ["king"]),
            ("scopes", ["two words"]),
            ("prompt", "please"),
        ],
    )
    def test_what_cannot_work_is_refused(self, key: str, value: Any) -> None:
        assert key in self.refused({**self.GIVEN, key: value})

    @pytest.mark.parametrize("key", ["name", "issuer"])
    def test_no_two_are_alike(self, key: str) -> None:
        other = {**self.GIVEN, "name": "other", "issuer": "https://login.example.org/other", key: self.GIVEN[key]}
        assert f"two identity providers have the {key}" in self.refused(self.GIVEN, other)

    def test_secrets_do_not_show(self) -> None:
        given = {**self.GIVEN, "client_secret": "s3cret"}
        settings = load(None, {"outbound": {"allow": ["login.example.org"]}, "access": {"providers": [given]}})
        assert "s3cret" not in repr(settings)

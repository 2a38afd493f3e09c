"""Settings: one way in, the first of four places wins, and one start names every mistake."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from consumer.config import consumer_settings
from schemas.settings import (
    BY_NAME,
    PREFIX,
    RESERVED_KAFKA,
    SETTINGS,
    Program,
    SettingsError,
    Values,
    add_flags,
    load,
    of_program,
)

ROOT = Path(__file__).parents[2]


def loaded(
    environ: Mapping[str, str] | None = None,
    *flags: str,
    program: Program = "consumer",
) -> Values:
    parser = argparse.ArgumentParser()
    add_flags(parser, program)
    return load(program, parser.parse_args(flags), environ or {})


def problems(
    environ: Mapping[str, str] | None = None, *flags: str, program: Program = "consumer"
) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        loaded(environ, *flags, program=program)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def problem(environ: Mapping[str, str], *flags: str, program: Program = "consumer") -> str:
    (only,) = problems(environ, *flags, program=program)
    return only


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "penstock.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


# --- where a value comes from -----------------------------------------------------------------


def test_flag_wins_over_environment_over_file_over_default(toml: Callable[[str], str]) -> None:
    config = toml("BATCH_ROWS = 2000")
    environ = {"PENSTOCK_BATCH_ROWS": "3000"}
    assert loaded().integer("BATCH_ROWS") == 50_000
    assert loaded({}, "--config", config).integer("BATCH_ROWS") == 2000
    assert loaded(environ, "--config", config).integer("BATCH_ROWS") == 3000
    assert loaded(environ, "--config", config, "--batch-rows", "4000").integer("BATCH_ROWS") == 4000


def test_without_flags_at_all_the_environment_is_read() -> None:
    values = load("consumer", None, {"PENSTOCK_KAFKA_TOPIC": "clicks"})
    assert values.text("KAFKA_TOPIC") == "clicks"


def test_the_defaults_that_others_rely_on() -> None:
    values = loaded()
    assert values.text("KAFKA_TOPIC") == "events"
    assert values.text("KAFKA_GROUP") == "penstock"
    assert values.integer("BATCH_ROWS") == 50_000
    assert values.number("BATCH_AGE_SECONDS") == 2
    assert values.number("INSERTS_PER_SECOND") == 4
    assert values.integer("ADMIN_PORT") == 9401
    shim = loaded(program="shim")
    assert (shim.integer("ADMIN_PORT"), shim.integer("HTTP_PORT")) == (9400, 8080)
    assert (shim.number("PACK_MILLISECONDS"), shim.integer("LANES")) == (3, 1)
    assert shim.integer("TRUSTED_PROXIES") == 0


def test_in_a_file_names_may_have_their_prefix_and_values_a_type(
    toml: Callable[[str], str],
) -> None:
    config = toml('PENSTOCK_KAFKA_TOPIC = "clicks"\nBATCH_AGE_SECONDS = 0.5\nBATCH_ROWS = 7')
    values = loaded({}, "--config", config)
    assert values.text("KAFKA_TOPIC") == "clicks"
    assert values.number("BATCH_AGE_SECONDS") == 0.5
    assert values.integer("BATCH_ROWS") == 7


def test_names_of_other_programs_are_known_and_left_alone() -> None:
    values = loaded({"PENSTOCK_HTTP_PORT": "8081", "PATH": "/bin", "HOME": "/"})
    assert "HTTP_PORT" not in values.values


def test_every_default_is_a_value_that_may_be_given() -> None:
    for setting in SETTINGS:
        for program in setting.programs:
            assert setting.problem(setting.default_of(program)) is None, setting.name


@pytest.mark.parametrize("program", ["shim", "consumer", "schemas"])
def test_every_setting_of_a_program_has_a_flag_but_secrets(program: Program) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, program)
    text = parser.format_help()
    for setting in of_program(program):
        assert (setting.flag + " " in text) is not setting.secret, setting.name
        if setting.secret:
            assert f"only there: PENSTOCK_{setting.name}" in " ".join(text.split())
    assert "--log-level" not in parser.format_usage(), "what is wrong stands just below it"


# --- unknown names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("BATCH_ROW", "BATCH_ROWS"),
        ("BATCH_SECONDS", "BATCH_AGE_SECONDS"),
        ("KAFKA_TOPICS", "KAFKA_TOPIC"),
        ("KAFKA_BOOTSTRAP_SERVER", "KAFKA_BOOTSTRAP_SERVERS"),
        ("CLICKHOUSE_URI", "CLICKHOUSE_URL"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, nearest: str) -> None:
    said = problem({PREFIX + name: "1"})
    assert said == f"PENSTOCK_{name} is not a setting; did you mean PENSTOCK_{nearest}?"


def test_an_unknown_name_that_is_like_none_is_refused_with_a_hint() -> None:
    assert problem({"PENSTOCK_XYZZY": "1"}) == "PENSTOCK_XYZZY is not a setting; see --help"


def test_an_unknown_name_in_a_file_is_refused_with_its_place(toml: Callable[[str], str]) -> None:
    config = toml("BATCH_ROW = 1")
    said = problem({}, "--config", config)
    assert config in said
    assert "PENSTOCK_BATCH_ROWS" in said


def test_names_are_not_read_without_regard_to_case() -> None:
    assert "PENSTOCK_batch_rows" in problem({"PENSTOCK_batch_rows": "1"})


# --- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("BATCH_ROWS", "0", "from 1 to"),
        ("BATCH_ROWS", "-1", "from 1 to"),
        ("BATCH_ROWS", "1000001", "to 1000000"),
        ("BATCH_ROWS", "2.5", "a whole number"),
        ("BATCH_ROWS", "many", "a whole number"),
        ("BATCH_ROWS", "", "a whole number"),
        ("BATCH_AGE_SECONDS", "0", "from 0.01 to 600"),
        ("BATCH_AGE_SECONDS", "nan", "from 0.01 to 600"),
        ("BATCH_AGE_SECONDS", "inf", "from 0.01 to 600"),
        ("BATCH_AGE_SECONDS", "-inf", "from 0.01 to 600"),
        ("BATCH_AGE_SECONDS", "soon", "a number"),
        ("INSERT_DEADLINE_SECONDS", "NaN", "from 1 to 3600"),
        ("ADMIN_PORT", "65536", "from 0 to 65535"),
        ("KAFKA_TOPIC", "", "must not be empty"),
        ("LOG_LEVEL", "loud", "debug, info, warning, error"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_name(name: str, value: str, word: str) -> None:
    said = problem({PREFIX + name: value})
    assert said.startswith(PREFIX + name + " ")
    assert word in said
    assert said.endswith(f"not {value!r}")


def test_no_number_without_an_end_passes_anywhere() -> None:
    for setting in SETTINGS:
        if setting.kind in ("number", "integer"):
            for value in ("nan", "inf", "-inf", "1e999"):
                assert setting.problem(value), (setting.name, value)


def test_a_flag_that_cannot_be_used_is_named_as_it_was_given() -> None:
    assert problem({}, "--batch-rows", "0").startswith("--batch-rows must be from 1 to")


def test_every_mistake_is_named_at_once(toml: Callable[[str], str]) -> None:
    config = toml("BATCH_BYTE = 1\nBATCH_ROWS = true")
    found = problems(
        {
            "PENSTOCK_NOPE": "1",
            "PENSTOCK_KAFKA__ACKS": "1",
            "PENSTOCK_BATCH_ROWS": "0",
            "PENSTOCK_LOG_LEVEL": "loud",
        },
        "--config",
        config,
        "--batch-age-seconds",
        "never",
    )
    assert len(found) == 7
    for word in ("BATCH_BYTE ", "BATCH_ROWS in", "NOPE", "ACKS", "BATCH_ROWS must", "LOG_LEVEL",
                 "--batch-age-seconds"):  # fmt: skip
        assert sum(word in said for said in found) == 1, word


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["BATCH_ROWS = [1]", "BATCH_ROWS = true", "[BATCH_ROWS]\na = 1"])
def test_a_value_in_a_file_is_text_or_a_number(toml: Callable[[str], str], text: str) -> None:
    assert "must be text or a number" in problem({}, "--config", toml(text))


def test_a_file_that_is_no_toml_is_refused(toml: Callable[[str], str]) -> None:
    assert "cannot be read" in problem({}, "--config", toml("BATCH_ROWS 5"))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in problem({}, "--config", str(tmp_path / "none.toml"))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "penstock.toml"
    path.write_bytes(b"BATCH_ROWS = \xff")
    assert "cannot be read" in problem({}, "--config", str(path))


# --- librdkafka properties --------------------------------------------------------------------


def test_other_kafka_properties_pass_through(toml: Callable[[str], str]) -> None:
    config = toml('KAFKA__SASL_USERNAME = "me"\nKAFKA__SSL_CA_LOCATION = "/file"')
    values = loaded(
        {"PENSTOCK_KAFKA__SECURITY_PROTOCOL": "SASL_SSL", "PENSTOCK_KAFKA__SASL_USERNAME": "you"},
        "--config",
        config,
    )
    assert values.kafka == {
        "security.protocol": "SASL_SSL",
        "sasl.username": "you",
        "ssl.ca.location": "/file",
    }


@pytest.mark.parametrize("name", sorted(RESERVED_KAFKA))
def test_properties_that_the_guarantees_rest_on_are_refused_by_name(name: str) -> None:
    given = "PENSTOCK_KAFKA__" + name.upper().replace(".", "_")
    said = problem({given: "1"})
    assert said.startswith(f"{given} is reserved: ")


@pytest.mark.parametrize(
    "name",
    ["enable.auto.commit", "auto.offset.reset", "isolation.level", "enable.idempotence", "acks",
     "group.id", "group.instance.id", "group.protocol", "bootstrap.servers"],
)  # fmt: skip
def test_these_are_reserved(name: str) -> None:
    assert name in RESERVED_KAFKA


# --- secrets ----------------------------------------------------------------------------------

SECRET_URL = "http://me:hunter2@clickhouse:8123/penstock"


def test_a_secret_comes_from_a_file_without_its_line_end(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text(SECRET_URL + "\n", encoding="utf-8")
    assert loaded({"PENSTOCK_CLICKHOUSE_URL_FILE": str(path)}).text("CLICKHOUSE_URL") == SECRET_URL


def test_a_kafka_secret_comes_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(" hunter2 \r\n", encoding="utf-8")
    values = loaded({"PENSTOCK_KAFKA__SASL_PASSWORD_FILE": str(path)})
    assert values.kafka == {"sasl.password": " hunter2 "}


def test_a_secrets_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    said = problem({"PENSTOCK_CLICKHOUSE_URL_FILE": str(tmp_path / "none")})
    assert said.startswith("PENSTOCK_CLICKHOUSE_URL_FILE: cannot be read")


def test_a_secret_given_twice_must_be_the_same(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text(SECRET_URL, encoding="utf-8")
    both = {"PENSTOCK_CLICKHOUSE_URL_FILE": str(path), "PENSTOCK_CLICKHOUSE_URL": "http://other"}
    assert problem(both) == "PENSTOCK_CLICKHOUSE_URL is given twice with different values"
    both["PENSTOCK_CLICKHOUSE_URL"] = SECRET_URL
    assert loaded(both).text("CLICKHOUSE_URL") == SECRET_URL


def test_what_is_no_secret_comes_from_no_file(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text("5", encoding="utf-8")
    assert "BATCH_ROWS_FILE is not a setting" in problem({"PENSTOCK_BATCH_ROWS_FILE": str(path)})
    assert BY_NAME["PROJECTS_FILE"].secret is False  # a name of its own that ends so
    assert loaded({"PENSTOCK_PROJECTS_FILE": "p"}, program="shim").text("PROJECTS_FILE") == "p"


def test_secrets_are_never_shown() -> None:
    for url in ("ftp://me:hunter2@host", "http://me:hunter2@host:port/", "http:///hunter2"):
        with pytest.raises(SettingsError) as caught:
            consumer_settings(loaded({"PENSTOCK_CLICKHOUSE_URL": url}))
        assert "hunter2" not in str(caught.value)
        assert "PENSTOCK_CLICKHOUSE_URL" in str(caught.value)
    values = loaded(
        {"PENSTOCK_CLICKHOUSE_URL": SECRET_URL, "PENSTOCK_KAFKA__SASL_PASSWORD": "hunter3"}
    )
    assert "hunter" not in repr(values)
    assert "hunter" not in repr(consumer_settings(values))


# --- what the consumer makes of them ----------------------------------------------------------


def test_the_consumer_runs_with_what_was_set() -> None:
    chosen = consumer_settings(
        loaded(
            {
                "PENSTOCK_CLICKHOUSE_URL": "https://me:pass@host/db",
                "PENSTOCK_BATCH_ROWS": "10",
                "PENSTOCK_BATCH_BYTES": "2048",
                "PENSTOCK_BUFFER_BYTES": "4194304",
                "PENSTOCK_BATCH_AGE_SECONDS": "0.5",
                "PENSTOCK_INSERTS_PER_SECOND": "8",
                "PENSTOCK_INSERT_DEADLINE_SECONDS": "20",
                "PENSTOCK_INSERT_MAX_SECONDS": "25",
                "PENSTOCK_COMMIT_TIMEOUT_SECONDS": "5",
            }
        )
    )
    assert chosen.clickhouse.shown == "https://host:8443/db"
    limits, shares = chosen.limits, chosen.shares
    assert (limits.batch_rows, limits.batch_bytes) == (10, 2048)
    assert (limits.insert_deadline_seconds, limits.insert_max_seconds) == (20, 25)
    assert limits.commit_timeout_seconds == 5
    assert (shares.buffer_bytes, shares.batch_age_seconds) == (4194304, 0.5)
    assert shares.inserts_per_second == 8


def test_contradictions_are_named_all_at_once() -> None:
    values = loaded(
        {
            "PENSTOCK_CLICKHOUSE_URL": "nonsense",
            "PENSTOCK_BATCH_BYTES": "4194304",
            "PENSTOCK_BUFFER_BYTES": "1048576",
            "PENSTOCK_COMMIT_TIMEOUT_SECONDS": "31",
            "PENSTOCK_INSERT_DEADLINE_SECONDS": "30",
        }
    )
    with pytest.raises(SettingsError) as caught:
        consumer_settings(values)
    assert len(caught.value.problems) == 3
    url, memory, deadline = caught.value.problems
    assert "PENSTOCK_CLICKHOUSE_URL" in url
    assert "PENSTOCK_BUFFER_BYTES" in memory
    assert "PENSTOCK_BATCH_BYTES" in memory
    assert "PENSTOCK_COMMIT_TIMEOUT_SECONDS" in deadline
    assert "PENSTOCK_INSERT_DEADLINE_SECONDS" in deadline


def test_at_the_edge_there_is_no_contradiction() -> None:
    consumer_settings(
        loaded(
            {
                "PENSTOCK_BATCH_BYTES": "1048576",
                "PENSTOCK_BUFFER_BYTES": "1048576",
                "PENSTOCK_COMMIT_TIMEOUT_SECONDS": "30",
                "PENSTOCK_INSERT_DEADLINE_SECONDS": "30",
            }
        )
    )


# --- the program ------------------------------------------------------------------------------


def started(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return subprocess.run(
        [sys.executable, "-m", "consumer", *arguments],
        cwd=ROOT,
        env={**clean, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_settings_that_cannot_be_used_end_the_program_with_2_and_a_line_each() -> None:
    ended = started("--batch-age-seconds", "nan", PENSTOCK_BATCH_ROW="1", PENSTOCK_KAFKA__ACKS="1")
    assert ended.returncode == 2
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("penstock-consumer: ") for line in lines)


def test_contradictions_end_it_with_2_before_anything_starts() -> None:
    ended = started(
        "check",
        PENSTOCK_CLICKHOUSE_URL="ftp://me:hunter2@host",
        PENSTOCK_COMMIT_TIMEOUT_SECONDS="60",
    )
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 2
    assert "hunter2" not in ended.stdout + ended.stderr


def test_an_unknown_flag_ends_it_with_2() -> None:
    assert started("run", "--nope").returncode == 2

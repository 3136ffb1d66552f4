"""Commands that manifests have and strangers write: shells within shells, heredocs, quotes without an end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patio_operator.injection import command_line
from patio_operator.injection.command_line import CommandLine
from patio_operator.injection.engine import Engine, engines_in, find_engine


def engine(*arguments: str, **fields: Any) -> Engine:
    return find_engine([{"name": "c", "image": "some/image:1", "command": list(arguments), **fields}])


def shell(script: str, **fields: Any) -> Engine:
    return engine("sh", "-c", script, **fields)


def variable(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}


HEREDOC = """cat > /start.txt <<'EOF'
vllm serve other --port 1
EOF
exec vllm serve m --port 9000
"""
TABBED = "cat <<-END | tee /x\n\tvllm serve other --port 1\n\tEND\nvllm serve m --port 9000"
TWO_HEREDOCS = "cat <<A <<B\nvllm serve a\nA\nvllm serve b\nB\nvllm serve m --port 9000"
LEADER_OR_WORKER = """if [ "$LWS_WORKER_INDEX" = 0 ]; then
  vllm serve m --port 9000 --data-parallel-size-local 1
else
  vllm serve m --headless
fi"""


@pytest.mark.parametrize(
    "found",
    [
        engine("/usr/bin/env", "bash", "-c", "vllm serve m --port 9000"),
        engine("tini", "--", "sh", "-c", "vllm serve m --port 9000"),
        engine("/usr/bin/dumb-init", "--", "vllm", "serve", "m", "--port", "9000"),
        engine("bash", "-o", "pipefail", "-ec", "vllm serve m --port 9000"),
        engine("bash", "--login", "-c", "vllm serve m --port 9000"),
        engine("/entrypoint.sh", "vllm", "serve", "m", "--port", "9000"),
        shell("bash -c 'vllm serve m --port 9000'"),
        shell("""exec bash -c "sh -c 'exec vllm serve m --port 9000'" """),
        shell("eval 'vllm serve m --port 9000'"),
        shell("echo starting vllm serve; vllm serve m --port 9000"),
        shell("printf 'vllm serve x' && exec env A=1 nohup vllm serve m --port 9000 2>&1 | tee /log"),
        shell("while ! curl -f vllm serve; do sleep 1; done; vllm serve m --port 9000 > /log &\nwait"),
        shell("vllm serve m > /log --port 9000"),
        shell(HEREDOC),
        shell(TABBED),
        shell(TWO_HEREDOCS),
        shell(LEADER_OR_WORKER),
        shell('exec "$0" "$@"', args=["vllm", "serve", "m", "--port", "9000"]),
        shell('vllm serve m "$@"', args=["--", "--port", "9000"]),
        shell("PORT=9000; vllm serve m --port $PORT", env=[variable("PORT", "1")]),
        shell("export PORT=${PORT:-9000}\nvllm serve m --port ${PORT}"),
        shell("vllm serve m $ARGS", env=[variable("ARGS", "--port 9000 --enable-lora")]),
        engine("bash", "-c", "$(COMMAND)", env=[variable("COMMAND", "vllm serve m --port 9000")]),
        shell("vllm serve m --port 9000 # --port 1"),
        shell("x=$(cat <<< 'vllm serve y --port 1'); vllm serve m --port 9000"),
    ],
)
def test_engine_is_found_where_its_shell_starts_it(found: Engine) -> None:
    assert (found.kind, found.port, found.model, found.headless) == ("vllm", 9000, "m", False)


@pytest.mark.parametrize(
    "found",
    [
        shell("echo vllm serve m"),
        shell("# vllm serve m"),
        shell("cat <<EOF\nvllm serve m\nEOF"),
        shell("cat <<EOF\nvllm serve m\n"),
        shell("pip install vllm serve"),
        shell("'vllm serve m"),
        engine("grep", "vllm", "serve"),
    ],
)
def test_text_that_names_an_engine_starts_none(found: Engine) -> None:
    assert found.kind is None


def test_flag_that_a_script_sets_twice_is_unknown() -> None:
    found = shell("if true; then PORT=1; else PORT=2; fi; vllm serve m --port $PORT")
    assert (found.kind, found.port) == ("vllm", None)


def test_key_that_stands_in_a_script_is_not_copied() -> None:
    for found in (
        shell("export VLLM_API_KEY=hunter2; vllm serve m"),
        shell("VLLM_API_KEY=hunter2 vllm serve m"),
        shell("KEY=hunter2; vllm serve m --api-key $KEY"),
        engine("env", "VLLM_API_KEY=hunter2", "vllm", "serve", "m"),
    ):
        assert (found.keys, found.unknown_keys) == ({}, ("--api-key",))


@pytest.mark.parametrize(
    ("flags", "lora"),
    [
        (["--enable-lora"], True),
        (["--enable-lora=True"], True),
        (["--enable-lora=False"], False),
        (["--enable-lora", "false"], False),
        (["--no-enable-lora"], False),
        (["--enable-lora", "--no-enable-lora"], False),
        (["--no-enable-lora", "--enable_lora"], True),
        (["--lora-modules", "a=/a"], True),
        ([], False),
    ],
)
def test_adapters_are_on_as_the_last_flag_says(flags: list[str], lora: bool) -> None:
    assert engine("vllm", "serve", "m", *flags).lora is lora


@pytest.mark.parametrize(
    ("flags", "servers"),
    [
        ("", 1),
        ("--api-server-count 2", 2),
        ("--api_server_count=2", 2),
        ("-asc 2", 2),
        ("--data-parallel-size 4", 4),
        ("-dp 4", 4),
        ("-dp 4 --api-server-count 1", 1),
        ("-dp 4 -dpl 2 --data-parallel-hybrid-lb", 2),
        ("-dp 4 -dpl 2 -dpr 2", 2),
        ("-dp 4 --data-parallel-hybrid-lb", 1),
        ("-dp 4 --data-parallel-external-lb", 1),
        ("-dp 4 --data-parallel-rank 1", 1),
        ("-dp $(DP)", None),
    ],
)
def test_api_servers_are_counted_as_vllm_makes_them(flags: str, servers: int | None) -> None:
    assert engine("vllm", "serve", "m", *flags.split()).api_servers == servers


def test_endpoint_is_what_the_flags_make_of_it() -> None:
    assert engine("vllm", "serve", "m", "--ssl-certfile", "/c", "--ssl-keyfile", "/k").endpoint == (
        "https://localhost:8000"
    )
    assert engine("vllm", "serve", "m", "--uds", "/run/engine/s").endpoint == "unix:///run/engine/s"
    for path in ("$(WHERE)", "run/s", "/run/ s", "/run/" + "s" * 200, "/run/"):
        assert engine("vllm", "serve", "m", "--uds", path).endpoint is None
    assert engine("vllm", "serve", "m", "--host", "::1").endpoint == "http://[::1]:8000"
    assert engine("vllm", "serve", "m", "--port", "99999999999999").endpoint is None
    assert engine("vllm", "serve", "m", "--port", "٣").endpoint is None


@pytest.mark.parametrize(
    ("arguments", "unread"),
    [
        (["vllm", "serve", "m", "--config", "/etc/vllm.yaml"], "--config /etc/vllm.yaml"),
        (["sh", "-c", "vllm serve m --enable-lora $EXTRA_ARGS"], "$EXTRA_ARGS"),
        (["sh", "-c", 'vllm serve m "$@"'], "$@"),
        (["vllm", "serve", "$(MODEL)", "--port", "$(PORT)"], None),
        (["vllm", "serve", "m", "--host", "$(OTHER)"], "--host $(OTHER)"),
        (["vllm", "serve", "m"], None),
    ],
)
def test_where_flags_come_from_elsewhere_is_known(arguments: list[str], unread: str | None) -> None:
    assert engine(*arguments).unread == unread


@pytest.mark.parametrize(
    "arguments",
    [
        ["vllm", "serve", "m", "--headless"],
        ["vllm", "serve", "m", "--api-server-count", "0"],
        ["python3", "-m", "sglang.launch_server", "--nnodes", "2", "--node-rank", "1"],
    ],
)
def test_engine_that_serves_nothing_is_headless(arguments: list[str]) -> None:
    assert engine(*arguments).headless


def test_name_that_fits_into_no_annotation_is_unknown() -> None:
    found = engine("vllm", "serve", "m" * 1_000_000)
    assert (found.model, found.served) == (None, ())
    assert engine("vllm", "serve", "m", "--served-model-name", *map(str, range(10_000))).served == ()


def test_script_that_is_too_long_is_not_read_in_part() -> None:
    script = "vllm serve m --port 90" + " " * command_line.MOST_CHARACTERS
    assert shell(script).kind is None
    assert shell(script[: command_line.MOST_CHARACTERS]).port == 90


PIECES = st.sampled_from(
    [
        *("'", '"', "$(", ")", "${", "}", "`", "\\", "\n", ";", "|", "&", "<", ">", "<<E\nE\n", "#", " ", "$@", "$'"),
        *("a", "vllm serve m", "sh -c ", "eval ", "exec ", "A=1", "$A", "--port 1", "(", "\v", "\x00", "é"),
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=80).map("".join), st.lists(PIECES, max_size=5))
def test_no_script_raises(script: str, arguments: list[str]) -> None:
    container = {"name": "c", "command": ["bash", "-c", script, *arguments], "env": [variable("A", "vllm serve x")]}
    list(engines_in([container]))


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=60).map("".join))
def test_script_in_quotes_starts_what_it_starts(script: str) -> None:
    """What one shell more makes no difference, as long as quotes have their ends."""
    quoted = "sh -c '" + script.replace("'", "'\\''") + "'"
    plain, within = shell(script), shell(quoted)
    if "$" not in script:
        assert (plain.kind, plain.port) == (within.kind, within.port)


HOSTILE = [
    "'",
    '"',
    "$(",
    "${",
    "`",
    "\\",
    "(",
    "<<",
    "<<E\n",
    ";",
    "\n",
    "$a ",
    "${a:-",
    "'\\'\"",
    "\"'",
    " \v",
    "eval ",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_what_is_read_of_a_hostile_script_is_bounded(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: each character is read once for each shell it is in, whatever stands around it."""
    read = 0
    simple = command_line._simple_commands

    def counted(script: str) -> Any:
        nonlocal read
        read += len(script)
        return simple(script)

    monkeypatch.setattr(command_line, "_simple_commands", counted)
    for length in (command_line.MOST_CHARACTERS, 1_000_000):
        shell(piece * (length // len(piece)))
    assert read <= 2 * command_line.MOST_CHARACTERS


def test_million_arguments_for_a_script_are_bounded() -> None:
    line = CommandLine({"name": "c", "command": ["sh", "-c", "x $@;" * 1000, *map(str, range(10_000))]})
    assert sum(len(command) for command in line.commands()) <= command_line.MOST_WORDS + 1000

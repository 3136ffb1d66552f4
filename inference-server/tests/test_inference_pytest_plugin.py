"""The pytest plugin in sessions of its own: which servers it makes, how long they live, what a failed test shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fake_tree import FAKE, wait_for_tree, wait_until_gone

from inference_server.pytest_plugin import configuration_key
from patio_testing.deadline import DEADLINE

pytest_plugins = ["pytester"]

HEAD = f"""
import os, signal, sys, threading
import pytest

FAKE = {str(FAKE)!r}

def serve(factory, model="tiny", **content):
    # The port is the plugin's, so the command has to get it from a shell's variable.
    port = content.pop("port")
    command = [sys.executable, FAKE, "--model", model, "--port", str(port)]
    return factory(backend="mine", model=model, port=port, launch_command=command, **content)

@pytest.fixture(scope="session")
def port():
    from inference_server.ports import free_port
    return free_port()
"""


def write(pytester: pytest.Pytester, body: str) -> None:
    pytester.makepyfile(HEAD + textwrap.dedent(body))


def run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    """Run the session in a process of its own, with this process's plugins left out."""
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncio", *words, timeout=DEADLINE)


def test_equal_configurations_share_a_server(pytester: pytest.Pytester) -> None:
    write(
        pytester,
        """
        def test_first(inference_server, port, record_pids):
            server = serve(inference_server, port=port, env_vars={"A": 1, "B": 2})
            assert server.probe()
            assert serve(inference_server, env_vars={"B": 2, "A": 1}, port=port) is server
            record_pids(server)

        def test_second(inference_server, port, record_pids):
            server = serve(inference_server, port=port, env_vars={"A": 1, "B": 2})
            assert inference_server.servers == (server,)
            record_pids(server)

        def test_third(inference_server, port, record_pids):
            from inference_server.ports import free_port
            other = serve(inference_server, model="other", port=free_port())
            assert other.is_running
            assert len(inference_server.servers) == 2
            assert inference_server.servers[0].is_running
            record_pids(other)

        @pytest.fixture
        def record_pids():
            def record(server):
                with open("pids", "a") as file:
                    file.write("%d\\n" % server.process.pid)
            return record
        """,
    )
    run(pytester).assert_outcomes(passed=3)
    pids = [int(line) for line in (pytester.path / "pids").read_text().split()]
    assert pids[0] == pids[1] != pids[2]
    assert not any(os.path.exists(f"/proc/{pid}/exe") for pid in pids)


def test_configuration_may_come_from_a_file(pytester: pytest.Pytester) -> None:
    write(
        pytester,
        """
        def test_file(inference_server, port, tmp_path):
            import json
            file = tmp_path / "server.yaml"
            command = [sys.executable, FAKE, "--model", "m", "--port", str(port)]
            file.write_text(json.dumps({"backend": "mine", "model": "m", "launch_command": command, "port": port}))
            server = inference_server(file, env_vars={"A": "1"})
            assert server.env_vars == {"A": "1"}
            assert server.probe()
        """,
    )
    run(pytester).assert_outcomes(passed=1)


def test_failed_test_shows_the_log_of_its_server(pytester: pytest.Pytester) -> None:
    (pytester.path / "words").write_text("the engine says something\nwith hf_secret_of_the_test")
    write(
        pytester,
        """
        @pytest.fixture
        def server(inference_server, port):
            variables = {"FAKE_LOG": os.path.abspath("words"), "HF_TOKEN": "hf_secret_of_the_test"}
            return serve(inference_server, port=port, env_vars=variables)

        def test_that_fails(server):
            assert False, "on purpose"

        def test_that_passes(server):
            pass

        def test_that_has_no_server():
            assert False, "on purpose"
        """,
    )
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=2)
    text = result.stdout.str()
    assert re.search(r"- inference server mine on port \d+ \(ready\), logs in .* -", text)
    assert text.count("the engine says something") == 1
    assert "INFO:     Application startup complete." in text
    assert "hf_secret_of_the_test" not in text


def test_server_that_does_not_start_says_why_once(pytester: pytest.Pytester) -> None:
    (pytester.path / "words").write_text("torch.OutOfMemoryError: CUDA out of memory")
    write(
        pytester,
        """
        def start(factory, port):
            variables = {"FAKE_LOG": "words", "FAKE_EXIT": "1", "FAKE_ARGUMENTS": "started"}
            serve(factory, port=port, env_vars=variables)

        def test_first(inference_server, port):
            start(inference_server, port)

        def test_second(inference_server, port):
            os.unlink("started")
            with pytest.raises(Exception, match="gpu-memory"):
                start(inference_server, port)
            assert not os.path.exists("started")
        """,
    )
    result = run(pytester)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*ended with exit code 1 (gpu-memory)*", "*Hint: the model does not fit*"])


def test_server_that_ended_is_started_again_with_a_warning(pytester: pytest.Pytester) -> None:
    write(
        pytester,
        """
        def test_that_kills_it(inference_server, port):
            server = serve(inference_server, port=port)
            os.kill(server.process.pid, signal.SIGKILL)
            server.wait(60)
            assert server.process.wait_until_gone(60)

        def test_that_wants_it(inference_server, port):
            assert serve(inference_server, port=port).probe()
        """,
    )
    result = run(pytester)
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(["*InferenceServerWarning: mine on port * had ended with exit code -9 and is started*"])


def test_logs_are_where_the_option_says(pytester: pytest.Pytester) -> None:
    write(
        pytester,
        """
        def test_logs(inference_server, port):
            server = serve(inference_server, port=port)
            assert str(server.output_dir) == os.path.join("kept", "gw0", "0-mine")
        """,
    )
    run(pytester, "--inference-server-logs", "kept").assert_outcomes(passed=1)
    assert (pytester.path / "kept/gw0/0-mine/run.json").exists()


def test_each_worker_has_servers_and_ports_of_its_own(pytester: pytest.Pytester) -> None:
    write(
        pytester,
        """
        @pytest.mark.parametrize("number", range(4))
        def test_ports(inference_server, number, worker_id):
            content = {"backend": "mine", "model": "m", "launch_command": ["never", "started"]}
            server = inference_server._make(content, number)
            with open("ports-" + worker_id, "a") as file:
                file.write("%d\\n" % server.port)
        """,
    )
    run(pytester, "-n", "2", "--dist", "each").assert_outcomes(passed=8)
    ports = [sorted(int(line) for line in path.read_text().split()) for path in sorted(pytester.path.glob("ports-gw*"))]
    assert [len(each) for each in ports] == [4, 4]
    assert ports[0][-1] < ports[1][0]


def test_killed_session_leaves_no_server(pytester: pytest.Pytester) -> None:
    tree = pytester.path / "tree"
    write(
        pytester,
        f"""
        def test_that_hangs(inference_server, port):
            serve(inference_server, port=port, env_vars={{"FAKE_TREE": {str(tree)!r}}})
            threading.Event().wait()
        """,
    )
    with subprocess.Popen([sys.executable, "-m", "pytest", "-p", "no:cacheprovider"], cwd=pytester.path) as session:
        try:
            wait_for_tree(tree)
        finally:
            session.send_signal(signal.SIGKILL)
    wait_until_gone(tree)


def test_option_and_fixture_are_explained(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    assert "--inference-server-logs=DIR" in run(pytester, "--help").stdout.str()
    run(pytester, "--fixtures").stdout.fnmatch_lines(
        ["inference_server [[]session scope[]]*", "*Make inference servers*"]
    )


def test_order_of_keys_makes_no_other_configuration() -> None:
    content = {"a": {"b": [1, Path("x")], "c": None}, "d": True}
    assert configuration_key(content) == configuration_key({"d": True, "a": {"c": None, "b": (1, "x")}})
    assert configuration_key({"a": 1}) != configuration_key({"a": "1"})
    callback = lambda phase: None  # noqa: E731 - it stands for any function
    assert configuration_key({"on_phase": callback}) == configuration_key({"on_phase": callback})
    assert configuration_key({"on_phase": callback}) != configuration_key({"on_phase": print})

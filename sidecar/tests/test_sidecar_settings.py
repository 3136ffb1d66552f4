"""Flags and variables: what they mean, and what stops the start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patio.app import main
from patio.engine.clients import EngineTls
from patio.settings import VARIABLES, Settings, read_settings
from patio.variables import SettingsError
from patio_protocol.engines import EngineKind
from patio_protocol.sources import SourceKind
from patio_testing.sidecar.engine_stand_ins import authority


def test_no_variables_mean_the_defaults() -> None:
    settings = read_settings([], {})
    assert settings == Settings()
    assert (settings.engine, settings.engine_endpoint, settings.port) == ("sglang", "http://localhost:8000", 9091)
    assert settings.host == "::"


def test_flag_wins_over_its_variable() -> None:
    variables = {"INFERENCE_ENGINE": "sglang", "INFERENCE_ENGINE_ENDPOINT": "http://a:1", "METRIC_SCRAPE_PATH": "/a"}
    settings = read_settings(["-E", "vllm", "-B", "http://b:2/", "-M", "/b"], variables)
    assert (settings.engine, settings.engine_endpoint, settings.metrics_path) == ("vllm", "http://b:2", "/b")
    settings = read_settings([], variables)
    assert (settings.engine, settings.engine_endpoint, settings.metrics_path) == ("sglang", "http://a:1", "/a")


def test_flags_of_both_runtimes_work_together() -> None:
    argv = "--host 127.0.0.1 --port 1 -E VLLM -I pod-0.team-a -N qwen --metrics-prefix patio,kthena --log-level debug"
    settings = read_settings([*argv.split(), "--no-scrape-engine-metrics", "--enable-fastapi-docs"], {"POD_NAME": "x"})
    assert settings.engine is EngineKind.VLLM
    assert (settings.pod, settings.model, settings.metrics_prefixes) == ("pod-0.team-a", "qwen", ("patio", "kthena"))
    assert (settings.scrape_engine, settings.docs, settings.log_level) == (False, True, "DEBUG")


def test_matrixinfer_runtimes_own_example_is_understood() -> None:
    argv = (
        "--port 8900 --engine vllm --engine-base-url http://localhost:8000 --engine-metrics-path /metrics "
        "--pod pod-0.team-a --model test-model"
    )
    settings = read_settings(argv.split(), {"RUNTIME_PORT": "8900", "POD_NAME": "pod-0", "VLLM_USE_V1": "1"})
    assert (settings.port, settings.engine, settings.model) == (8900, EngineKind.VLLM, "test-model")


@pytest.mark.parametrize("url", ["http://localhost:8100", "http://localhost:8100/", "http://localhost:8100/m"])
def test_variables_of_the_matrixinfer_runtime_are_read(url: str) -> None:
    settings = read_settings([], {"RUNTIME_PORT": "8200", "RUNTIME_URL": url, "RUNTIME_METRICS_PATH": "/m"})
    assert (settings.port, settings.engine_endpoint, settings.metrics_path) == (8200, "http://localhost:8100", "/m")


def test_two_variables_for_one_setting_must_not_disagree() -> None:
    same = {"INFERENCE_ENGINE_ENDPOINT": "http://localhost:8000/", "RUNTIME_URL": "http://localhost:8000/metrics"}
    assert read_settings([], same).engine_endpoint == "http://localhost:8000"
    with pytest.raises(SettingsError, match="RUNTIME_URL=http://localhost:9000 contradict each other"):
        read_settings([], {**same, "RUNTIME_URL": "http://localhost:9000"})


def test_service_named_runtime_sets_no_port() -> None:
    assert read_settings([], {"RUNTIME_PORT": "tcp://10.96.0.7:80"}).port == 9091


def test_required_adapters_are_read() -> None:
    value = json.dumps([{"lora_name": "a", "lora_path": "/a", "owner": "LoraAdapter/x/a"}])
    (request,) = read_settings([], {"PATIO_REQUIRED_ADAPTERS": value}).required_adapters
    assert (request.lora_name, request.owner) == ("a", "LoraAdapter/x/a")


@pytest.mark.parametrize(
    ("argv", "variables", "names"),
    [
        ([], {"INFERENCE_ENGINE": "vlm"}, "INFERENCE_ENGINE"),
        (["-E", "tgi"], {}, "--engine"),
        ([], {"INFERENCE_ENGINE_ENDPOINT": "localhost:8000"}, "INFERENCE_ENGINE_ENDPOINT"),
        (["-B", "http://"], {}, "--engine-base-url"),
        (["-B", "http://a:99999"], {}, "--engine-base-url"),
        (["-M", "metrics"], {}, "--engine-metrics-path"),
        (["--port", "http"], {}, "--port"),
        (["--port", "70000"], {}, "--port"),
        (["--metrics-prefix", "patio,vllm"], {}, "--metrics-prefix"),
        (["--metrics-prefix", ","], {}, "--metrics-prefix"),
        (["--log-level", "LOUD"], {}, "--log-level"),
        (["--prot", "1"], {}, "--prot"),
        (["--instance-info", "{}"], {}, "--instance-info"),
        (["-I", ".team"], {}, "--pod"),
        ([], {"PATIO_REQUIRED_ADAPTERS": "{"}, "PATIO_REQUIRED_ADAPTERS"),
        ([], {"PATIO_REQUIRED_ADAPTERS": '[{"lora_name": "a"}]'}, "lora_path"),
        ([], {"PATIO_REQUIRED_ADAPTERS": json.dumps([{"lora_name": "a", "lora_path": "/a"}] * 2)}, "named twice"),
        (
            [],
            {"PATIO_REQUIRED_ADAPTERS": json.dumps([{"lora_name": "a", "source": "s3://bucket/c", "prepare": True}])},
            "cannot have `prepare`",
        ),
        ([], {"INFERENCE_ENGIN": "vllm"}, "INFERENCE_ENGINE"),
        ([], {"PATIO_REQUIRED_ADAPTER": "[]"}, "PATIO_REQUIRED_ADAPTERS"),
        (["-E", "vllm"], {"ENGINE_ADMIN_API_KEY": "k"}, "ENGINE_ADMIN_API_KEY"),
        *(
            ([], {name: key}, name)
            for name in ("ENGINE_API_KEY", "ENGINE_ADMIN_API_KEY")
            for key in ("sekret\nword", "sekret\rx", "sekrét", "sekret\0", "sekret\tx", "sekret" * 2000)
        ),
        ([], {"TOPO_TYPE": "sglang", "SGL_ROUTER_API_KEY": "sekret\nword"}, "SGL_ROUTER_API_KEY"),
        (
            [],
            {"INFERENCE_ENGINE_ENDPOINT": "http://u:sekret@a", "RUNTIME_URL": "http://b"},
            "INFERENCE_ENGINE_ENDPOINT",
        ),
        ([], {"INFERENCE_ENGINE_ENDPOINT": "http://a\n:8000"}, "INFERENCE_ENGINE_ENDPOINT"),
        ([], {"INFERENCE_ENGINE_ENDPOINT": "unix://run/x.sock"}, "unix:///run/vllm.sock"),
        (["-B", "http://a..b:8000"], {}, "--engine-base-url"),
        (["-M", "/metrics\n"], {}, "--engine-metrics-path"),
        (["-M", "/metrics#x"], {}, "--engine-metrics-path"),
        (["-B", "https://a"], {"ENGINE_CA_FILE": "/nowhere.pem"}, "ENGINE_CA_FILE: /nowhere.pem: No such file"),
        (["-B", "https://a"], {"SSL_CERT_FILE": "/nowhere.pem"}, "SSL_CERT_FILE"),
        (["-B", "https://a"], {"ENGINE_CA_FILE": __file__}, "no certificates in PEM"),
        (["-B", "https://a"], {"ENGINE_TLS_VERIFY": "false"}, "is not this pod"),
        (["-B", "https://localhost"], {"ENGINE_TLS_VERIFY": "no"}, "neither true nor false"),
        (["-B", "https://localhost"], {"ENGINE_TLS_SERVER_NAME": "a b"}, "ENGINE_TLS_SERVER_NAME"),
        (["-B", "https://localhost"], {"ENGINE_TLS_VERIFY": "false", "ENGINE_CA_FILE": "/x"}, "contradict"),
        (["-B", "http://a"], {"ENGINE_TLS_VERIFY": "false"}, "has no TLS"),
        ([], {"ENGINE_TLS_VERFY": "false"}, "ENGINE_TLS_VERIFY"),
        ([], {"ACCESS_KEY": "sekret"}, "SECRET_KEY"),
        ([], {"SECRET_KEY": "sekret"}, "ACCESS_KEY"),
        ([], {"ENDPOINT": "http://a:sekret@host"}, "ENDPOINT"),
        ([], {"HF_ENDPOINT": "ftp://host"}, "HF_ENDPOINT"),
        ([], {"HF_REVISION": "a/../b"}, "HF_REVISION"),
        ([], {"PATIO_DOWNLOAD_ROOT": "relative"}, "PATIO_DOWNLOAD_ROOT"),
        ([], {"PATIO_DOWNLOAD_ROOT": "/"}, "PATIO_DOWNLOAD_ROOT"),
        ([], {"PATIO_DOWNLOAD_ROOTS": "/a,b"}, "PATIO_DOWNLOAD_ROOTS"),
        ([], {"PATIO_DOWNLOAD_LIMIT": "20 apples"}, "PATIO_DOWNLOAD_LIMIT"),
        ([], {"PATIO_DOWNLOAD_FILES": "pickles"}, "PATIO_DOWNLOAD_FILES"),
        ([], {"PATIO_DOWNLOAD_ROTS": "/a"}, "PATIO_DOWNLOAD_ROOT"),
    ],
)
def test_wrong_settings_stop_the_start_and_name_themselves(
    argv: list[str], variables: dict[str, str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingsError, match=names):
        read_settings(argv, variables)
    assert main(argv, variables) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert names in message
    assert "sekret" not in message


def test_tls_to_an_engine_is_verified_as_settings_say(tmp_path: Path) -> None:
    ca = str(authority(tmp_path, "localhost").file)
    with_ca = read_settings(["-B", "https://localhost"], {"ENGINE_CA_FILE": ca, "SSL_CERT_FILE": "/other.pem"})
    assert with_ca.engine_tls == EngineTls(Path(ca))
    assert read_settings(["-B", "https://a"], {"SSL_CERT_FILE": ca}).engine_tls == EngineTls(Path(ca))
    assert read_settings(["-B", "https://a"], {"SSL_CERT_DIR": str(tmp_path)}).engine_tls.ca_folder == tmp_path
    named = read_settings(["-B", "https://a"], {"ENGINE_TLS_SERVER_NAME": "engine.team-a.svc"})
    assert named.engine_tls.server_name == "engine.team-a.svc"
    for url in ("https://localhost", "https://127.0.0.1:8443", "https://fd00::7:8000"):
        unchecked = read_settings(["-B", url], {"ENGINE_TLS_VERIFY": "False", "POD_IP": "fd00::7"})
        assert not unchecked.engine_tls.verify
    assert read_settings([], {"SSL_CERT_FILE": "/nowhere.pem"}).engine_tls == EngineTls()


def test_ipv6_address_needs_no_brackets() -> None:
    assert (
        read_settings([], {"INFERENCE_ENGINE_ENDPOINT": "http://fd00::7:8000"}).engine_endpoint
        == "http://[fd00::7]:8000"
    )
    same = {"INFERENCE_ENGINE_ENDPOINT": "http://fd00::7:8000", "RUNTIME_URL": "http://[fd00::7]:8000/metrics"}
    assert read_settings([], same).engine_endpoint == "http://[fd00::7]:8000"


def test_socket_is_an_endpoint_that_no_router_reaches() -> None:
    assert read_settings(["-B", "unix:///run/vllm.sock"], {}).engine_endpoint == "unix:///run/vllm.sock"
    topology = {"TOPO_TYPE": "sglang", "TOPO_REGISTER_ENDPOINT": "http://router", "POD_IP": "10.0.0.7"}
    with pytest.raises(SettingsError, match="no router can reach the engine"):
        read_settings(["-B", "unix:///run/vllm.sock"], topology)


def test_variables_of_downloads_are_read() -> None:
    variables = {
        "HF_AUTH_TOKEN": "sekret",
        "HF_ENDPOINT": "https://hub.example.com/",
        "HF_REVISION": "v1",
        "ACCESS_KEY": "geheim",
        "SECRET_KEY": "secreto",
        "ENDPOINT": "obs.test.com",
        "PATIO_DOWNLOAD_ROOT": "/cache",
        "PATIO_DOWNLOAD_ROOTS": "/models, /adapters",
        "PATIO_DOWNLOAD_LIMIT": "20Gi",
        "PATIO_DOWNLOAD_FILES": "all",
    }
    downloads = read_settings([], variables).downloads
    assert downloads.config(SourceKind.S3) == {
        "hf_token": "sekret",
        "hf_endpoint": "https://hub.example.com",
        "hf_revision": "v1",
        "access_key": "geheim",
        "secret_key": "secreto",
        "endpoint": "https://obs.test.com",
    }
    assert [str(root) for root in downloads.roots] == ["/cache", "/models", "/adapters"]
    assert (downloads.limit, downloads.all_files) == (20 * 2**30, True)
    shown = repr(read_settings([], variables))
    assert not [secret for secret in ("sekret", "geheim", "secreto") if secret in shown]


STANDARD = {
    "HF_TOKEN": "hf_other",
    "AWS_ACCESS_KEY_ID": "AKID",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_SESSION_TOKEN": "session",
    "AWS_ENDPOINT_URL": "https://minio.example.com",
    "AWS_DEFAULT_REGION": "eu-west-1",
}


def test_standard_variables_count_where_patios_are_not_set() -> None:
    downloads = read_settings([], STANDARD).downloads
    assert downloads.hf_token == "hf_other"
    assert downloads.config(SourceKind.S3) == {
        "hf_token": "hf_other",
        "access_key": "AKID",
        "secret_key": "secret",
        "session_token": "session",
        "endpoint": "https://minio.example.com",
        "default_region": "eu-west-1",
    }
    assert downloads.config(SourceKind.OBS) == {"hf_token": "hf_other"}, "they are Amazon's"
    shown = repr(downloads)
    assert not [secret for secret in ("hf_other", "secret'", "session'") if secret in shown]


def test_patios_variables_win_over_standard_ones() -> None:
    own_variables = {"HF_AUTH_TOKEN": "hf_own", "ACCESS_KEY": "own", "SECRET_KEY": "own-secret", "REGION": "us-west-2"}
    config = read_settings([], STANDARD | own_variables | {"ENDPOINT": "http://s3"}).downloads.config(SourceKind.S3)
    assert (config["hf_token"], config["access_key"], config["endpoint"]) == ("hf_own", "own", "http://s3")
    assert config["region"] == "us-west-2"
    assert "session_token" not in config, "it belongs to the other key"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "x"}, "AWS_SECRET_ACCESS_KEY is not"),
        ({"SESSION_TOKEN": "sekret"}, "ACCESS_KEY is not"),
        ({"HF_TOKEN": "sekr\u00e9t"}, "HF_TOKEN"),
        ({"ACCESS_KEY": "a", "SECRET_KEY": "sekret\nword"}, "SECRET_KEY"),
        ({"PATIO_DOWNLOAD_PLAIN_HTTP": "yes"}, "not one of allow, reject"),
        ({"ADDRESSING_STYLE": "dns"}, "not one of auto, path, virtual"),
        ({"AWS_REGION": "eu west"}, "AWS_REGION"),
    ],
)
def test_wrong_variables_of_downloads_name_themselves(variables: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        read_settings([], variables)
    assert "sekr" not in str(raised.value)


SERVICES = "inference-engine inference-engines metric-scraper metric-scrape runtime-metrics runtime-url topo-register"


@pytest.mark.parametrize(
    "service", [*SERVICES.split(), "sgl-router-api", "sgl-router-svc", "patio-download", "router", "runtime"]
)
def test_service_of_any_name_stops_no_sidecar(service: str) -> None:
    name = service.upper().replace("-", "_")
    variables = {
        f"{name}_SERVICE_HOST": "10.0.0.1",
        f"{name}_SERVICE_PORT": "8000",
        f"{name}_SERVICE_PORT_HTTP": "8000",
        f"{name}_PORT": "tcp://10.0.0.1:8000",
        f"{name}_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        f"{name}_PORT_8000_TCP_PROTO": "tcp",
        f"{name}_PORT_8000_TCP_PORT": "8000",
        f"{name}_PORT_8000_TCP_ADDR": "10.0.0.1",
    }
    assert read_settings([], variables) == Settings()


def test_misspelling_beside_a_service_is_still_one() -> None:
    with pytest.raises(SettingsError, match="INFERENCE_ENGINE_ENDPOINT"):
        read_settings([], {"INFERENCE_ENGINE_SERVICE_HOST": "10.0.0.1", "INFERENCE_ENGINE_ENDPONT": "http://x"})


def test_variables_of_kubernetes_are_no_misspellings() -> None:
    variables = {"PATIO_WEBHOOK_PORT": "tcp://1", "PATIO_SERVICE_HOST": "1", "POD_IPS": "1", "ENGINE_PORT": "1"}
    assert read_settings([], variables) == Settings()


def test_help_names_every_variable_that_is_honoured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        read_settings(["--help"], {})
    assert raised.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in VARIABLES)


def test_keys_are_in_no_repr() -> None:
    settings = read_settings([], {"ENGINE_API_KEY": "sekret", "ENGINE_ADMIN_API_KEY": "geheim"})
    assert (settings.api_key, settings.admin_api_key) == ("sekret", "geheim")
    assert "sekret" not in repr(settings)
    assert "geheim" not in repr(settings)


def test_chosen_state_file_not_writable_stops_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main([], {"PATIO_STATE_FILE": str(tmp_path / "file" / "state.json")}) == 2
    assert "PATIO_STATE_FILE" in capsys.readouterr().err

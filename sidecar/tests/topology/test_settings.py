"""How users say where the router is and what to register, in all the ways that upstream has had."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from patio.settings import Settings, read_settings
from patio.topology.addresses import listed, pod_names
from patio.topology.settings import LARGEST_FILE, Role, TopologySettings
from patio.variables import SettingsError

PREFILL = '--instance-info={"data":{"port":8000,"worker_type":"prefill", "bootstrap_port":34000}}'
"""As upstream's sample has it."""
POD = {"POD_IP": "10.0.0.7", "POD_NAME": "sglang-pd-prefill-0", "POD_NAMESPACE": "team-a"}
SAMPLE = {
    **POD,
    "TOPO_TYPE": "sglang",
    "SGL_ROUTER_ROLE_NAME": "router",
    "SGL_ROUTER_PORT": "8000",
    "GROUP_NAME": "sglang-pd",
}
DIRECT = {**POD, "TOPO_TYPE": "SGLang", "TOPO_REGISTER_ENDPOINT": "http://router:30000"}
CONFIG = """
group: {name: G, roles: [router, prefill], size: 2}
roles:
  router:
    instances:
    - {address: G-router-0.s-G-router, ports: {http: 8000}}
    - {address: G-router-1.s-G-router, ports: {http: 8000, metrics: 29000}}
    size: 2
  prefill:
    instances: [{address: G-prefill-0.s-G-prefill}]
    size: 1
"""


def topology_of(variables: dict[str, str], *argv: str) -> TopologySettings:
    return read_settings(argv, variables).topology


def test_without_a_type_there_is_no_topology() -> None:
    assert not topology_of({}).enabled
    assert not topology_of({"GROUP_NAME": "g", "ROLE_NAME": "r", "ROLE_INDEX": "0"}, PREFILL).enabled
    assert not topology_of({"TOPO_TYPE": "None", "SGL_ROUTER_ROLE_NAME": "router", "TOPO_ROLE": "server"}).enabled


def test_upstreams_sample_is_understood() -> None:
    settings = topology_of(SAMPLE, PREFILL)
    (endpoint,) = settings.endpoints
    assert endpoint.urls == (
        "http://sglang-pd-router-0.s-sglang-pd-router:8000",
        "http://sglang-pd-router-0.sglang-pd-router:8000",
    )
    assert settings.worker is not None
    assert settings.worker.order() == {
        "url": "http://10.0.0.7:8000",
        "worker_type": "prefill",
        "bootstrap_port": 34000,
    }
    assert (settings.role, settings.heartbeat, settings.lease_id) == (Role.CLIENT, 30.0, "sglang-pd-prefill-0.team-a")


def test_both_spellings_of_the_group_are_the_same() -> None:
    new = {**SAMPLE, "RBG_GROUP_NAME": SAMPLE["GROUP_NAME"]}
    del new["GROUP_NAME"]
    assert topology_of(new) == topology_of(SAMPLE) == topology_of({**new, "GROUP_NAME": SAMPLE["GROUP_NAME"]})


def test_both_spellings_of_the_router_are_the_same() -> None:
    new = {**SAMPLE, "ROUTER_ROLE_NAME": "router", "ROUTER_PORT": "8000"}
    expected = topology_of(new)
    del new["SGL_ROUTER_ROLE_NAME"], new["SGL_ROUTER_PORT"]
    assert topology_of(new) == topology_of(SAMPLE) == expected
    assert topology_of({**SAMPLE, "ROUTER_PORT": "tcp://10.96.0.7:30000"}) == expected, "of a Service named router"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"GROUP_NAME": "my-inference", "ROLE_NAME": "inference", "ROLE_INDEX": "0", "TOPO_ROLE": "client"},
        {"POD_IP": "", "HEARTBEAT_INTERVAL": "5"},
        {"ROUTER_PORT": "tcp://10.96.0.7:30000", "SGL_ROUTER_PORT": "tcp://10.96.0.8:30000"},
    ],
)
def test_type_alone_as_in_upstream_starts_and_says_what_to_set(variables: dict[str, str]) -> None:
    settings = topology_of({**POD, "TOPO_TYPE": "SGLang", **variables}, PREFILL)
    assert not settings.enabled
    assert "TOPO_REGISTER_ENDPOINT" in settings.not_configured


def test_pod_without_address_is_registered_by_dns_name() -> None:
    variables = {**SAMPLE, "RBG_ROLE_NAME": "prefill", "RBG_ROLE_INDEX": "2", "POD_IP": ""}
    for extra, index in (
        ({}, "2"),
        ({"ROLE_INDEX": "1"}, "1"),
        ({"RBG_ROLE_INSTANCE_NAME": "sglang-pd-prefill-0"}, "0"),
    ):
        worker = topology_of({**variables, **extra}).worker
        assert worker is not None
        assert worker.url == f"http://sglang-pd-prefill-{index}.s-sglang-pd-prefill:8000"


def test_engines_port_and_key_are_registered() -> None:
    variables = {**DIRECT, "INFERENCE_ENGINE_ENDPOINT": "http://localhost:8123", "ENGINE_API_KEY": "sekret"}
    settings = topology_of(variables, '--instance-info={"data": {"port": "8124", "model_id": "m", "priority": 3}}')
    assert settings.worker is not None
    assert settings.worker.order() == {
        "url": "http://10.0.0.7:8124",
        "worker_type": "regular",
        "model_id": "m",
        "priority": 3,
        "api_key": "sekret",
    }
    plain = topology_of({**variables, "POD_IP": "fd00::7"}).worker
    assert plain is not None
    assert plain.url == "http://[fd00::7]:8123"


def test_no_key_is_in_a_repr() -> None:
    settings = read_settings([], {**DIRECT, "SGL_ROUTER_API_KEY": "geheim", "ENGINE_API_KEY": "sekret"})
    assert settings.topology.router_key == "geheim"
    assert "geheim" not in repr(settings)
    assert "sekret" not in repr(settings)


def test_several_routers_are_several_registrations() -> None:
    settings = topology_of({**DIRECT, "TOPO_REGISTER_ENDPOINT": "http://a:1, b:2/,http://a:1"})
    assert [endpoint.urls for endpoint in settings.endpoints] == [("http://a:1",), ("http://b:2",)]
    assert all(endpoint.may_be_server for endpoint in settings.endpoints)


def test_topology_file_names_every_instance_of_the_router(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    variables = {**POD, "TOPO_TYPE": "sglang", "TOPO_CONFIG_FILE": str(file)}
    urls = [endpoint.urls for endpoint in topology_of(variables).endpoints]
    assert urls == [("http://G-router-0.s-G-router:8000",), ("http://G-router-1.s-G-router:8000",)]
    assert topology_of({**variables, "SGL_ROUTER_PORT": "9000"}).endpoints[0].urls == (
        "http://G-router-0.s-G-router:9000",
    )


def test_missing_topology_file_is_ignored_when_names_suffice() -> None:
    assert topology_of({**SAMPLE, "TOPO_CONFIG_FILE": "/etc/patio/instance-config.yaml"}) == topology_of(SAMPLE)


def test_server_stands_beside_its_router() -> None:
    variables = {
        "TOPO_TYPE": "sglang",
        "TOPO_ROLE": "server",
        "SGL_ROUTER_PORT": "30000",
        "PATIO_STATE_FILE": "/x/s.json",
    }
    settings = topology_of(variables)
    assert settings.is_server
    assert settings.endpoints[0].urls == ("http://127.0.0.1:30000",)
    assert settings.lease_file == Path("/x/leases.json")
    assert topology_of({**variables, "TOPO_REGISTER_ENDPOINT": "http://127.0.0.1:1"}).endpoints[0].urls == (
        "http://127.0.0.1:1",
    )


@pytest.mark.parametrize(
    ("variables", "argv", "names"),
    [
        ({"TOPO_TYPE": "vllm"}, [], "TOPO_TYPE"),
        ({"TOPO_ROLE": "server"}, [], "TOPO_TYPE"),
        ({"TOPO_REGISTER_ENDPOINT": "http://a:1"}, [], "TOPO_TYPE"),
        ({"SGL_ROUTER_ROLE_NAME": "router"}, [], "TOPO_TYPE"),
        ({**DIRECT, "TOPO_ROLE": "boss"}, [], "TOPO_ROLE"),
        ({**DIRECT, "HEARTBEAT_INTERVAL": "0"}, [], "HEARTBEAT_INTERVAL"),
        ({**DIRECT, "HEARTBEAT_INTERVAL": "often"}, [], "HEARTBEAT_INTERVAL"),
        ({**DIRECT, "HEARTBEAT_INTERVALL": "5"}, [], "HEARTBEAT_INTERVAL"),
        ({**DIRECT, "TOPO_REGISTER_ENDPOINTS": "x"}, [], "TOPO_REGISTER_ENDPOINT"),
        ({**DIRECT, "TOPO_REGISTER_ENDPOINT": "ftp://a"}, [], "TOPO_REGISTER_ENDPOINT"),
        ({**DIRECT, "POD_IP": ""}, [], "POD_IP"),
        ({**POD, "TOPO_TYPE": "sglang", "ROUTER_ROLE_NAME": "router"}, [], "ROUTER_PORT, GROUP_NAME"),
        ({**POD, "TOPO_TYPE": "sglang", "SGL_ROUTER_PORT": "8000"}, [], "ROUTER_ROLE_NAME, GROUP_NAME"),
        ({**POD, "TOPO_TYPE": "sglang", "ROUTER_ROLE_NAMES": "router"}, [], "ROUTER_ROLE_NAME"),
        ({**POD, "TOPO_TYPE": "sglang"}, ["--instance-info={"], "--instance-info: not JSON"),
        ({**POD, "TOPO_TYPE": "sglang", "HEARTBEAT_INTERVAL": "0"}, [], "HEARTBEAT_INTERVAL"),
        ({"ROUTER_ROLE_NAME": "router"}, [], "TOPO_TYPE"),
        ({**SAMPLE, "ROUTER_ROLE_NAME": "gateway"}, [], "contradict"),
        ({**SAMPLE, "ROUTER_PORT": "9000"}, [], "contradict"),
        ({**SAMPLE, "ROUTER_PORT": "http"}, [], "ROUTER_PORT"),
        ({**SAMPLE, "SGL_ROUTER_PORT": "http"}, [], "SGL_ROUTER_PORT"),
        ({**SAMPLE, "SGL_ROUTER_PORT": "tcp://10.0.0.1:8000"}, [], "without ROUTER_PORT"),
        ({**POD, "TOPO_TYPE": "sglang", "RBG_GROUP_NAME": "a", "GROUP_NAME": "b"}, [], "contradict"),
        ({**SAMPLE, "RBG_GROUP_NAME": "other"}, [], "contradict"),
        ({**SAMPLE, "ROLE_NAME": "router"}, [], "TOPO_ROLE=server"),
        ({"TOPO_TYPE": "sglang", "TOPO_ROLE": "server"}, [], "ROUTER_PORT"),
        ({"TOPO_TYPE": "sglang", "TOPO_ROLE": "server", "SGL_ROUTER_PORT": "1"}, [PREFILL], "--instance-info"),
        ({**POD, "TOPO_TYPE": "sglang", "TOPO_CONFIG_FILE": "/nowhere"}, [], "TOPO_CONFIG_FILE"),
        (DIRECT, ["--instance-info={"], "--instance-info: not JSON"),
        (DIRECT, ['--instance-info={"port": 1}'], "--instance-info"),
        (DIRECT, ['--instance-info={"data": {"prot": 1}}'], "did you mean port"),
        (DIRECT, ['--instance-info={"data": {"port": 0}}'], "not a port"),
        (DIRECT, ['--instance-info={"data": {"port": true}}'], "not a port"),
        (DIRECT, ['--instance-info={"data": {"url": "http://x"}}'], "POD_IP"),
        (DIRECT, ['--instance-info={"data": {"api_key": "x"}}'], "ENGINE_API_KEY"),
        (DIRECT, ['--instance-info={"data": {"worker_type": "encode"}}'], "worker_type"),
        (DIRECT, ['--instance-info={"data": {"worker_type": "decode", "bootstrap_port": 1}}'], "bootstrap_port"),
        ({"PATIO_DRAIN_TIMEOUT": "soon"}, [], "PATIO_DRAIN_TIMEOUT"),
        ({"PATIO_DRAIN_TIMEOUT": "5", "PATIO_DRAIN_SETTLE": "6"}, [], "PATIO_DRAIN_SETTLE"),
    ],
)
def test_wrong_settings_stop_the_start_and_name_themselves(
    variables: dict[str, str], argv: list[str], names: str
) -> None:
    with pytest.raises(SettingsError, match=names):
        read_settings(argv, variables)


def test_short_drain_settles_in_its_time() -> None:
    drain = read_settings([], {"PATIO_DRAIN_TIMEOUT": "1"}).drain
    assert (drain.timeout, drain.settle) == (1.0, 1.0)
    assert Settings().drain.timeout == 25.0


def test_long_names_are_cut_as_rolebasedgroup_cuts_them() -> None:
    (new, old) = pod_names("g" * 40, "r" * 22 + "-x", "3", 8000)
    workload = ("g" * 40 + "-" + "r" * 22)[:63]
    assert old == f"http://{workload}-3.{workload}:8000"
    assert new.split(".")[1] == ("s-" + "g" * 40 + "-" + "r" * 22)[:63].rstrip("-") + ":8000"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no role 'router'"),
        ({"roles": {"router": {"instances": []}}}, "no instance"),
        ({"roles": {"router": {"instances": [{"ports": {"http": 1}}]}}}, "no address"),
        ({"roles": {"router": {"instances": [{"address": "a"}]}}}, "no port"),
        ({"roles": {"router": {"instances": [{"address": "a", "ports": {"a": 1, "b": 2}}]}}}, "no port"),
        ({"roles": ["router"]}, "no role"),
    ],
)
def test_topology_file_without_the_address_is_rejected(content: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        listed(content, None, None)


BOMB = "a: &a {k: v}\n" + "\n".join(
    f"{b}: &{b} {{<<: [{', '.join(['*' + a] * 9)}]}}" for a, b in pairwise("abcdefghij")
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "it has aliases"),
        ("[" * 5000, "nested too deep"),
        ("#" * (LARGEST_FILE + 1), "more than"),
        ("a: [", "is not YAML"),
        ("roles: {router: {instances: [{address: 'a/../b', ports: {http: 1}}]}}", "no address"),
        ("roles: {router: {instances: [{address: a, ports: {http: 99999}}]}}", "no port"),
        (
            "roles: {router: {instances: ["
            + ", ".join(f"{{address: a{n}, ports: {{http: 1}}}}" for n in range(65))
            + "]}}",
            "65 routers are named",
        ),
    ],
    ids=["aliases", "deep", "large", "broken", "path", "port", "many"],
)
def test_topology_file_of_any_content_is_read_or_rejected(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=message):
        read_settings([], {**POD, "TOPO_TYPE": "sglang", "TOPO_CONFIG_FILE": str(file)})


def test_topology_file_at_the_limit_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    roles = "roles: {router: {instances: [{address: router-0, ports: {http: 8000}}]}}\n"
    file.write_text(roles + "#" * (LARGEST_FILE - len(roles)))
    settings = topology_of({**POD, "TOPO_TYPE": "sglang", "TOPO_CONFIG_FILE": str(file)})
    assert settings.endpoints[0].urls == ("http://router-0:8000",)


@pytest.mark.parametrize("key", ["sekret\nword", "sekr\u00e9t"])
def test_routers_key_that_is_no_header_stops_the_start(key: str) -> None:
    with pytest.raises(SettingsError, match="SGL_ROUTER_API_KEY") as raised:
        read_settings([], {**DIRECT, "SGL_ROUTER_API_KEY": key})
    assert "sekr" not in str(raised.value)

"""The laws of injection, on pods and profiles of every shape that matters to it."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from patio_operator.injection import CallerKeys, Injection, Runtime, inject
from patio_testing.operator.pod_builders import profile

Object = dict[str, Any]

NAMES = ["engine", "patio", "monitor", "init"]
COMMANDS = [
    ["vllm", "serve", "m", "--enable-lora"],
    ["sh", "-c", "python3 -m sglang.launch_server --port 8000"],
    ["nginx"],
    ["vllm", "serve", "m", "--uds", "/data/s"],
    ["vllm", "serve", "m", "--ssl-certfile", "/c", "--enable-lora"],
    ["tini", "--", "bash", "-c", "sh -c 'exec vllm serve m --enable-lora -dp 2 $ARGS'"],
    ["vllm", "serve", "m", "--headless"],
]
VOLUMES = ["models", "patio", "shm"]
PATHS = ["/models", "/var/lib/patio", "/dev/shm", "/data"]

variables = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["A", "POD_NAME", "INFERENCE_ENGINE"]), "value": st.sampled_from("12")}
    ),
    max_size=3,
    unique_by=lambda item: str(item["name"]),
)
mounts = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(VOLUMES), "mountPath": st.sampled_from(PATHS)}),
    max_size=2,
    unique_by=lambda item: str(item["mountPath"]),
)
lifecycles = st.sampled_from(
    [{}, {"postStart": {"exec": {"command": ["true"]}}}, {"preStop": {"httpGet": {"path": "/", "port": 1}}}]
)
ports = st.lists(
    st.fixed_dictionaries({"containerPort": st.sampled_from([8000, 9091, 9400])}, optional={"name": st.just("patio")}),
    max_size=1,
)


def containers(names: list[str], *, least: int = 0) -> st.SearchStrategy[list[Object]]:
    return st.lists(
        st.fixed_dictionaries(
            {"name": st.sampled_from(names), "image": st.sampled_from(["a:1", "b:1"])},
            optional={
                "command": st.sampled_from(COMMANDS),
                "env": variables,
                "volumeMounts": mounts,
                "ports": ports,
                "lifecycle": lifecycles,
            },
        ),
        min_size=least,
        max_size=2,
        unique_by=lambda item: str(item["name"]),
    )


volumes = st.lists(
    st.sampled_from(
        [
            {"name": "models", "persistentVolumeClaim": {"claimName": "m"}},
            {"name": "models", "hostPath": {"path": "/srv"}},
            {"name": "patio", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ]
    ),
    max_size=3,
    unique_by=lambda item: str(item["name"]),
)
labels = st.sampled_from([{}, {"rbg.workloads.x-k8s.io/group-name": "g", "rbg.workloads.x-k8s.io/role-name": "r"}])
pods = st.builds(
    lambda main, init, volume, label, on_node: {
        "metadata": {"name": "p", "labels": label},
        "spec": {"containers": main, "initContainers": init, "volumes": volume, "hostNetwork": on_node},
    },
    containers(NAMES[:3], least=1),
    containers(NAMES[3:]),
    volumes,
    labels,
    st.booleans(),
)
native = {"name": "patio", "image": "p:1", "restartPolicy": "Always", "ports": [{"containerPort": 9090}]}
specs = st.one_of(
    st.fixed_dictionaries({"containers": containers(NAMES[1:3]), "volumes": volumes}),
    st.just({"initContainers": [native]}),
)


@settings(max_examples=150)
@given(pods, specs)
def test_injecting_twice_is_injecting_once(before: Object, spec: Object) -> None:
    runtimes = (Runtime(profile(**spec)),)
    once = inject(before, runtimes, (), CallerKeys(("key",), "word"))
    if isinstance(once, Injection):
        again = inject(copy.deepcopy(once.pod), runtimes, (), CallerKeys(("newer",), "another"))
        assert isinstance(again, Injection), again
        assert again.pod == once.pod


@settings(max_examples=150)
@given(pods, specs)
def test_nothing_that_was_there_is_dropped_changed_or_reordered(before: Object, spec: Object) -> None:
    original = copy.deepcopy(before)
    result = inject(before, (Runtime(profile(**spec)),), (), CallerKeys(("key",), "word"))
    assert before == original
    if isinstance(result, Injection):
        assert_kept(before["spec"], result.pod["spec"])
        assert before["metadata"]["labels"].items() <= result.pod["metadata"]["labels"].items()


def assert_kept(before: Any, after: Any) -> None:
    """Every key is there with what it had; of every list, all elements in their order, new ones in between at most."""
    if isinstance(before, dict):
        for key, value in before.items():
            assert_kept(value, after[key])
    elif isinstance(before, list) and all(isinstance(entry, dict) for entry in before):
        known = [key_of(entry) for entry in before]
        kept = [entry for entry in after if key_of(entry) in known]
        assert [key_of(entry) for entry in kept] == known
        for old, new in zip(before, kept, strict=True):
            assert_kept(old, new)
    else:
        assert before == after


def key_of(element: Object) -> Any:
    """What makes an element of a list of a pod the same one."""
    return element.get("mountPath") or element.get("containerPort") or element["name"]


def disjoint(letter: str, number: int) -> st.SearchStrategy[Object]:
    """The spec of a profile that shares no name, variable, port or path with one of another letter and number."""
    volume, path = f"v{letter}", f"/{letter}"
    entry = st.fixed_dictionaries(
        {"image": st.just("i"), "env": st.just([{"name": letter.upper(), "value": "$(POD_NAME)"}])},
        optional={
            "volumeMounts": st.just([{"name": volume, "mountPath": path}]),
            "ports": st.just([{"name": "patio", "containerPort": number}]),
            "restartPolicy": st.just("Always"),
        },
    )
    return st.builds(
        lambda native, main: {
            "initContainers": [native | {"name": f"{letter}-init"}],
            "containers": [{key: main[key] for key in main if key != "restartPolicy"} | {"name": f"{letter}-main"}],
            "volumes": [{"name": volume, "emptyDir": {}}],
        },
        entry.filter(lambda spec: "ports" not in spec),
        entry,
    )


@settings(max_examples=100)
@given(pods, disjoint("x", 1), disjoint("y", 2), st.booleans())
def test_profiles_that_share_nothing_can_come_in_any_order(before: Object, x: Object, y: Object, named: bool) -> None:
    targets = (before["spec"]["containers"][0]["name"],) if named else ()
    first, second = Runtime(profile("one", **x), (), targets), Runtime(profile("two", **y), (), targets)
    results = [inject(before, order, ()) for order in ((first, second), (second, first))]
    made = [sorted_lists(result.pod) if isinstance(result, Injection) else None for result in results]
    assert made[0] == made[1]


def sorted_lists(value: Any) -> Any:
    """The same with every list of objects in the order of their names."""
    if isinstance(value, dict):
        return {key: sorted_lists(item) for key, item in value.items()}
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return sorted((sorted_lists(item) for item in value), key=lambda item: str(key_of(item)))
    return value

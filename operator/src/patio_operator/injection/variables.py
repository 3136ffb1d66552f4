"""What the sidecar's variables say: which pod and role it is in, how to reach the engine, which adapters are
wanted.

Called by `admission` after `profiles`. Variables that the profile, an override or upstream has set are left
as they are. A key that is written on the engine's command line is never copied: it would stand in a second
place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from patio_api import labels
from patio_api.owners import controller
from patio_api.pod_identity_env import EnvSource, EnvVar, RoleIdentity, field, label, literal
from patio_operator.injection.engine import ADMIN_API_KEY, API_KEY, Engine
from patio_operator.injection.profiles import replaced
from patio_operator.injection.types import Container, Pod
from patio_protocol.adapters import REQUIRED_ADAPTERS_VARIABLE, LoadRequest
from patio_protocol.engines import DEFAULT_PORTS, EngineKind

KIND = "INFERENCE_ENGINE"
ENDPOINT = "INFERENCE_ENGINE_ENDPOINT"
KEYS: Mapping[str, str] = {API_KEY: "ENGINE_API_KEY", ADMIN_API_KEY: "ENGINE_ADMIN_API_KEY"}
LEADER_WORKER: Mapping[str, str] = {
    "RBG_LWP_LEADER_ADDRESS": "LWS_LEADER_ADDRESS",
    "RBG_LWP_WORKER_INDEX": "LWS_WORKER_INDEX",
    "RBG_LWP_GROUP_SIZE": "LWS_GROUP_SIZE",
}
"""Variables of pods that serve together, by RoleBasedGroup and by LeaderWorkerSet."""
ALLOW_UPDATES = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
TLS_VERIFY, CA_FILE, SERVER_NAME = "ENGINE_TLS_VERIFY", "ENGINE_CA_FILE", "ENGINE_TLS_SERVER_NAME"
MOST_REQUIRED_BYTES = 64 * 1024
"""Of the variable with a pod's adapters. Linux starts no program with one of 128 KiB, and it stands in every pod."""
LONGEST_KIND = 64
"""Characters of what an override says the engine is, in an annotation."""


def of_the_pod(pod: Mapping[str, Any]) -> list[EnvVar]:
    """Return the variables of every container of a profile about its pod, and about its role where it has one."""
    return [
        {"name": "POD_NAME", **field("metadata.name")},
        {"name": "POD_NAMESPACE", **field("metadata.namespace")},
        {"name": "POD_IP", **field("status.podIP")},
        *_of_the_role(pod.get("metadata") or {}),
        *_of_the_instance(pod),
    ]


def referred(containers: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the names of the variables that containers' own variables and mounts refer to."""
    texts = [
        text
        for container in containers
        for text in (
            *(variable.get("value") for variable in container.get("env") or []),
            *(mount.get("subPathExpr") for mount in container.get("volumeMounts") or []),
        )
        if text
    ]
    return {name for text in texts for name in re.findall(r"\$\(([^()]+)\)", text)}


def _of_the_role(metadata: Mapping[str, Any]) -> list[EnvVar]:
    pod_labels = metadata.get("labels") or {}
    belongs = labels.group_and_role(pod_labels)
    if belongs is None:
        return []
    group, role = belongs
    index: EnvSource | None = None
    instance: EnvSource | None = None
    name = pod_labels.get(labels.ROLE_INSTANCE_NAME) or _role_instance(metadata)
    if name is not None:
        # Upstream up to 0.8 gives all pods made in one pass the last index: only the name has the right one. The five
        # random characters at the end of a stateless instance's name are none.
        number = re.search(r"-(\d{1,4})$", name)
        index = literal(number.group(1)) if number else None
        instance = label(labels.ROLE_INSTANCE_NAME) if labels.ROLE_INSTANCE_NAME in pod_labels else literal(name)
    elif labels.LWS_NAME in pod_labels:
        # the pod's own index is its place within the group of pods, for all but leaders
        index = label(labels.LWS_GROUP_INDEX)
    elif _is_of_a_stateful_set(metadata):
        index = label(labels.POD_INDEX)
        instance = field("metadata.name")
    return RoleIdentity(
        group=group,
        role=role,
        index=index,
        instance=instance,
        component=literal(pod_labels.get(labels.COMPONENT_NAME, role)),
        component_index=literal(pod_labels.get(labels.COMPONENT_ID, "0")),
    ).variables()


def _of_the_instance(pod: Mapping[str, Any]) -> list[EnvVar]:
    """Return the variables of the pod's own containers about their leader-worker instance, in both families of names.

    By upstream's controller or by LeaderWorkerSet, to the containers that they see: a profile's are not among them.
    """
    found: dict[str, EnvVar] = {}
    for container in pod["spec"].get("containers") or []:
        for variable in container.get("env") or []:
            found.setdefault(variable["name"], _without_instance(variable, pod.get("metadata") or {}))
    sources = {new: found.get(new) or found.get(old) for new, old in LEADER_WORKER.items()}
    return [
        {**variable, "name": name}
        for new, variable in sources.items()
        if variable is not None
        for name in (new, LEADER_WORKER[new])
    ]


def _without_instance(variable: EnvVar, metadata: Mapping[str, Any]) -> EnvVar:
    """Put the instance's name in: in another container the variable that has it may come too late to be referred to."""
    name = (metadata.get("labels") or {}).get(labels.ROLE_INSTANCE_NAME)
    if name is None or "value" not in variable:
        return variable
    return {**variable, "value": variable["value"].replace("$(RBG_ROLE_INSTANCE_NAME)", name)}


def correct_index(container: Container, pod_variables: Sequence[EnvVar]) -> None:
    """Put the right index where upstream refers to the label that has the last one of all pods made in one pass."""
    right = next((variable for variable in pod_variables if variable["name"] == "RBG_ROLE_INDEX"), None)
    wrong = {"name": "RBG_ROLE_INDEX", **label(labels.ROLE_INSTANCE_INDEX)}
    if right is None:
        return
    for index, variable in enumerate(container.get("env") or []):
        if variable["name"] == wrong["name"] and _field_path(variable) == _field_path(wrong):
            container["env"][index] = dict(right)


def _field_path(variable: Mapping[str, Any]) -> str | None:
    path: str | None = ((variable.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath")
    return path


def _role_instance(metadata: Mapping[str, Any]) -> str | None:
    """Return the name of the RoleInstance that upstream made the pod for."""
    owner = controller(metadata)
    return owner["name"] if owner is not None and owner.get("kind") == "RoleInstance" else None


def _is_of_a_stateful_set(metadata: Mapping[str, Any]) -> bool:
    return (controller(metadata) or {}).get("kind") == "StatefulSet"


def has_endpoint(sidecar: Container) -> bool:
    """Whether a sidecar has the endpoint of its engine."""
    return any(variable["name"] == ENDPOINT for variable in sidecar.get("env") or [])


def trust(sidecar: Container, engine: Engine, pod: Pod) -> list[str]:
    """Have a sidecar trust the certificate of an engine in its own pod, where no other process can answer in its
    place."""
    names = {variable["name"] for variable in sidecar.get("env") or []}
    if not engine.tls or engine.endpoint is None or names & {TLS_VERIFY, CA_FILE, SERVER_NAME}:
        return []
    if pod["spec"].get("hostNetwork"):
        return [
            f"{engine.container!r} serves TLS on the node's network: set {CA_FILE} of {sidecar['name']!r} to its CA, "
            f"and {SERVER_NAME} to the name in its certificate"
        ]
    sidecar["env"] = [*(sidecar.get("env") or []), {"name": TLS_VERIFY, "value": "false"}]
    return []


def tell_sidecar(
    sidecar: Container, engine: Engine, container: Mapping[str, Any], adapters: Sequence[LoadRequest]
) -> list[str]:
    """Tell a sidecar about its engine, in `container`, and its adapters; return what its owner should know."""
    env = {variable["name"]: variable for variable in sidecar.get("env") or []}
    variables: list[EnvVar] = []
    warnings: list[str] = []
    declared_kind = (env.get(KIND) or {}).get("value")
    if engine.kind is None and (KIND not in env or ENDPOINT not in env):
        warnings.append(
            f"no container's command is recognised as an engine: set {KIND} and {ENDPOINT} for "
            f"{sidecar['name']!r} in the profile or by an override"
        )
    elif engine.kind is not None and declared_kind is not None and declared_kind.lower() != engine.kind:
        warnings.append(
            f"{sidecar['name']!r} has {KIND}={declared_kind}, but the command of {engine.container!r} starts "
            f"{engine.kind}"
        )
    if engine.kind is not None:
        variables.append({"name": KIND, "value": engine.kind})
        if engine.endpoint is not None:
            variables.append({"name": ENDPOINT, "value": engine.endpoint})
        elif ENDPOINT not in env:
            what = "port" if engine.socket is None else "Unix socket"
            warnings.append(
                f"the {what} of {engine.container!r} cannot be read from its command: set {ENDPOINT} for "
                f"{sidecar['name']!r}"
            )
        warnings += _guesses(sidecar, engine, env)
    variables += [{"name": KEYS[flag], **source} for flag, source in engine.keys.items()]
    warnings += [
        f"{flag} of {engine.container!r} is not a reference to one of its variables and is not copied: put the key "
        f"into a Secret, and set {KEYS[flag]} of {sidecar['name']!r} from it"
        for flag in engine.unknown_keys
        if KEYS[flag] not in env
    ]
    warnings += _keys_elsewhere(sidecar, engine, container, env)
    missing = [variable for variable in variables if variable["name"] not in env]
    if missing:  # after its own, which they refer to: POD_IP
        sidecar["env"] = [*(sidecar.get("env") or []), *missing]
    return warnings + _require(sidecar, adapters)


def _guesses(sidecar: Container, engine: Engine, env: Mapping[str, Any]) -> list[str]:
    """Say what may be otherwise than the command tells."""
    if engine.unread is None or ENDPOINT in env:
        return []
    adapters = "LoRA" if engine.lora else "no LoRA"
    return [
        f"{engine.container!r} takes flags from {engine.unread}, which Patio cannot read. Patio assumes "
        f"{engine.endpoint} and {adapters}: if that is wrong, set {ENDPOINT} for {sidecar['name']!r}, and put "
        "--enable-lora on the command line"
    ]


def _keys_elsewhere(
    sidecar: Container, engine: Engine, container: Mapping[str, Any], env: Mapping[str, Any]
) -> list[str]:
    """Warn of a key that the engine may have from a Secret as a whole, which is not copied."""
    name = KEYS[API_KEY]
    secrets = [source for source in container.get("envFrom") or [] if source.get("secretRef")]
    has_key = name in env or API_KEY in engine.keys or API_KEY in engine.unknown_keys
    if engine.kind != EngineKind.VLLM or not secrets or has_key:
        return []
    return [
        f"{engine.container!r} has the variables of a Secret (envFrom): if VLLM_API_KEY is among them, set {name} of "
        f"{sidecar['name']!r} too"
    ]


def _require(sidecar: Container, adapters: Sequence[LoadRequest]) -> list[str]:
    """Write the adapters that must be there before the pod is ready, as many as a variable can hold."""
    env = sidecar.get("env") or []
    texts: list[str] = []
    room = MOST_REQUIRED_BYTES
    for adapter in adapters:
        request = adapter.model_dump(mode="json", exclude_defaults=True, exclude={"wait"})
        # `$(` would be expanded by the kubelet; `$$(` is how it is written literally. ASCII: characters are bytes.
        text = json.dumps(request, sort_keys=True, separators=(",", ":")).replace("$(", "$$(")
        if len(text) < room:
            texts.append(text)
            room -= len(text) + 1
    if texts:
        value = {"name": REQUIRED_ADAPTERS_VARIABLE, "value": f"[{','.join(texts)}]"}
        sidecar["env"] = replaced(env, [value])
    elif any(variable["name"] == REQUIRED_ADAPTERS_VARIABLE for variable in env):
        sidecar["env"] = [variable for variable in env if variable["name"] != REQUIRED_ADAPTERS_VARIABLE]
    if len(texts) == len(adapters):
        return []
    return [
        f"{len(adapters)} adapters are for this pod, and {len(texts)} of them fit into {REQUIRED_ADAPTERS_VARIABLE}: "
        "the pod does not wait for the others; the operator loads them when the sidecar answers"
    ]


def allow_updates(container: Container, engine: Engine) -> list[str]:
    """Let a vLLM that takes adapters take them at run time; return what its owner should know."""
    if not engine.lora or engine.kind is None:
        return []
    name = container["name"]
    if engine.kind == EngineKind.SGLANG:
        if engine.api_servers == 1:
            return []
        return [
            f"{name!r} has several tokenizer processes (--tokenizer-worker-num), and SGLang loads an adapter into only "
            "one of them, so some requests for it fail. Remove the flag"
        ]
    present = next((variable for variable in container.get("env") or [] if variable["name"] == ALLOW_UPDATES), None)
    allowed = present is not None and (present.get("value") or "True").lower() in ("1", "true")
    if engine.api_servers != 1:
        servers = "several API servers" if engine.api_servers else "an unknown number of API servers"
        if allowed:
            return (
                []
                if engine.api_servers is None
                else [
                    f"{name!r} has {servers}, and vLLM does not start with them when {ALLOW_UPDATES} is set: add "
                    "--api-server-count 1"
                ]
            )
        return [
            f"{name!r} has {servers}, so Patio does not set {ALLOW_UPDATES} and cannot load adapters at run time: add "
            "--api-server-count 1, which works with data parallelism too"
        ]
    if present is None:
        container["env"] = [*(container.get("env") or []), {"name": ALLOW_UPDATES, "value": "True"}]
    elif not allowed:
        return [f"container {name!r} sets {ALLOW_UPDATES} to off, so Patio cannot load adapters at run time"]
    return []


def summary(engine: Engine, sidecar: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the annotation says about the engine; `guessed` names what only its command line said."""
    env = {variable["name"]: variable.get("value") for variable in (sidecar or {}).get("env") or []}
    kind = (env.get(KIND) or engine.kind or "")[:LONGEST_KIND] or None
    port = engine.port
    endpoint = re.match(r"https?://[^/]*:(\d{1,5})/?$", env.get(ENDPOINT) or "")
    if endpoint:
        port = int(endpoint.group(1))
    elif port is None and engine.socket is None:
        port = DEFAULT_PORTS.get(kind or "")
    guessed = [
        name
        for name, value, guess in (
            ("kind", kind, engine.kind),
            ("port", port, engine.port),
            ("model", engine.model, engine.model),
        )
        if guess is not None and value == guess
    ]
    return {
        "container": engine.container,
        "kind": kind,
        "port": port,
        "model": engine.model,
        "guessed": guessed,
    }

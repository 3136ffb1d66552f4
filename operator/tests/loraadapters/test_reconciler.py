"""Passes over a namespace's LoraAdapters: what is refused of one holds up no other, and the loop is never held."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

from patio_kube.client import KubeClient
from patio_kube.runtime.workqueue import WorkQueue
from patio_operator.caches import Caches
from patio_operator.loraadapters.label_writer import LabelWriter
from patio_operator.loraadapters.planner.observation import Observation
from patio_operator.loraadapters.planner.plan import Load, Unload
from patio_operator.loraadapters.planner.selection import load_request
from patio_operator.loraadapters.reconciler import AdapterReconciler
from patio_operator.loraadapters.service_writer import ServiceWriter
from patio_operator.loraadapters.status_writer import StatusWriter
from patio_testing.operator.builders import lora_adapter, report, seen
from patio_testing.operator.lora_api_server import LoraApiServer, Object
from patio_testing.operator.waiting import until

POLICY = "admission webhook denied the request: label team is missing"


def adapter(name: str, app: str = "vllm", *, held: bool = True, **spec: Any) -> Object:
    metadata = {"name": name, "namespace": "team", "generation": 1, "creationTimestamp": "2026-11-21T10:00:00Z"}
    if held:
        metadata["finalizers"] = ["patio.dev/unload"]
    selector = {"matchLabels": {"app": app}}
    return {"metadata": metadata, "spec": {"source": {"uri": f"file:///{name}"}, "selector": selector} | spec}


def pod(name: str, app: str = "vllm", **labels: str) -> Object:
    shown = {"app": app, "patio.dev/injected": "true"} | labels
    ports = [{"name": "patio", "containerPort": 9091}]
    return {
        "metadata": {"name": name, "namespace": "team", "labels": shown, "annotations": {"patio.dev/engine": ENGINE}},
        "spec": {"initContainers": [{"name": "patio", "ports": ports}]},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }


ENGINE = '{"port": 8000}'


class Sidecars:
    """What sidecars report: what a test says, by pod UID."""

    def __init__(self) -> None:
        self.views: dict[str, Observation] = {}

    def follow(self, *_: object) -> bool:
        return False

    async def first_answers(self, *_: object) -> None:
        return None

    def seen(self, _: str) -> dict[str, Observation]:
        return dict(self.views)

    async def close(self) -> None:
        return None


class Orders:
    """Keeps the orders that were given."""

    def __init__(self) -> None:
        self.dispatched: list[Load | Unload] = []

    def rejections(self, *_: object) -> dict[Any, Any]:
        return {}

    def dispatch(self, orders: Iterable[Load | Unload], _: Mapping[str, Observation]) -> None:
        self.dispatched += orders

    async def close(self) -> None:
        return None


class Secrets:
    async def credentials(self, _: object) -> dict[str, Any]:
        return {}

    def forget(self, *_: object) -> None:
        return None


class Running:
    """An operator's half that is about LoraAdapters, beside an API server."""

    def __init__(self, api: LoraApiServer, cluster: KubeClient, known: Caches) -> None:
        self.api, self.known = api, known
        self.sidecars, self.orders = Sidecars(), Orders()
        self.passes = 0
        wake = self._wake
        self.ordered: set[tuple[str, str]] = set()
        """Pod UIDs and names for which an order is in progress."""
        self.labels = LabelWriter(
            cluster, known.pods, lambda: datetime.now(UTC), random.Random(0), wake, lambda *key: key in self.ordered
        )
        self.reconciler = AdapterReconciler(
            cluster,
            known.pods,
            known.adapters,
            Secrets(),  # type: ignore[arg-type]
            self.sidecars,  # type: ignore[arg-type]
            self.orders,  # type: ignore[arg-type]
            self.labels,
            ServiceWriter(cluster, known.services, time.monotonic),
            StatusWriter(cluster, known.adapters, time.monotonic),
            lambda: datetime.now(UTC),
            time.monotonic,
        )
        self.queue = WorkQueue("adapters")
        known.adapters.add_event_handler(lambda namespace, *_: wake(namespace))
        known.pods.add_event_handler(lambda namespace, *_: wake(namespace))

    async def make_pass(self, key: tuple[str, ...]) -> float | None:
        self.passes += 1
        return await self.reconciler.reconcile(key)

    def _wake(self, namespace: str) -> None:
        self.queue.add((namespace,))

    def loads(self) -> set[str]:
        """Names of the LoraAdapters that something was ordered for."""
        return {order.adapter for order in self.orders.dispatched if isinstance(order, Load)}

    def ready(self, name: str) -> tuple[str, str]:
        status = self.api.get("loraadapters", name).get("status") or {}
        return next(
            ((c["status"], c["reason"]) for c in status.get("conditions", []) if c["type"] == "Ready"), ("", "")
        )


@asynccontextmanager
async def running(api: LoraApiServer, **views: Observation) -> AsyncIterator[Running]:
    async with api.serving() as cluster:
        known = Caches(cluster)
        operator = Running(api, cluster, known)
        operator.sidecars.views = {f"uid-{name}": view for name, view in views.items()}
        tasks = [
            asyncio.create_task(coroutine) for coroutine in (*known.watches(), operator.queue.run(operator.make_pass))
        ]
        try:
            yield operator
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await operator.reconciler.end()


def denying(name: str, ending: str) -> Callable[[str, str], str | None]:
    return lambda _, path: POLICY if f"/{name}" in path and path.endswith(ending) else None


def has(*names: str) -> Observation:
    return seen(*[report(load_request(lora_adapter(name, uri=f"file:///{name}"))) for name in names])


async def test_rejected_finalizer_delays_no_neighbour() -> None:
    api = LoraApiServer()
    api.put("pods", pod("p"))
    for name in ("bad", "good"):
        api.put("loraadapters", adapter(name, held=False))
    api.denies = denying("bad", "/bad")
    async with running(api, p=seen()) as operator:
        await until("good is ordered", lambda: "good" in operator.loads(), operator.loads)
        await until(
            "bad is told", lambda: operator.ready("bad")[1] == "FinalizerRejected", lambda: operator.ready("bad")
        )
        await until("good is told", lambda: operator.ready("good")[1] == "Loading", lambda: operator.ready("good"))
        assert POLICY in str(api.get("loraadapters", "bad")["status"])
        assert "bad" not in operator.loads(), "what could not be held is not loaded"
        api.denies = lambda *_: None
        await until("bad is ordered", lambda: "bad" in operator.loads(), operator.loads)
        assert sum(path.endswith("/bad") for _, path, _ in api.writes) <= 5, "tried again after growing pauses"


async def test_rejected_release_delays_no_neighbour() -> None:
    api = LoraApiServer()
    api.put("pods", pod("p"))
    for name in ("bad", "good", "stays"):
        api.put("loraadapters", adapter(name))
    for name in ("bad", "good"):
        api.get("loraadapters", name)["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    api.denies = denying("bad", "/bad")
    async with running(api, p=has("stays")) as operator:
        await until("good is gone", lambda: ("loraadapters", "team", "good") not in api.objects, lambda: api.objects)
        await until(
            "stays is told", lambda: operator.ready("stays") == ("True", "Loaded"), lambda: operator.ready("stays")
        )
        await until(
            "bad is told", lambda: operator.ready("bad")[1] == "FinalizerRejected", lambda: operator.ready("bad")
        )
        for _ in range(3):
            passes = operator.passes
            operator.queue.add(("team",))
            await until("another pass", lambda passes=passes: operator.passes > passes, lambda: operator.passes)  # type: ignore[misc]
        assert [event for event in api.events() if event[1] == "Unloaded"] == [("good", "Unloaded")]
        api.denies = lambda *_: None
        await until("bad is gone", lambda: ("loraadapters", "team", "bad") not in api.objects, lambda: api.objects)
        await until("it is told once", lambda: ("bad", "Unloaded") in api.events(), api.events)


async def test_rejected_status_delays_no_neighbour() -> None:
    api = LoraApiServer()
    api.put("pods", pod("p"))
    for name in ("bad", "good"):
        api.put("loraadapters", adapter(name))
    api.denies = denying("bad", "/status")
    async with running(api, p=seen()) as operator:
        await until("both are ordered", lambda: operator.loads() == {"bad", "good"}, operator.loads)
        await until("good is told", lambda: operator.ready("good")[1] == "Loading", lambda: operator.ready("good"))
        operator.sidecars.views["uid-p"] = has("bad", "good")
        operator.queue.add(("team",))
        await until(
            "good is ready", lambda: operator.ready("good") == ("True", "Loaded"), lambda: operator.ready("good")
        )
        assert operator.ready("bad") == ("", "")
        await until("good's event", lambda: ("good", "Loaded") in api.events(), api.events)
        assert {name for name, _ in api.events()} == {"good"}, "no event tells of what was not written"


async def test_rejected_service_is_reported_and_delays_no_neighbour() -> None:
    api = LoraApiServer()
    api.put("pods", pod("p"))
    for name in ("bad", "good"):
        api.put("loraadapters", adapter(name, service=True))
    api.denies = lambda _, path: POLICY if path.endswith("/services/bad") else None
    async with running(api, p=has("bad", "good")) as operator:
        for name in ("bad", "good"):
            ready = partial(operator.ready, name)
            await until("ready", lambda ready=ready: ready()[0] == "True", ready)  # type: ignore[misc]
        assert POLICY in str(api.get("loraadapters", "bad")["status"])
        assert POLICY not in str(api.get("loraadapters", "good")["status"])
        assert ("services", "team", "good") in api.objects


async def test_services_of_one_adapter_name_share_no_pod() -> None:
    api = LoraApiServer()
    for app in ("a", "b"):
        api.put("pods", pod(f"p-{app}", app))
        api.put("loraadapters", adapter(f"sql-{app}", app, service=True, adapterName="sql"))
    views = {
        f"p-{app}": seen(report(load_request(lora_adapter(f"sql-{app}", uri=f"file:///sql-{app}", adapterName="sql"))))
        for app in ("a", "b")
    }
    async with running(api, **views) as operator:

        def endpoints(app: str) -> list[str]:
            selector = api.objects.get(("services", "team", f"sql-{app}"), {}).get("spec", {}).get("selector") or {}
            labels = {
                name: body["metadata"]["labels"] for (kind, _, name), body in api.objects.items() if kind == "pods"
            }
            return [name for name, shown in labels.items() if selector and selector.items() <= shown.items()]

        for app in ("a", "b"):
            await until("its own pod", lambda app=app: endpoints(app) == [f"p-{app}"], lambda: endpoints("a"))  # type: ignore[misc]
            ready = partial(operator.ready, f"sql-{app}")
            await until("ready", lambda ready=ready: ready()[0] == "True", ready)  # type: ignore[misc]
        selectors = {api.get("loraadapters", f"sql-{app}")["status"]["selector"] for app in ("a", "b")}
        assert len(selectors) == 2
        assert all(
            body["metadata"]["labels"]["lora.patio.dev/sql"] == "loaded"
            for key, body in api.objects.items()
            if key[0] == "pods"
        )


async def test_service_of_an_older_version_waits_for_labels() -> None:
    api = LoraApiServer()
    api.put("pods", pod("p", **{"lora.patio.dev/sql": "loaded"}))
    api.put("loraadapters", adapter("sql", service=True))
    owner = {
        "controller": True,
        "uid": "uid-sql",
        "kind": "LoraAdapter",
        "name": "sql",
        "apiVersion": "patio.dev/v1alpha1",
    }
    old = {"lora.patio.dev/sql": "loaded"}
    metadata = {
        "name": "sql",
        "namespace": "team",
        "ownerReferences": [owner],
        "labels": {"patio.dev/adapter-service": "true"},
    }
    ports = [{"name": "http", "port": 80, "targetPort": 8000}]
    api.put("services", {"metadata": metadata, "spec": {"selector": dict(old), "ports": ports}})
    async with running(api, p=has("sql")):
        new = old | {"owner.lora.patio.dev/uid-sql": "sql"}

        def selector() -> Object:
            return dict(api.get("services", "sql")["spec"]["selector"])

        await until("the Service is changed", lambda: selector() == new, selector)
        changed = [(path.rsplit("/", 2)[1:], body) for method, path, body in api.writes if method == "PATCH"]
        kinds = [path[0] for path, _ in changed if path[0] in ("pods", "services")]
        assert kinds == ["pods", "services"], "the label is there before anything selects by it"


async def test_label_without_an_owner_is_completed() -> None:
    api = LoraApiServer()
    api.put("pods", pod("p", **{"lora.patio.dev/sql": "loaded", "owner.lora.patio.dev/gone": "sql"}))
    api.put("loraadapters", adapter("sql"))
    async with running(api, p=has("sql")):
        expected = {"lora.patio.dev/sql": "loaded", "owner.lora.patio.dev/uid-sql": "sql"}

        def labels() -> dict[str, str]:
            return {key: value for key, value in api.get("pods", "p")["metadata"]["labels"].items() if "lora." in key}

        await until("relabelled", lambda: labels() == expected, labels)


async def test_label_being_set_counts_as_just_removed() -> None:
    api = LoraApiServer()
    api.put("pods", pod("p"))
    api.put("loraadapters", adapter("sql"))
    api.denies = lambda method, path: POLICY if path.endswith("/pods/p") else None
    async with running(api, p=has("sql")) as operator:
        hold = asyncio.Event()
        merge = operator.labels._client.merge

        async def late(*args: Any) -> Any:
            await hold.wait()
            return await merge(*args)

        operator.labels._client = SimpleNamespace(merge=late)  # type: ignore[assignment]
        in_progress = partial(operator.labels.unlabelled, "team", ["uid-p"])
        await until("on its way", lambda: ("uid-p", "sql") in in_progress(), in_progress)
        hold.set()
        await until("refused", lambda: in_progress() == {}, in_progress)


async def test_label_waits_for_an_order_that_is_in_progress() -> None:
    api = LoraApiServer()
    api.put("pods", pod("p"))
    for name in ("sql", "chat"):
        api.put("loraadapters", adapter(name))
    async with running(api) as operator:
        operator.ordered.add(("uid-p", "sql"))
        operator.sidecars.views = {"uid-p": has("sql", "chat")}
        operator.queue.add(("team",))

        def labels() -> set[str]:
            labels = api.get("pods", "p")["metadata"]["labels"]
            return {key for key in labels if "lora.patio.dev/" in key}

        chat = {"lora.patio.dev/chat", "owner.lora.patio.dev/uid-chat"}
        await until("the other is shown", lambda: labels() == chat, labels)
        for _ in range(3):
            passes = operator.passes
            operator.queue.add(("team",))
            await until("another pass", lambda passes=passes: operator.passes > passes, lambda: operator.passes)  # type: ignore[misc]
            assert labels() == chat
        operator.ordered.clear()
        both = chat | {"lora.patio.dev/sql", "owner.lora.patio.dev/uid-sql"}
        await until("both are shown", lambda: labels() == both, labels)


async def test_nothing_is_kept_of_a_namespace_whose_last_object_went() -> None:
    api = LoraApiServer()
    api.put("pods", pod("p"))
    api.put("loraadapters", adapter("sql"))
    async with running(api, p=has("sql")) as operator:
        await until("it is told", lambda: operator.ready("sql") == ("True", "Loaded"), lambda: operator.ready("sql"))
        assert len(operator.reconciler) == 1
        api.drop("loraadapters", "sql")
        api.drop("pods", "p")
        await until("it is forgotten", lambda: len(operator.reconciler) == 0, lambda: len(operator.reconciler))


async def test_nothing_is_kept_of_namespaces_when_a_term_ends() -> None:
    api = LoraApiServer()
    api.put("pods", pod("p"))
    api.put("loraadapters", adapter("sql"))
    async with running(api, p=has("sql")) as operator:
        await until("it is told", lambda: operator.ready("sql") == ("True", "Loaded"), lambda: operator.ready("sql"))
    assert len(operator.reconciler) == 0, "a standby is not told which namespaces end"


async def test_nothing_is_kept_of_an_adapter_that_went_during_a_pass() -> None:
    api = LoraApiServer()
    api.put("pods", pod("p"))
    api.put("loraadapters", adapter("gone"))
    api.get("loraadapters", "gone")["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    async with running(api, p=seen()) as operator:

        class SlowSecrets(Secrets):
            async def credentials(self, _: object) -> dict[str, Any]:
                if ("loraadapters", "team", "gone") in api.objects:
                    api.drop("loraadapters", "gone")
                    await until("its end is known", lambda: not operator.known.adapters.all("team"), lambda: None)
                return {}

        operator.reconciler._secrets = SlowSecrets()  # type: ignore[assignment]
        operator.queue.add(("team",))
        await until("it is dropped", lambda: ("loraadapters", "team", "gone") not in api.objects, lambda: api.objects)
        await until("a pass was made", lambda: operator.passes >= 3, lambda: operator.passes)
        api.drop("pods", "p")
        await until("it is forgotten", lambda: len(operator.reconciler) == 0, lambda: len(operator.reconciler))

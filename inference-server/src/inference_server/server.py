"""The base of all servers: starts an engine, proves that it serves, watches it and stops it.

Everything that is decided is decided in the pure modules (`arguments`, `profiling`, `phases`, `diagnosis`, `stopping`,
`stall_detection`); this class carries it out. `backends` has the engines, `factory` what makes a server of a name or a
file. A start holds the lifecycle's lock; a stop from another thread ends the start first.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import os
import shlex
import shutil
import signal
import threading
import time
import urllib.parse as addresses
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Iterator, Mapping, Sequence, TypeVar

from inference_server import (
    arguments,
    checks,
    cleanup,
    configuration,
    diagnosis,
    endpoints,
    engine_calls,
    gpu,
    gpu_memory,
    http_check,
    in_flight,
    logs,
    masking,
    phases,
    ports,
    preflight,
    processes,
    profiles,
    profiling,
    recording,
    restarts,
    run_file,
    run_record,
    stall_detection,
    stop_execution,
    stopping,
    supervision,
    watch,
)
from inference_server.errors import (
    Cause,
    CleanupError,
    EngineError,
    InferenceServerError,
    ProfileError,
    ServerStartupError,
    ServerTimeoutError,
)

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.25
"""Seconds between two questions whether the server is ready. A death ends the pause at once."""

PROBE_SECONDS = 30.0
"""How long one question during a start may take: the /health of SGLang without /ready generates a token first."""

FAILURES_UNTIL_UNHEALTHY = 3
SAMPLE_SECONDS = 1.0
"""Between two looks at whether a start makes progress."""

DRAIN_PAUSE = 0.25
"""Seconds between two questions whether requests are left."""

ENV_MODES = ("inherit", "clean")
"""Whether the engine has its caller's environment beside `env_vars`, or `env_vars` alone."""

MAX_LOG_BYTES = 256 * 1024 * 1024
"""A log that is larger is rotated."""

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
Self = TypeVar("Self", bound="InferenceServer")


class InferenceServer(abc.ABC):
    """One inference server: a command, an output directory, a port.

    Attributes:
        process: the engine's process, with the methods of `subprocess.Popen`; None unless it was started.
        is_running: whether the server was ready and has not ended since.
        is_restarting: whether the server ended by itself and is being started again, or will be.
        state: `new`, `starting`, `ready`, `degraded`, `unhealthy`, `dead`, `stopping` or `stopped`.
        phase: how far the start is, by the engine's own words.
        phases: the seconds after the start at which each phase began.
        stop_report: what the last stop did.
        cleanup_report: what `debug_mode` found after the last stop.
        run_file: where all of this is written down for other processes.
        profile_files: what a profiler wrote that recorded the whole life of the engine; known after the stop.
    """

    def __init__(
        self,
        model: str,
        output_dir: str | Path = "./server_logs",
        port: int = 8000,
        heartbeat_interval: float = 5,
        heartbeat_timeout: float = 30,
        startup_timeout: float = 600,
        env_vars: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        debug_mode: bool = False,
        *,
        stall_timeout: float = 300,
        stop_timeout: float | None = None,
        drain_timeout: float = 0,
        strict_cleanup: bool = False,
        profile: Mapping[str, Any] | None = None,
        gpu_release_timeout: float = 30,
        env_mode: str = "inherit",
        max_log_bytes: int = MAX_LOG_BYTES,
        restart: str = "never",
        restart_limit: int = 3,
        on_phase: Callable[[str], None] | None = None,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        self.model = str(model)
        self.output_dir = Path(output_dir)
        self.port = int(port) or ports.free_port()
        self.server_url = "http://localhost:%d" % self.port
        self.heartbeat_interval = heartbeat_interval
        self.heartbeat_timeout = heartbeat_timeout
        self.startup_timeout = startup_timeout
        self.stall_timeout = stall_timeout
        self.stop_timeout = self.default_stop_timeout if stop_timeout is None else stop_timeout
        self.drain_timeout = drain_timeout
        self.gpu_release_timeout = gpu_release_timeout
        if env_mode not in ENV_MODES:
            raise ValueError("env_mode must be one of %s, not %r" % (", ".join(ENV_MODES), env_mode))
        self.env_mode = env_mode
        self.env_vars = configuration.variables_from(env_vars)
        self.config: dict[str, Any] = dict(config or {})
        self.profile_config = profile
        self.debug_mode = debug_mode
        self.strict_cleanup = strict_cleanup
        self.max_log_bytes = int(max_log_bytes)
        self.restart_policy = restarts.RestartPolicy(restart, int(restart_limit))
        self.is_restarting = False
        self.on_phase = on_phase
        self.on_change = on_change
        self.logger = logging.getLogger(type(self).__name__)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        name = self.get_backend_name()
        self.log_file = self.output_dir / ("%s_server.log" % name)
        self.error_log_file = self.output_dir / ("%s_server_error.log" % name)
        self.run_file = run_file.RunFile(self.output_dir / run_file.NAME, self.logger)
        self.owned_by = run_record.LIBRARY
        self.process: supervision.EngineProcess | None = None
        self.process_group_id: int | None = None
        self.tracked_pids: set[int] = set()
        self.is_running = False
        self.state = "new"
        self.heartbeat_thread: threading.Thread | None = None
        self.last_heartbeat_success = False
        self.phase = ""
        self.phases: dict[str, float] = {}
        self.stop_report: stopping.StopReport | None = None
        self.cleanup_report: cleanup.CleanupReport | None = None
        self._binary_path: str | None = None
        self._lifecycle = threading.RLock()
        self._cancelled = threading.Event()
        self._stops_waiting = 0
        self._counting = threading.Lock()
        self._heartbeat: watch.Heartbeat | None = None
        self._follower: logs.LogFollower | None = None
        self.profile_files: tuple[Path, ...] = ()
        self._profiles: profiles.Profiles | None = None
        self._application: processes.Identity | None = None
        self._tracked: set[processes.Identity] = set()
        self._command: list[str] = []
        self._secrets: tuple[str, ...] = ()
        self._owner = os.getpid()
        self._environment: dict[str, str] = {}
        self._gpu: gpu.GpuWatch | None = None
        self._began = 0.0
        self._served_since = 0.0
        self._restarts = 0
        self._unwanted = threading.Event()
        self._in_start = False

    default_stop_timeout = 30.0
    """Seconds that the engine's first process has to finish after SIGTERM."""

    # What a backend says

    @abc.abstractmethod
    def get_backend_name(self) -> str:
        """Return the backend's name, which begins the names of the log files."""

    @abc.abstractmethod
    def get_launch_command(self) -> list[str]:
        """Return the command that starts the engine, word by word."""

    @abc.abstractmethod
    def get_binary_path(self) -> str:
        """Return the program or interpreter that the command begins with."""

    @abc.abstractmethod
    def get_health_endpoint(self) -> str:
        """Return the URL that answers 200 when the server is well."""

    @abc.abstractmethod
    def list_endpoints(self) -> dict[str, str]:
        """Return the URLs of the server by name."""

    def discover_endpoints(self) -> dict[str, str]:
        """Ask the running server which routes it has; return `list_endpoints()` if it has no OpenAPI document."""
        url = self.server_url + "/openapi.json"
        answer = http_check.get(url, float(self.heartbeat_timeout), self.get_request_headers())
        found = endpoints.served_endpoints(self.server_url, answer.json()) if answer is not None else {}
        return found or self.list_endpoints()

    def get_base_env(self) -> dict[str, str]:
        """Return the engine's environment: `env_vars`, and the caller's unless `env_mode` is `clean`."""
        return dict(os.environ if self.env_mode == "inherit" else {}, **self.env_vars)

    def get_readiness_endpoints(self) -> list[str]:
        """Return the URLs that say during a start whether the server is ready: the first one that it has."""
        return [self.get_health_endpoint()]

    def get_heartbeat_endpoints(self) -> list[str]:
        """Return the URLs that say whether a server that was ready still is: the first one that it has."""
        return [self.get_health_endpoint()]

    def get_launch_arguments(self) -> list[str]:
        """Return the engine's arguments as far as they are known, for what depends on them."""
        return []

    def prepare(self, environment: dict[str, str]) -> tuple[int, ...] | None:
        """Check what can be known before a start, and complete the environment; return the engine's version if known.

        Raises:
            ServerStartupError: the start would fail.
        """
        return None

    def expected_models(self) -> set[str]:
        """Return the names of which one must be in /v1/models; an empty set if nothing is known."""
        return set()

    def get_request_headers(self) -> dict[str, str]:
        """Return the headers that this library's own requests need."""
        return {}

    def get_admin_headers(self) -> dict[str, str]:
        """Return the headers of requests that change the engine: profiles and adapters."""
        return self.get_request_headers()

    @property
    def binary_path(self) -> str:
        """`config["binary_path"]`, or what the backend says."""
        return self._binary_path or str(self.config.get("binary_path") or self.get_binary_path())

    @binary_path.setter
    def binary_path(self, value: str) -> None:
        self._binary_path = value

    # Check

    def check(self) -> checks.CheckReport:
        """Return what would be started, and what is in its way. Starts nothing."""
        environment = self.get_base_env()
        items = self.check_program(environment)  # first: it may choose another interpreter
        wanted = self.profile_config if self.profile_config is not None else self.config.get("profile")
        items += preflight.profiler_items(wanted, str(self.output_dir), environment)
        items += preflight.inspect(
            engine=self.get_backend_name(),
            model=self.model,
            port=self.port,
            holders=_holders(self.port),
            words=self.get_launch_arguments(),
            environment=environment,
            output_dir=str(self.output_dir),
            has_model=bool(self.expected_models()),
        )
        command = [str(word) for word in self.get_launch_command()]
        secrets = masking.secret_values(command, environment)
        return checks.CheckReport(
            "%s on port %d" % (self.get_backend_name(), self.port),
            tuple(masking.mask_words(command, secrets)),
            masking.mask_variables(_beyond_ours(environment), secrets),
            tuple(items),
        )

    def check_program(self, environment: dict[str, str]) -> list[checks.CheckItem]:
        """Return what is found about the program that the command begins with, and about its options."""
        return [preflight.program_item(str(self.get_launch_command()[0]), environment)]

    # Start

    def start(self) -> bool:
        """Start the server; return True when it serves.

        Raises:
            ServerTimeoutError: it was not ready in `startup_timeout`, or made no progress for `stall_timeout`.
            ServerStartupError: it ended, or could not be started, or is not the server that answers on its port.
            ProfileError: the profiler is not there or cannot be configured.
        """
        with self._lifecycle:
            self._unwanted.clear()
            self._restarts = 0
            return self._start()

    def _start(self) -> bool:
        with self._lifecycle:
            if self.is_running:
                self.logger.warning("the server is already running")
                return True
            with self._abandoned_if_it_fails():  # between its two parts, too
                self._begin()
                self.wait_until_ready()
            return True

    def launch(self) -> None:
        """Start the engine and return at once; `wait_until_ready` does the rest of `start`.

        Raises:
            ServerStartupError: it could not be started.
            ProfileError: the profiler is not there or cannot be configured.
        """
        with self._lifecycle:
            self._unwanted.clear()
            self._restarts = 0
            self._begin()

    def _begin(self) -> None:
        with self._lifecycle:
            process = self.process
            if self.is_running or (self.state == "starting" and process is not None and process.poll() is None):
                self.logger.warning("the server is already running")
                return
            self._release()
            self._cancelled.clear()
            self._owner = os.getpid()
            self._set_state("starting")
            with self._abandoned_if_it_fails():
                self._launch()
            self._began = time.monotonic()

    def wait_until_ready(self) -> bool:
        """Wait until a launched server serves; return True then. The limits of a start count from its launch.

        Raises:
            ServerTimeoutError: it was not ready in `startup_timeout`, or made no progress for `stall_timeout`.
            ServerStartupError: it ended, or is not the server that answers on its port, or was not launched.
        """
        with self._lifecycle:
            if self.is_running:
                return True
            process = self.process
            if process is None or self.state != "starting":
                raise ServerStartupError("the server was not launched, or was stopped")
            with self._abandoned_if_it_fails():
                self._wait_until_ready(process)
                self._serve(process)
            return True

    @contextlib.contextmanager
    def _abandoned_if_it_fails(self) -> Iterator[None]:
        """Run a part of a start, which a stop from another thread may end; if it fails, nothing stays behind."""
        self._in_start = True
        try:
            yield
        except BaseException as error:
            # Ctrl-C too: nothing may stay behind.
            self._abandon()
            self._note_failure(error)
            self._set_state("dead")
            if isinstance(error, (InferenceServerError, KeyboardInterrupt, SystemExit)) or not isinstance(
                error, Exception
            ):
                raise
            raise ServerStartupError("Failed to start server: %s" % error) from error
        finally:
            self._in_start = False

    def _serve(self, process: supervision.EngineProcess) -> None:
        """Go from starting to ready, and begin to watch."""
        self.is_running = True
        self.is_restarting = False
        self._served_since = time.monotonic()
        self.last_heartbeat_success = True
        if self._profiles is not None:
            self._profiles.begin_whole_life(self._get_target(), self.get_launch_arguments())
        # A stop that comes from here on lets the engine finish: who hears of "ready" may stop it at once.
        self._in_start = False
        self._set_state("ready")
        self._heartbeat = watch.Heartbeat(float(self.heartbeat_interval), self._beat, self._heard)
        self.heartbeat_thread = self._heartbeat.thread
        self._heartbeat.start()
        process.on_exit = lambda: self._died(process)
        if process.poll() is not None:
            self._died(process)

    def _launch(self) -> supervision.EngineProcess:
        environment = self.get_base_env()
        if not ports.is_free(self.port):
            raise ServerStartupError(
                "port %d is in use" % self.port,
                cause=Cause.PORT_IN_USE,
                hint="it is held by %s; stop that, or choose another port"
                % (_holders(self.port) or "a connection, or a process of another user"),
            )
        version = self.prepare(environment)
        self._profiles, self.profile_files = self._make_profiles(), ()
        command = self._profiles.arrange(
            [str(word) for word in self.get_launch_command()],
            environment,
            self.get_launch_arguments(),
            version,
            "server-%d-%d" % (os.getpid(), self.port),
        )
        self._command = command
        self._secrets = masking.secret_values(command, environment)
        self._require_program(command[0], environment)
        self.logger.info("starting %s: %s", self.get_backend_name(), self._masked())
        for path in (self.log_file, self.error_log_file):
            logs.keep_previous(path)
        self._follower = logs.LogFollower([self.log_file, self.error_log_file])
        self.phase, self.phases = "", {}
        self._application = None
        self._tracked = set()
        self._environment = environment
        gpu_reader = gpu.find_reader()
        self._gpu = gpu.GpuWatch(gpu_reader) if gpu_reader is not None else None
        written = os.path.abspath(self.run_file.path)
        # Appending: what is emptied while the engine writes begins at its beginning again.
        with self.log_file.open("ab") as output, self.error_log_file.open("ab") as errors:
            # Held before it runs anything: Ctrl-C may come between any two lines.
            self.process = supervision.hire_keeper(command, output.fileno(), errors.fileno(), written)
        self.run_file.begin(self._new_record(self.process, environment))
        self.process.start(os.getcwd(), environment)
        self.process_group_id = self.process.pid
        versions = dict(run_file.own_versions(), **({"engine": ".".join(map(str, version))} if version else {}))
        self.run_file.note(engine=processes.identity_of(self.process.pid), versions=versions)
        return self.process

    def _new_record(self, process: supervision.EngineProcess, environment: Mapping[str, str]) -> run_record.RunRecord:
        return run_record.RunRecord(
            backend=self.get_backend_name(),
            model=self.model,
            port=self.port,
            url=self.server_url,
            state=self.state,
            output_dir=os.path.abspath(self.output_dir),
            log_file=os.path.abspath(self.log_file),
            error_log_file=os.path.abspath(self.error_log_file),
            command=tuple(self.masked_command()),
            working_directory=os.getcwd(),
            environment=masking.mask_variables(_beyond_ours(environment), self._secrets),
            endpoints=self.list_endpoints(),
            versions={},
            owner=processes.identity_of(os.getpid()),
            owned_by=self.owned_by,
            keeper=processes.identity_of(process.keeper_pid),
            engine=None,
            started_at=run_file.now_text(),
            stop_timeout=float(self.drain_timeout) + self.get_stop_plan().longest + float(self.gpu_release_timeout),
        )

    def _note_failure(self, error: BaseException) -> None:
        """Write down why a start failed."""
        startup = error if isinstance(error, ServerStartupError) else None
        values = {
            "cause": (startup.cause if startup else Cause.UNKNOWN).value,
            "message": startup.message if startup else str(error) or type(error).__name__,
            "hint": startup.hint if startup else "",
            "exit_code": startup.exit_code if startup else None,
        }
        self.run_file.note(error=values, ended_at=run_file.now_text())

    def _make_profiles(self) -> profiles.Profiles:
        wanted = self.profile_config if self.profile_config is not None else self.config.get("profile")
        folder = os.path.abspath(self.output_dir)
        return profiles.Profiles(
            profiling.settings_of(wanted, folder), self.get_backend_name(), os.path.join(folder, "profiles")
        )

    def _require_program(self, program: str, environment: Mapping[str, str]) -> None:
        if shutil.which(program, path=environment.get("PATH", os.defpath)) is None:
            raise ServerStartupError(
                "there is no program %s" % program,
                cause=Cause.NOT_FOUND,
                hint="install it, or set config['binary_path'] to where it is",
                command=self.masked_command(),
            )

    def _wait_until_ready(self, process: supervision.EngineProcess) -> None:
        began = self._began
        until = began + self.startup_timeout
        pause = FIRST_PAUSE
        moved_at = began
        activity = stall_detection.Activity(began, 0, 0.0, 0)
        while True:
            self._read_log(began)
            if process.poll() is not None:
                self._read_log(began)
                raise self._ended_early(process)
            # A stop that came before this start began waits for the lifecycle's lock.
            if self._cancelled.is_set() or self._stops_waiting:
                raise ServerStartupError("the server was stopped while it started")
            left = until - time.monotonic()
            if self._answers(self.get_readiness_endpoints(), min(PROBE_SECONDS, max(left, 0.1))):
                self._prove(process)
                self._read_log(began)
                self._note_phase("ready", began)
                return
            now = time.monotonic()
            if now >= until:
                raise self._too_late(
                    Cause.TIMEOUT,
                    "Server failed to become ready within %g seconds" % self.startup_timeout,
                    "raise startup_timeout if the log shows that it was still at work",
                )
            if now - activity.at >= SAMPLE_SECONDS:
                current = self._activity(process)
                moved_at = now if stall_detection.made_progress(activity, current) else moved_at
                activity = current
                if now - moved_at >= self.stall_timeout:
                    raise self._too_late(
                        Cause.STALLED,
                        "Server made no progress for %g seconds: no output, no CPU time, no bytes read"
                        % self.stall_timeout,
                        "the usual cause is a download or a peer that does not answer",
                    )
            process.wait_for_exit(min(pause, max(until - now, 0.0)))
            pause = min(pause * 1.5, LONGEST_PAUSE)

    def _activity(self, process: supervision.EngineProcess) -> stall_detection.Activity:
        members = process.members()
        self._find_application(members)
        cpu_seconds, bytes_read = processes.work_of(members)
        lines = self._follower.count if self._follower else 0
        return stall_detection.Activity(time.monotonic(), lines, cpu_seconds, bytes_read)

    def _answers(self, urls: Sequence[str], timeout: float) -> bool:
        """Whether the first of these URLs that the server has answers 200."""
        for url in urls:
            answer = http_check.get(url, timeout, self.get_request_headers())
            if answer is None or answer.status != 404:
                return answer is not None and answer.status == 200
        return False

    def _prove(self, process: supervision.EngineProcess) -> None:
        """Make sure that the answer came from our engine, and that it serves our model."""
        members = process.members()
        self._find_application(members)
        self._track(members)
        address = addresses.urlsplit(self.get_health_endpoint())
        if self.config.get("verify_port", True) and address.hostname in LOCAL_HOSTS and address.port:
            held = ports.is_held_by(address.port, [stat.identity.pid for stat in members])
            if held is False:
                raise ServerStartupError(
                    "the server that answers on port %d is not the one that was started" % address.port,
                    cause=Cause.FOREIGN_SERVER,
                    hint="%s listens there; stop that, or choose another port"
                    % (_holders(address.port) or "a process of another user"),
                    log_tail=self._tail(),
                    command=self.masked_command(),
                )
        expected = self.expected_models()
        models_url = self.list_endpoints().get("models")
        if expected and models_url:
            ids = http_check.model_ids(http_check.get(models_url, PROBE_SECONDS, self.get_request_headers()))
            if ids is None:
                self.logger.warning("%s gave no list of models, so the model could not be verified", models_url)
            elif not ids & expected:
                raise ServerStartupError(
                    "the server does not serve %s" % ", ".join(sorted(expected)),
                    cause=Cause.WRONG_MODEL,
                    hint="it serves %s" % (", ".join(sorted(ids)) or "no model"),
                    log_tail=self._tail(),
                    command=self.masked_command(),
                )

    def _ended_early(self, process: supervision.EngineProcess) -> ServerStartupError:
        code = process.poll()
        found = diagnosis.diagnose(self._follower.lines() if self._follower else [], code)
        how = "signal %d" % -code if code is not None and code < 0 else "exit code %s" % code
        message = "Failed to start server: it ended with %s (%s)" % (how, found.cause.value)
        return ServerStartupError(
            self.mask(message + (": " + found.line[:500] if found.line else "")),
            cause=found.cause,
            hint=self.mask(found.hint),
            log_tail=self._tail(),
            exit_code=code,
            command=self.masked_command(),
        )

    def _too_late(self, cause: Cause, message: str, hint: str) -> ServerTimeoutError:
        return ServerTimeoutError(message, cause=cause, hint=hint, log_tail=self._tail(), command=self.masked_command())

    def log_tail(self, count: int = 20) -> str:
        """Return the last lines of the engine's output, with secrets masked."""
        if self._follower is None:
            return ""
        self._follower.read()
        return self.mask(self._follower.tail(count))

    def mask(self, text: str) -> str:
        """Return a text without the secrets of this server's command and variables."""
        return masking.mask_text(text, self._secrets)

    def masked_command(self) -> list[str]:
        """Return the command of the last start, word by word, with secrets masked."""
        return masking.mask_words(self._command, self._secrets)

    def _tail(self) -> str:
        return self.mask(self._follower.tail()) if self._follower else ""

    def _masked(self) -> str:
        return " ".join(shlex.quote(word) for word in self.masked_command())

    def _read_log(self, began: float) -> None:
        for line in self._follower.read() if self._follower else ():
            progress = phases.phase_of(line)
            if progress is not None:
                self._note_phase(progress.phase, began)

    def _note_phase(self, phase: str, began: float) -> None:
        if phase in self.phases:
            return
        self.phases[phase] = time.monotonic() - began
        self.phase = phase
        self.run_file.note(phase=phase, phases={name: round(at, 3) for name, at in self.phases.items()})
        if self.on_phase is not None:
            self.on_phase(phase)

    def _abandon(self) -> None:
        """End a start: kill what there is. Bounded, and quiet about everything else."""
        process = self.process
        self.is_running = False
        self.last_heartbeat_success = False
        if self._heartbeat is not None:
            self._heartbeat.stop(0)
        if process is not None:
            process.on_exit = None
            process.kill()
            process.wait_until_gone(stopping.KILL_SECONDS)
            self._track(process.members())

    # Calls of a running server

    def load_adapter(self, name: str, path: str | Path) -> str:
        """Load a LoRA adapter from a folder that the engine can read; return what requests put in `model` for it.

        Raises:
            EngineError: the engine rejects it; the text has its reason.
        """
        engine = self._get_engine()
        engine_calls.load(engine, name, str(path))
        return engine_calls.request_model(engine, name)

    def unload_adapter(self, name: str) -> None:
        """Unload a LoRA adapter.

        Raises:
            EngineError: the engine does not.
        """
        engine_calls.unload(self._get_engine(), name)

    def metrics(self) -> str:
        """Return the engine's metrics as Prometheus text, with standard names behind it where `patio` is installed.

        Raises:
            EngineError: the engine gives none.
        """
        return engine_calls.metrics(self._get_engine(), self._metrics_url())

    def _metrics_url(self) -> str:
        return self.list_endpoints().get("metrics", self.server_url + "/metrics")

    def drain(self, timeout: float = 60) -> bool:
        """Wait until the engine has no request, neither in work nor waiting; return whether that came in time.

        Nothing keeps new requests away: stop sending them first.

        Raises:
            EngineError: the engine ended, or its metrics do not say how many requests it has.
        """
        process = self.process
        if process is None:
            raise EngineError("the server was not started")
        until = time.monotonic() + timeout
        while True:
            try:
                left = in_flight.requests_in_flight(engine_calls.own_metrics(self._get_engine(), self._metrics_url()))
            except EngineError:
                if process.poll() is None:
                    raise
                left = None
            if process.poll() is not None:
                raise EngineError("the engine ended with code %s" % process.poll())
            if left is None:
                raise EngineError("the engine's metrics do not say how many requests it has")
            if left == 0 or time.monotonic() >= until:
                return left == 0
            process.wait_for_exit(DRAIN_PAUSE)

    def _get_engine(self) -> engine_calls.Engine:
        served = arguments.values_of(self.get_launch_arguments(), "--served-model-name")
        return engine_calls.Engine(
            self.get_backend_name(),
            self.server_url,
            served[0] if served else self.model,
            self.get_request_headers(),
            self.get_admin_headers(),
        )

    # Profiles

    @contextlib.contextmanager
    def profile(self, name: str = "") -> Iterator[recording.Profile]:
        """Record what happens within the block; then `files` of what this gives has the profile.

        A server that does not run is started for the block and stopped after it: the only way for a profiler that
        writes when the engine ends.

        Raises:
            ProfileError: there is no way to record, or no file was written; the text says why.
        """
        profile = recording.Profile(name)
        running = self.is_running
        if not running:
            self._make_profiles().plan(name, self.get_launch_arguments(), running=False)  # before minutes of a start
        with contextlib.ExitStack() as stack:
            if not running:
                stack.enter_context(self)
            current_profiles = self._profiles or self._make_profiles()
            current = current_profiles.begin(profile, self._get_target(), self.get_launch_arguments(), running=running)
            try:
                yield profile
            except Exception:  # whatever the block raises: the engine must not go on recording
                with contextlib.suppress(ProfileError):  # the block's own error says more
                    current.end()
                raise
            except BaseException:
                current.abandon()
                raise
            else:
                current.end()
            finally:
                current_profiles.forget(current)
        if not profile.files:
            profile.files = self.profile_files

    def _get_target(self) -> recording.Target:
        process = self.process
        settings = self._profiles.settings if self._profiles is not None else None
        return recording.Target(
            url=self.server_url,
            headers=self.get_admin_headers(),
            environment=self._environment,
            is_alive=lambda: process is not None and process.poll() is None,
            pids=lambda: [stat.identity.pid for stat in process.members()] if process is not None else [],
            seconds=settings.stop_timeout if settings is not None else recording.Target.seconds,
        )

    def _collect_profile(self, report: stopping.StopReport) -> None:
        if self._profiles is None:
            return
        if self._profiles.recorded_nothing:
            self.logger.warning("no profile was recorded: enter `with server.profile()`, or set profile.record to run")
        try:
            self.profile_files = self._profiles.collect()
        except ProfileError as error:
            if report.exit_code == -signal.SIGKILL:
                reason = "it was killed after %.0f s: raise profile.stop_timeout" % report.seconds
            else:
                reason = "it ended with code %s" % report.exit_code
            self._read_log(self._began)
            raise ProfileError("%s; %s. Last lines of the log:\n%s" % (error, reason, self._tail())) from error

    # Watch

    def check_health(self) -> bool:
        """Whether the last heartbeat succeeded; False before a start and after the server's end. Asks nothing."""
        return self.last_heartbeat_success

    def probe(self) -> bool:
        """Ask the server now whether it is well."""
        return self._answers(self.get_heartbeat_endpoints(), float(self.heartbeat_timeout))

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the engine to end; return its exit code, or None if it runs on."""
        process = self.process
        if process is None:
            return None
        return process.poll() if process.wait_for_exit(threading.TIMEOUT_MAX if timeout is None else timeout) else None

    def _beat(self) -> bool:
        process = self.process
        if process is None or process.poll() is not None:
            return False
        self._track(process.members())
        for path in (self.log_file, self.error_log_file):
            logs.rotate(path, self.max_log_bytes)
        return self.probe()

    def _heard(self, well: bool, failures: int) -> None:
        if not self.is_running:
            return
        self.last_heartbeat_success = well
        if not well:
            self.logger.warning("the heartbeat failed (%d in a row)", failures)
        self._set_state("ready" if well else "degraded" if failures < FAILURES_UNTIL_UNHEALTHY else "unhealthy")

    def _died(self, process: supervision.EngineProcess) -> None:
        """The engine ended without being asked to."""
        with self._lifecycle:  # the caller may already be starting the next one, or stopping
            if self.process is not process or self.state in ("stopping", "stopped", "dead"):
                return
            self.is_running = False
            self.last_heartbeat_success = False
            if self._follower is not None:
                self._follower.read()
            code = process.poll()
            found = diagnosis.diagnose(self._follower.lines() if self._follower else [], code)
            hint = self.mask(found.hint)
            self.logger.error("the server ended with code %s (%s). %s", code, found.cause.value, hint)
            message = "the server ended with code %s" % code
            error = {"cause": found.cause.value, "message": message, "hint": hint, "exit_code": code}
            self.run_file.note(error=error, ended_at=run_file.now_text())
            self._restarts = restarts.restarts_after(self._restarts, time.monotonic() - self._served_since)
            pause = None if self._unwanted.is_set() else self.restart_policy.pause(self._restarts, code)
            self.is_restarting = pause is not None
            self._set_state("dead")
        if pause is not None:
            # Not on this thread, which may be one that starts the server and has the lock.
            name = "inference-server-restart"
            threading.Thread(target=self._start_again, args=(pause,), name=name, daemon=True).start()

    def _start_again(self, pause: float) -> None:
        """Start the server after a pause, and again while it fails and the policy allows it; a stop ends that."""
        following: float | None = pause
        while following is not None:
            self.logger.warning("the server is started again in %g s", following)
            if self._unwanted.wait(following):
                break
            with self._lifecycle:
                if self._unwanted.is_set() or self.is_running:
                    break
                self._restarts += 1
                try:
                    self._start()
                    return
                except InferenceServerError as error:
                    if self._unwanted.is_set():
                        break
                    self.logger.error("the server was not started again: %s", error)
            following = self.restart_policy.pause(self._restarts, None)
        else:
            self.logger.error("the server is not started again: %d restarts in a row failed", self._restarts)
        self.is_restarting = False
        if not self._unwanted.is_set() and self.on_change is not None:
            self.on_change(self.state)

    def _set_state(self, state: str) -> None:
        if state == self.state:
            return
        self.state = state
        self.run_file.note(state=state)
        if self.on_change is not None:
            self.on_change(state)

    def _track(self, members: Sequence[processes.Stat]) -> None:
        self._tracked |= {stat.identity for stat in members}
        if self.debug_mode:
            self.tracked_pids |= {stat.identity.pid for stat in members}

    def _find_application(self, members: Sequence[processes.Stat]) -> None:
        """Find the engine below a profiler, by its command line: it renames itself later."""
        if self._profiles is None or not self._profiles.arrangement.wraps or self._application is not None:
            return
        words = [*(str(word) for word in self.get_launch_command()), *self._profiles.arrangement.arguments]
        for stat in members:
            command_line = processes.cmdline_of(stat.identity.pid)
            if stat.identity.pid != self.process_group_id and command_line.endswith(" ".join(words[1:])):
                self._application = stat.identity
                return

    # Stop

    def get_stop_plan(self) -> stopping.StopPlan:
        """Return how the engine is stopped."""
        profiler_seconds = self._profiles.stop_seconds if self._profiles is not None else 0.0
        return stopping.StopPlan(leader_seconds=max(float(self.stop_timeout), profiler_seconds))

    def stop(self) -> stopping.StopReport | None:
        """Stop the server, from any thread and in any state; return what was done, or None if nothing was running.

        Raises:
            CleanupError: `debug_mode` and `strict_cleanup` are set, and processes were left.
            ProfileError: everything was stopped, but the profiler that recorded the whole life left no file.
        """
        if os.getpid() != self._owner:
            self.logger.warning("a fork of the owner does not stop the server")
            return None
        self._unwanted.set()
        self._cancelled.set()
        starting = self.process
        if self._in_start and starting is not None:
            starting.kill()  # so that the start ends at once, whatever it waits for
        with self._before_any_start():
            process = self.process
            if process is None or (process.has_gone() and self.state == "stopped"):
                self.logger.warning("the server is not running")
                self.is_running = False
                return None
            served = self.is_running
            self._set_state("stopping")
            self.is_running = self.is_restarting = False
            try:
                if served and self.drain_timeout:
                    self._let_requests_finish()
                lost = self._profiles.end() if self._profiles is not None else ""
                if lost:
                    self.logger.error("%s", lost)
                if self._gpu is not None:
                    self._gpu.begin_stop()
                report = self._carry_out(process, self.get_stop_plan())
            except BaseException:
                process.kill()  # a second Ctrl-C: no more patience, and still nothing left
                process.wait_until_gone(stopping.KILL_SECONDS)
                raise
            finally:
                self.last_heartbeat_success = False
                self._end_heartbeat()
                self._set_state("stopped")
            self.stop_report = report
            self.run_file.note(stop=run_record.stop_values(report), ended_at=run_file.now_text())
            self.logger.info("the server stopped in %.1f s with code %s", report.seconds, report.exit_code)
            if self.debug_mode:
                self._verify_cleanup(process)
            self._collect_profile(report)
            return report

    def _let_requests_finish(self) -> None:
        try:
            if not self.drain(float(self.drain_timeout)):
                self.logger.warning("requests are left after %g s of drain_timeout", self.drain_timeout)
        except EngineError as error:
            self.logger.warning("no request is waited for: %s", error)

    @contextlib.contextmanager
    def _before_any_start(self) -> Iterator[None]:
        """Hold the lifecycle's lock; a start that has it, or gets it first, ends at once."""
        with self._counting:
            self._stops_waiting += 1
        try:
            self._lifecycle.acquire()
        finally:
            with self._counting:
                self._stops_waiting -= 1
        try:
            yield
        finally:
            self._lifecycle.release()

    def kill(self) -> None:
        """End every process of the server at once, without a word. What is being recorded is lost."""
        self._unwanted.set()
        self._cancelled.set()
        self._profiles = None
        process = self.process
        if process is not None:
            process.on_exit = None  # it is no death that needs an explanation
            process.mark_stopping()
            process.kill()
            process.wait_until_gone(stopping.KILL_SECONDS)
        self.stop()

    def _carry_out(self, process: supervision.EngineProcess, plan: stopping.StopPlan) -> stopping.StopReport:
        began = time.monotonic()
        self._track(process.members())
        sent = stop_execution.carry_out(process, plan, self.logger, self._application, float(self.stop_timeout))
        seconds = time.monotonic() - began
        survivors = tuple(stat.identity.pid for stat in process.members())
        return stopping.StopReport(seconds, sent, process.poll(), survivors, gpu_memory=self._wait_for_gpu_memory())

    def _wait_for_gpu_memory(self) -> gpu_memory.GpuRelease | None:
        if self._gpu is None:
            self.logger.debug("no GPU can be read: no GPU memory is waited for")
            return None
        pids = [identity.pid for identity in self._tracked]
        release = self._gpu.wait_for_release(float(self.gpu_release_timeout), pids, self._environment)
        for leftover in release.leftovers if release is not None else ():
            holders = ", ".join("%s (pid %d)" % (name, pid) for pid, name in leftover.holders)
            self.logger.warning(
                "GPU %s has %d MiB more in use than before the start; it is used by %s",
                leftover.device,
                leftover.mib,
                holders or "processes that cannot be seen from here",
            )
        return release

    def _verify_cleanup(self, process: supervision.EngineProcess) -> None:
        self.cleanup_report = cleanup.verify(
            processes.all_processes(),
            leader=process.pid,
            exit_code=process.poll(),
            tracked=self._tracked,
            marked=process.remains(),
        )
        for passed, line in self.cleanup_report.lines:
            self.logger.log(logging.INFO if passed else logging.ERROR, "%s", line)
        if self.strict_cleanup and not self.cleanup_report.passed:
            raise CleanupError("processes were left: %s" % ", ".join(map(str, self.cleanup_report.survivors)))

    def _end_heartbeat(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop(5.0)
        self._heartbeat = None

    def _release(self) -> None:
        """Let go of a server that ended by itself, before a new start."""
        self._end_heartbeat()
        process = self.process
        if process is not None:
            process.kill()
            process.wait_until_gone(stopping.KILL_SECONDS)
        self.process = None
        self.tracked_pids = set()

    def restart(self) -> bool:
        """Stop the server and start it again on the same port."""
        if self.process is not None:
            self.stop()
        return self.start()

    def __enter__(self: Self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server. A profile that is missing is told only if the block has no error of its own."""
        if self.process is None:
            return
        try:
            self.stop()
        except ProfileError as missing:
            if error is None:
                raise
            self.logger.error("%s", missing)


def _holders(port: int) -> str:
    """Return who listens on a port, for people."""
    found = ((pid, " ".join(masking.mask_words(processes.words_of(pid)))) for pid in ports.holders(port))
    return ", ".join("%s (pid %d)" % (words[:80].encode("utf-8", "replace").decode(), pid) for pid, words in found)


def _beyond_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that this process does not have, or has with another value."""
    return {name: value for name, value in environment.items() if os.environ.get(name) != value}

"""What is in a start's way is judged from facts."""

from __future__ import annotations

from inference_server import Cause, ServerStartupError, checks
from inference_server.arguments import Finding, Review


def test_busy_port_is_a_problem_that_names_its_holder() -> None:
    assert checks.about_port(8000, True, "").level == checks.FINE
    item = checks.about_port(8000, False, "python x.py (pid 7)")
    assert (item.level, item.cause) == (checks.PROBLEM, Cause.PORT_IN_USE)
    assert "python x.py (pid 7)" in item.hint
    assert "another user" in checks.about_port(8000, False, "").hint


def test_unknown_option_is_a_problem_only_for_the_tables_version() -> None:
    review = Review((), (Finding("unknown", "--x", "no --x", "--y"), Finding("duplicate", "--z", "twice")))
    assert [item.level for item in checks.about_options(review, True)] == [checks.PROBLEM, checks.WARNING]
    assert [item.level for item in checks.about_options(review, False)] == [checks.WARNING, checks.WARNING]
    assert [item.level for item in checks.about_options(Review((), ()), True)] == [checks.FINE]


def test_too_few_visible_gpus_are_a_problem() -> None:
    item = checks.about_gpus(2, ("0",), {"0": 12, "1": 0})
    assert item.cause is Cause.TOO_FEW_GPUS
    assert "2 are needed and 1 are visible (0: 12 MiB in use)" in item.message
    assert checks.about_gpus(2, None, {"0": 12, "1": 0}).level == checks.FINE
    assert checks.about_gpus(1, ("GPU-ab",), {"0": 12}).level == checks.FINE


def test_machine_without_gpus_is_a_warning() -> None:
    assert checks.about_gpus(1, None, {}).level == checks.WARNING


def test_model_that_is_a_path_has_to_be_there() -> None:
    assert checks.about_path("/m", False, False).cause is Cause.MODEL_NOT_FOUND
    assert checks.about_path("/m", True, False).level == checks.WARNING
    assert checks.about_path("/m", True, True).level == checks.FINE


def test_model_of_the_hub_needs_the_cache_or_the_network() -> None:
    assert checks.about_hub("a/b", True, True, "/c").level == checks.FINE
    assert checks.about_hub("a/b", False, True, "/c").cause is Cause.OFFLINE
    assert "will be downloaded to /c" in checks.about_hub("a/b", False, False, "/c").message


def test_little_disk_and_little_shared_memory_are_warnings() -> None:
    assert checks.about_disk("/d", checks.LITTLE_DISK - 1).level == checks.WARNING
    assert checks.about_disk("/d", checks.LITTLE_DISK).level == checks.FINE
    assert checks.about_shared_memory(64 * 1024.0**2, 1) == ()
    assert checks.about_shared_memory(checks.LITTLE_SHARED_MEMORY, 2) == ()
    (item,) = checks.about_shared_memory(64 * 1024.0**2, 2)
    assert item.cause is Cause.SHARED_MEMORY


def test_report_passes_without_problems() -> None:
    fine = checks.CheckItem("a", checks.FINE, "b")
    problem = checks.about_error("program", ServerStartupError("none", cause=Cause.NOT_FOUND, hint="install"))
    assert checks.CheckReport("s", (), {}, (fine,)).passed
    report = checks.CheckReport("s", (), {}, (fine, problem))
    assert not report.passed
    assert report.problems == (problem,)
    assert (problem.message, problem.hint) == ("none", "install")

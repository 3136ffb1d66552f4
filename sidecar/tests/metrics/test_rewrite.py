"""The rewriting of an engine's metrics: what comes out, and the laws that any text obeys."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict_families
from prometheus_client.parser import text_string_to_metric_families

from patio.metrics.derived import Sample
from patio.metrics.mappings import SOURCES, STANDARD, VOCABULARIES, Derived, Supplied
from patio.metrics.rewrite import Format, compile_rules, cut, rewrite
from patio_protocol.engines import EngineKind
from patio_testing.sidecar.builders import sidecar_metrics

VLLM = compile_rules(EngineKind.VLLM, ("patio",))
SGLANG = compile_rules(EngineKind.SGLANG, ("patio",))
RECORDED = [
    (EngineKind.VLLM, "vllm/metrics-0.32.0.txt"),
    (EngineKind.SGLANG, "sglang/metrics_busy.txt"),
    (EngineKind.SGLANG, "sglang/metrics_idle.txt"),
]


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Read a text with the official parser: value by name and labels."""
    values_by_key = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in values_by_key, f"twice: {key}"
            values_by_key[key] = sample.value
    return values_by_key


def added(text: bytes, engine: EngineKind = EngineKind.VLLM, prefixes: tuple[str, ...] = ("patio",)) -> bytes:
    """Return what the rewriting adds to a text."""
    page = rewrite(text, compile_rules(engine, prefixes)).text
    assert page.startswith(text)
    return page.removeprefix(text)


@pytest.mark.parametrize(("engine", "file"), RECORDED)
def test_standard_samples_have_labels_and_value_of_source(recordings: Path, engine: EngineKind, file: str) -> None:
    text = (recordings / file).read_bytes()
    original, standard = samples(text), samples(added(text, engine))
    # What is more than a rename has its values tested in test_sidecar_vocabulary.
    table = SOURCES[engine]
    sources = {name: [source for source in table[name] if isinstance(source, str)] for name in table}
    derived = {f"patio:{name}" for name in table if any(isinstance(source, Derived) for source in table[name])}
    standard = {key: value for key, value in standard.items() if key[0] not in derived}
    assert standard
    suffixes = ("", "_bucket", "_sum", "_count", "_created")
    for (name, labels), value in standard.items():
        family, suffix = next(
            (family, suffix) for family in sources for suffix in suffixes if name == f"patio:{family}{suffix}"
        )
        assert ("inference_engine", engine.value) in labels
        source_labels = labels - {("inference_engine", engine.value)}
        source_values = [
            original[key] for source in sources[family] if (key := (source + suffix, source_labels)) in original
        ]
        assert source_values
        assert str(source_values[0]) == str(value)
    for family in sources:
        for source in sources[family][:1]:
            expected = sum(
                1 for name, _ in original if name.startswith(source) and name.removeprefix(source) in suffixes
            )
            count = sum(1 for name, _ in standard if name.removeprefix(f"patio:{family}") in suffixes)
            assert count == expected or expected == 0, family


@pytest.mark.parametrize(("engine", "file"), RECORDED)
def test_one_help_and_one_type_line_stand_before_each_family(recordings: Path, engine: EngineKind, file: str) -> None:
    text = rewrite((recordings / file).read_bytes(), compile_rules(engine, tuple(VOCABULARIES))).text.decode()
    for keyword in ("HELP", "TYPE"):
        named = [line.split(" ")[2] for line in text.split("\n") if line.startswith(f"# {keyword} ")]
        assert len(named) == len(set(named))
    assert samples(text.encode())


def test_vllm_as_recorded_gives_the_standard_families(recordings: Path) -> None:
    text = added((recordings / "vllm/metrics-0.32.0.txt").read_bytes()).decode()
    for name in (
        "num_requests_running",
        "num_requests_waiting",
        "input_tokens_total",
        "output_tokens_total",
        "generation_tokens_total",
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "time_per_output_token_seconds",
        "e2e_request_latency_seconds",
        "kv_cache_usage_ratio",
    ):
        assert f"\n# TYPE patio:{name} " in "\n" + text
    assert 'patio:num_requests_running{inference_engine="vllm",engine="0",model_name="tiny"} 2.0\n' in text
    # A family whose name begins with that of another one.
    assert text.count("\npatio:num_requests_waiting{") == 1
    assert text.count("\npatio:num_requests_waiting_by_reason{") == 2


@pytest.mark.parametrize(
    "line",
    [
        b'http_requests_total{handler="/a",status="2xx"} 4',
        b'http_requests_total{handler="/a} 7",status="2xx"} 4',
        b'http_requests_total{handler="/a\\"} 7",status="2xx"} 4.0',
        b'http_requests_total{handler="/a",status="2xx"} 4 1700000000000',
        b'http_requests_total{handler="/a",status="2xx"} 4e0',
        b'http_requests_total {handler="/a",status="2xx"}\t4',
        b'http_requests_total{handler="/a",status="2xx"} 4 # {trace="x"} 2.0',
    ],
)
def test_derived_family_reads_odd_lines_and_plain_ones_alike(line: bytes) -> None:
    text = b"# TYPE http_requests_total counter\n" + line + b"\n# HELP next x\n# TYPE next gauge\nnext 1\n"
    assert b'\npatio:http_responses_total{inference_engine="vllm",class="2xx"} 4.0\n' in added(text)


@pytest.mark.parametrize("line", [b'http_requests_total{status="2xx"} 1.2.3', b'http_requests_total{status="2xx"} x'])
def test_derived_family_leaves_out_what_is_no_number(line: bytes) -> None:
    text = b"# TYPE http_requests_total counter\n" + line + b'\nhttp_requests_total{status="200"} 5\n'
    assert b'\npatio:http_responses_total{inference_engine="vllm",class="2xx"} 5.0\n' in added(text)


def test_source_that_is_absent_gives_no_series(recordings: Path) -> None:
    text = added((recordings / "sglang/metrics_idle.txt").read_bytes(), EngineKind.SGLANG)
    assert b"patio:inter_token_latency_seconds" not in text
    assert b"patio:preemptions_total" not in text


def test_other_vocabularies_get_their_own_prefix(recordings: Path) -> None:
    text = added((recordings / "vllm/metrics-0.32.0.txt").read_bytes(), prefixes=("matrixinfer", "kthena")).decode()
    families = [line.split(" ")[2] for line in text.split("\n") if line.startswith("# TYPE ")]
    without_created = [name for name in families if not name.endswith("_created")]
    assert sorted(without_created) == sorted(
        f"{prefix}:{name}" for prefix in ("matrixinfer", "kthena") for name in VOCABULARIES[prefix]
    )


def test_newer_of_two_sources_is_taken() -> None:
    newer = b"# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc 0.5\n"
    older = b"# TYPE vllm:gpu_cache_usage_perc gauge\nvllm:gpu_cache_usage_perc 0.25\n"
    assert b'patio:kv_cache_usage_ratio{inference_engine="vllm"} 0.25\n' in added(older)
    assert b'patio:kv_cache_usage_ratio{inference_engine="vllm"} 0.5\n' in added(older + newer)


def test_old_vllm_gives_both_latencies_from_one_source() -> None:
    text = (
        b"# TYPE vllm:time_per_output_token_seconds histogram\n"
        b'vllm:time_per_output_token_seconds_bucket{le="+Inf",model_name="m"} 3.0\n'
        b'vllm:time_per_output_token_seconds_count{model_name="m"} 3.0\n'
        b'vllm:time_per_output_token_seconds_sum{model_name="m"} 0.1\n'
    )
    names = {name for name, _ in samples(added(text))}
    assert {"patio:inter_token_latency_seconds_bucket", "patio:time_per_output_token_seconds_sum"} <= names


HAZARDS = {
    "a brace inside a value": b'vllm:num_requests_running{p="/v1/{model:path}",q="a}"} 1',
    "escapes": rb'vllm:num_requests_running{p="say \"hi\"\\",q="a\nb{"} 1',
    "NaN": b'vllm:num_requests_running{m="x"} NaN',
    "negative and exponents": b'vllm:num_requests_running{m="x"} -1.7952076635155146e+09',
    "a timestamp": b'vllm:num_requests_running{m="x"} 1 1700000000000',
    "no labels": b"vllm:num_requests_running 1",
    "empty labels": b"vllm:num_requests_running{} 1",
    "a trailing comma": b'vllm:num_requests_running{m="x",} 1',
    "blanks": b'vllm:num_requests_running { m="x" } 1',
    "tabs": b'vllm:num_requests_running{m="x"}\t1',
    "a leading comma": b'vllm:num_requests_running{,m="x"} 1',
    "a blank in the braces": b'vllm:num_requests_running{ m="x" } 1',
    "blanks around the sign": b'vllm:num_requests_running{m = "x"} 1',
    "our label as a value": b'vllm:num_requests_running{m="inference_engine=\\"x\\""} 1',
    "blanks before the name": b'  vllm:num_requests_running{m="x"} 1',
    "infinity": b'vllm:num_requests_running{m="x"} +Inf 1',
}


@pytest.mark.parametrize("line", HAZARDS.values(), ids=HAZARDS.keys())
@pytest.mark.parametrize("end", [b"\n", b""])
def test_hazards_of_real_texts_are_survived(line: bytes, end: bytes) -> None:
    text = b"# HELP vllm:num_requests_running x\n# TYPE vllm:num_requests_running gauge\n" + line + end
    (before,) = samples(text).items()
    (after,) = samples(added(text)).items()
    assert str(after[1]) == str(before[1])
    assert after[0] == ("patio:num_requests_running", before[0][1] | {("inference_engine", "vllm")})
    assert added(text).endswith(line.strip().split(b"}")[-1].lstrip(b"vllm:num_requests_running") + b"\n")


def test_existing_label_is_not_overwritten() -> None:
    line = b'vllm:num_requests_running{a="inference_engine=",inference_engine="mine"} 1\n'
    (key,) = samples(added(b"# TYPE vllm:num_requests_running gauge\n" + line))
    assert ("inference_engine", "mine") in key[1]


def test_lines_of_another_family_in_between_are_not_taken() -> None:
    text = (
        b"# TYPE vllm:num_requests_waiting gauge\n"
        b'vllm:num_requests_waiting{m="x"} 1\n'
        b'vllm:num_requests_waiting_by_reason{m="x"} 7\n'
        b"# a comment\n"
        b'vllm:num_requests_waiting{m="y"} 2\n'
        b"# HELP vllm:next of vllm:num_requests_waiting{}\n"
    )
    assert sorted(samples(added(text)).values()) == [1, 2]


def test_help_line_after_the_type_line_changes_nothing() -> None:
    text = b"# TYPE vllm:num_requests_running gauge\n# HELP vllm:num_requests_running x\nvllm:num_requests_running 4\n"
    assert list(samples(added(text)).values()) == [4]


def test_family_of_another_type_is_not_taken_for_a_histogram() -> None:
    text = b"# TYPE vllm:e2e_request_latency_seconds gauge\nvllm:e2e_request_latency_seconds 4\n"
    assert added(text) == b""


def test_name_that_the_engine_has_stays_the_engines() -> None:
    text = (
        b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 4\n"
        b"# TYPE patio:num_requests_running gauge\npatio:num_requests_running 9\n"
        b"# TYPE patio:engine_up gauge\npatio:engine_up 7\n"
    )
    family_z = b"# HELP patio:z x\n# TYPE patio:z gauge\npatio:z 1.0\n"
    own_text = b"# HELP patio:engine_up x\n# TYPE patio:engine_up gauge\npatio:engine_up 1.0\n" + family_z
    rewritten = rewrite(text, VLLM, own_text)
    assert samples(rewritten.text)["patio:num_requests_running", frozenset()] == 9
    assert samples(rewritten.text)["patio:engine_up", frozenset()] == 7
    assert samples(rewritten.text)["patio:z", frozenset()] == 1
    assert rewritten.conflicts == ("patio:num_requests_running", "patio:engine_up")


def test_end_mark_does_not_hide_what_follows() -> None:
    text = b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 4\n# EOF\n"
    page = rewrite(text, VLLM, b"# HELP patio:z x\n# TYPE patio:z gauge\npatio:z 1.0\n").text
    assert page.startswith(text), "in this format it is a comment like any other"
    assert len(samples(page)) == 3


OPENMETRICS = b"""# HELP vllm:prompt_tokens Prompt tokens.
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{model_name="m"} 7.0 # {trace="a"} 3.0 1.5
vllm:prompt_tokens_created{model_name="m"} 1.5
# TYPE vllm:e2e_request_latency_seconds histogram
# UNIT vllm:e2e_request_latency_seconds seconds
vllm:e2e_request_latency_seconds_bucket{le="1.0",model_name="m"} 2
vllm:e2e_request_latency_seconds_bucket{le="+Inf",model_name="m"} 3
vllm:e2e_request_latency_seconds_count{model_name="m"} 3
vllm:e2e_request_latency_seconds_sum{model_name="m"} 4.0
vllm:e2e_request_latency_seconds_created{model_name="m"} 1.5
# TYPE vllm:cache_config info
vllm:cache_config_info{block_size="16",num_gpu_blocks="4"} 1.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m"} 4.0
# EOF
"""


def test_openmetrics_stays_openmetrics() -> None:
    registry = CollectorRegistry()
    self_metrics = sidecar_metrics(registry)
    self_metrics.scrape_errors.count("timeout")
    rules = compile_rules(EngineKind.VLLM, tuple(VOCABULARIES), Format.OPENMETRICS)
    page = rewrite(OPENMETRICS, rules, self_metrics.text(Format.OPENMETRICS)).text
    assert page.startswith(OPENMETRICS.removesuffix(b"# EOF\n"))
    assert page.count(b"# EOF") == 1
    assert page.endswith(b"# EOF\n")
    families_by_name = {family.name: family for family in strict_families(page.decode())}
    tokens = families_by_name["patio:input_tokens"]
    assert (tokens.type, tokens.samples[0].name, tokens.samples[0].value) == ("counter", "patio:input_tokens_total", 7)
    assert len(families_by_name["patio:e2e_request_latency_seconds"].samples) == 5
    assert "matrixinfer:e2e_request_latency_seconds" in families_by_name
    assert families_by_name["patio:kv_cache_capacity_tokens"].samples[0].value == 64
    errors = {
        sample.labels["reason"]: sample.value for sample in families_by_name["patio:engine_scrape_errors"].samples
    }
    assert (errors["timeout"], errors["status"]) == (1, 0)
    (running,) = families_by_name["patio:num_requests_running"].samples
    assert running.labels == {"model_name": "m", "inference_engine": "vllm"}


def test_openmetrics_with_nothing_in_it_is_an_end_mark() -> None:
    rules = compile_rules(EngineKind.VLLM, ("patio",), Format.OPENMETRICS)
    assert rewrite(b"# EOF\n", rules, b"# EOF\n").text == b"# EOF\n"
    assert rewrite(b"", rules).text == b"# EOF\n"


def test_counter_whose_type_line_is_without_total_is_found() -> None:
    text = b'# TYPE vllm:prompt_tokens counter\nvllm:prompt_tokens_total{a="b"} 4\n'
    assert b'patio:input_tokens_total{inference_engine="vllm",a="b"} 4\n' in added(text)


def test_lines_that_end_as_on_windows_are_read_and_stay() -> None:
    text = (
        b"# HELP vllm:num_requests_running x\r\n# TYPE vllm:num_requests_running gauge\r\n"
        b'vllm:num_requests_running{m="x"} 4\r\n# TYPE vllm:num_requests_waiting gauge\r\nvllm:num_requests_waiting 5'
    )
    additions = added(text)
    assert b"\r" not in additions
    assert sorted(samples(additions).values()) == [4, 5]


def test_histogram_moves_with_its_created_series() -> None:
    bare = b'vllm:e2e_request_latency_seconds_bucket{le="+Inf"} 1\nvllm:e2e_request_latency_seconds_count 1\n'
    text = (
        b"# TYPE vllm:e2e_request_latency_seconds histogram\n" + bare + b"vllm:e2e_request_latency_seconds_sum 2\n"
        b"# TYPE vllm:e2e_request_latency_seconds_created gauge\nvllm:e2e_request_latency_seconds_created 1.5e+09\n"
    )
    additions = added(text)
    assert b"# TYPE patio:e2e_request_latency_seconds_created gauge\n" in additions
    assert {name for name, _ in samples(additions)} == {
        f"patio:e2e_request_latency_seconds{suffix}" for suffix in ("_bucket", "_count", "_sum", "_created")
    }


def test_histogram_named_total_is_no_counter() -> None:
    text = (
        b"# TYPE vllm:prompt_tokens_total histogram\n"
        b'vllm:prompt_tokens_total_bucket{le="+Inf"} 1\n'
        b"vllm:prompt_tokens_total_count 1\nvllm:prompt_tokens_total_sum 1\n"
    )
    assert added(text) == b""


def test_gauge_is_not_taken_for_a_counter() -> None:
    assert added(b"# TYPE vllm:prompt_tokens_total gauge\nvllm:prompt_tokens_total -1\n") == b""


def test_summary_is_taken_for_nothing_else() -> None:
    text = b'# TYPE vllm:num_requests_running summary\nvllm:num_requests_running{quantile="0.5"} 1\n'
    assert added(text) == b""


def test_repeated_prefixes_write_nothing_twice(recordings: Path) -> None:
    text = (recordings / "vllm/metrics-0.32.0.txt").read_bytes()
    assert added(text, prefixes=("kthena", "patio", "kthena")) == added(text, prefixes=("kthena", "patio"))


@pytest.mark.parametrize(
    "line",
    [
        b"patio:num_requests_running 9",
        b'patio:num_requests_running{a="b"} 9',
        b"  patio:num_requests_running 9",
        b"# HELP patio:num_requests_running x",
        b"#  TYPE\tpatio:num_requests_running gauge\npatio:num_requests_running 9",
    ],
)
def test_own_name_is_noticed_however_the_engine_writes_it(line: bytes) -> None:
    text = b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 4\n" + line + b"\n"
    rewritten = rewrite(text, VLLM)
    assert rewritten.text == text
    assert rewritten.conflicts == ("patio:num_requests_running",)


def test_part_of_an_own_histogram_is_enough_to_give_way() -> None:
    text = (
        b"# TYPE patio:e2e_request_latency_seconds_sum gauge\npatio:e2e_request_latency_seconds_sum 1\n"
        b"# TYPE vllm:e2e_request_latency_seconds histogram\n"
        b'vllm:e2e_request_latency_seconds_bucket{le="+Inf"} 1\n'
    )
    assert rewrite(text, VLLM).conflicts == ("patio:e2e_request_latency_seconds",)


def test_longer_engine_name_under_our_prefix_hides_nothing() -> None:
    text = (
        b'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{a="b"} 4\n'
        b'patio:num_requests_running_twice{a="b"} 8\n'
    )
    rewritten = rewrite(text, VLLM)
    assert rewritten.conflicts == ()
    assert (
        samples(rewritten.text)["patio:num_requests_running", frozenset({("a", "b"), ("inference_engine", "vllm")})]
        == 4
    )
    assert len(samples(rewritten.text)) == 3


def test_supplied_value_is_written_as_a_sample() -> None:
    supplied = {"model_context_tokens": [Sample(((b"model_name", b"m"),), 2097152)]}
    page = rewrite(b"", VLLM, supplied=supplied).text
    assert b'\npatio:model_context_tokens{inference_engine="vllm",model_name="m"} 2.097152e+06\n' in page
    assert rewrite(b"", compile_rules(EngineKind.VLLM, ("kthena",)), supplied=supplied).text == b""


def test_no_standard_family_is_one_of_the_sidecars_own() -> None:
    registry = CollectorRegistry()
    self_metrics = sidecar_metrics(registry)
    text = self_metrics.text()
    standard_names = {f"patio:{family.name}" for family in STANDARD}
    assert not standard_names & {line.split(" ")[2] for line in text.decode().split("\n") if line.startswith("# TYPE ")}
    assert rewrite(b"", VLLM, text).text == text
    # Engines bring process_open_fds and the like along, without a prefix.
    assert all(
        line.split(" ")[2 if line.startswith("#") else 0].startswith("patio:") for line in text.decode().splitlines()
    )


def test_unprefixed_families_and_any_label_order_pass_untouched() -> None:
    text = (
        b"# TYPE process_open_fds gauge\nprocess_open_fds 35.0\n"
        b'# TYPE http_requests_total counter\nhttp_requests_total{handler="/v1/{x}",status="2xx"} 4\n'
        b"# TYPE vllm:num_requests_running gauge\n"
        b'vllm:num_requests_running{engine="0",model_name="m"} 1\n'
        b'vllm:num_requests_running{model_name="m",engine="1"} 2\n'
    )
    page = added(text)
    families = {name for name, _ in samples(page)}
    assert families == {"patio:num_requests_running", "patio:http_responses_total"}
    assert sorted(value for (name, _), value in samples(page).items() if name == "patio:num_requests_running") == [1, 2]


def test_every_family_of_a_table_is_a_standard_one() -> None:
    names = {family.name for family in STANDARD}
    for table in SOURCES.values():
        assert table.keys() <= names
        assert all(
            isinstance(sources[-1], Supplied) or Supplied not in map(type, sources) for sources in table.values()
        )
    for vocabulary in VOCABULARIES.values():
        assert set(vocabulary) <= names


label_values = st.text(st.characters(codec="utf-8"), max_size=8).map(
    lambda value: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
)
families = st.sampled_from(
    [
        ("vllm:num_requests_running", "gauge"),
        ("vllm:num_requests_waiting", "gauge"),
        ("vllm:num_requests_waiting_by_reason", "gauge"),
        ("vllm:prompt_tokens_total", "counter"),
        ("vllm:kv_cache_usage_perc", "gauge"),
        ("http_requests_total", "counter"),
    ]
)
values = st.one_of(st.floats().map(repr), st.sampled_from(["NaN", "+Inf", "-Inf", "1.7952076635155146e+09"]))
labelled = st.dictionaries(st.sampled_from(["engine", "model_name", "le"]), label_values, max_size=3)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    parts = []
    for name, kind in draw(st.lists(families, unique=True, max_size=6)):
        if draw(st.booleans()):
            parts.append(f"# HELP {name} {draw(st.sampled_from(['', 'x', 'vllm:num_requests_running{}']))}")
        parts.append(f"# TYPE {name} {kind}")
        label_sets = []
        for labels in draw(st.lists(labelled, max_size=3)):
            if labels in label_sets:
                continue
            label_sets.append(labels)
            inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
            parts.append(f"{name}{'{' + inside + '}' if labels else ''} {draw(values)}")
    return "\n".join(parts).encode() + draw(st.sampled_from([b"", b"\n"]))


@given(texts())
def test_any_text_keeps_its_bytes_additions_have_its_samples(text: bytes) -> None:
    page = rewrite(text, VLLM).text
    assert page.startswith(text)
    assert rewrite(text, VLLM).text == page
    original, rewritten = samples(text), samples(page)
    assert {str(key): str(value) for key, value in rewritten.items() if key in original} == {
        str(key): str(value) for key, value in original.items()
    }
    for name, row in (("num_requests_running", "num_requests_running"), ("prompt_tokens_total", "input_tokens_total")):
        expected = {
            labels: str(value) for (sample_name, labels), value in original.items() if sample_name == f"vllm:{name}"
        }
        actual = {
            labels - {("inference_engine", "vllm")}: str(value)
            for (sample_name, labels), value in rewritten.items()
            if sample_name == f"patio:{row}"
        }
        assert actual == expected


@given(texts())
def test_rewriting_what_was_rewritten_adds_nothing(text: bytes) -> None:
    rewritten = rewrite(text, VLLM).text
    assert rewrite(rewritten, VLLM).text == rewritten


@given(st.binary(max_size=300), st.sampled_from([VLLM, SGLANG]))
def test_garbage_passes_through(text: bytes, rules: object) -> None:
    assert rewrite(text, VLLM).text.startswith(text.rstrip(b"\n").removesuffix(b"# EOF"))


@pytest.mark.parametrize(("engine", "file"), RECORDED)
@pytest.mark.parametrize("size", [1, 100, 5_000])
def test_pieces_of_a_text_give_what_the_whole_gives(recordings: Path, engine: EngineKind, file: str, size: int) -> None:
    text = (recordings / file).read_bytes()
    rules = compile_rules(engine, ("patio",))
    pieces = cut(text, size)
    assert len(pieces) > 10
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert rewrite(pieces, rules).text == rewrite(text, rules).text


@pytest.mark.parametrize("size", range(1, 60))
def test_end_mark_is_found_in_whatever_piece(size: int) -> None:
    text = b"# TYPE a gauge\na 1\n# EOF\n\n"
    rules = compile_rules(EngineKind.VLLM, ("patio",), Format.OPENMETRICS)
    assert rewrite(cut(text, size), rules).text == b"# TYPE a gauge\na 1\n# EOF\n"

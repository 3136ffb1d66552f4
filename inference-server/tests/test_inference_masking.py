"""No secret can be read in what is logged, printed and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.masking import (
    SHORTEST_SECRET,
    is_secret_name,
    mask_text,
    mask_variables,
    mask_words,
    secret_values,
)


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VLLM_API_KEY", "OPENAI_APIKEY", "AWS_SECRET_ACCESS_KEY", "hf_token"),
        *("DB_PASSWORD", "MY_SECRET", "GOOGLE_APPLICATION_CREDENTIALS", "NETRC_AUTH", "TOKEN", "KEY"),
    ],
)
def test_variables_with_secrets_are_known_by_name(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["MAX_TOKENS", "TOKENIZERS_PARALLELISM", "KEYBOARD", "MONKEY", "PATH", "CUDA_VISIBLE_DEVICES", "AUTHOR"]
)
def test_other_variables_are_not_taken_for_secrets(name: str) -> None:
    assert not is_secret_name(name)


def test_values_of_secret_options_and_variables_are_found() -> None:
    words = [
        "serve",
        "--api-key",
        "first-key",
        "second-key",
        "--port",
        "8000",
        "--hf_token=third-token",
        "--api-key",
        "x",
    ]
    found = secret_values(words, {"HF_TOKEN": "fourth-token-long", "PATH": "/usr/bin:/bin", "A_KEY": "1"})
    assert found == ("fourth-token-long", "third-token", "second-key", "first-key")


def test_command_shows_no_secret_in_any_form() -> None:
    words = ["--api-key", "sk-12345", "--kv-config", '{"token": "abc\\"d", "size": 3}', "--url", "http://me:pw@host/x"]
    shown = mask_words([*words, "say sk-12345"], ["sk-12345"])
    assert shown == [
        *("--api-key", "***", "--kv-config", '{"token": "***", "size": 3}', "--url", "http://***@host/x", "say ***")
    ]


def test_variables_are_masked_by_name_and_by_value() -> None:
    variables = {"HF_TOKEN": "hf_abcdef", "EMPTY_TOKEN": "", "NOTE": "uses hf_abcdef", "N": "1"}
    assert mask_variables(variables, ["hf_abcdef"]) == {
        "HF_TOKEN": "***",
        "EMPTY_TOKEN": "",
        "NOTE": "uses ***",
        "N": "1",
    }


@given(st.text(alphabet="abcXYZ0189-_", min_size=SHORTEST_SECRET), st.text(), st.text())
def test_masked_text_never_has_the_value(secret: str, before: str, after: str) -> None:
    values = secret_values(["--api-key", secret], {}) if not secret.startswith("-") else (secret,)
    assert secret not in mask_text(before + secret + after, values) or secret in before + "***" + after

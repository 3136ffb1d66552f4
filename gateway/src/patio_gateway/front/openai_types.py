"""Types of OpenAI's requests, loosely. `make openai-types` writes them from OpenAI's document 2.3.0."""

from __future__ import annotations

# ruff: noqa: D101
from typing import Any

from pydantic import BaseModel, ConfigDict


class Audio(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    format: str
    voice: dict[str, Any] | str


class FunctionCall(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    name: str


class Function(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    description: str | None = None
    name: str
    parameters: dict[str, Any] | None = None


class Message(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    content: list[Any] | str | None = None
    role: str


class Prediction(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    content: list[Any] | str
    type: str


class ResponseFormat(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    type: str


class StreamOptions(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    include_obfuscation: bool | None = None
    include_usage: bool | None = None


class ToolChoice(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    type: str


class Tool(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    type: str


class WebSearchOptions(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    search_context_size: str | None = None
    user_location: dict[str, Any] | None = None


class CreateChatCompletionRequest(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    metadata: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    temperature: float | None = None
    top_logprobs: int | None = None
    top_p: float | None = None
    user: str | None = None
    audio: Audio | None = None
    frequency_penalty: float | None = None
    function_call: FunctionCall | str | None = None
    functions: list[Function] | None = None
    logit_bias: dict[str, Any] | None = None
    logprobs: bool | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    messages: list[Message]
    modalities: list[str] | None = None
    model: str
    n: int | None = None
    parallel_tool_calls: bool | None = None
    prediction: Prediction | None = None
    presence_penalty: float | None = None
    reasoning_effort: str | None = None
    response_format: ResponseFormat | None = None
    seed: int | None = None
    stop: list[str] | str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tool_choice: ToolChoice | str | None = None
    tools: list[Tool] | None = None
    verbosity: str | None = None
    web_search_options: WebSearchOptions | None = None


class CreateCompletionRequest(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    best_of: int | None = None
    echo: bool | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None
    logprobs: int | None = None
    max_tokens: int | None = None
    model: str
    n: int | None = None
    presence_penalty: float | None = None
    prompt: list[list[int] | int | str] | str
    seed: int | None = None
    stop: list[str] | str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None


class CreateEmbeddingRequest(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    dimensions: int | None = None
    encoding_format: str | None = None
    input: list[list[int] | int | str] | str
    model: str
    user: str | None = None


class Prompt(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    id: str
    variables: dict[str, Any] | None = None
    version: str | None = None


class Reasoning(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    effort: str | None = None
    generate_summary: str | None = None
    summary: str | None = None


class Text(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ContextManagementItem(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    compact_threshold: int | None = None
    type: str


class Conversation(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    id: str


class InputItem(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    type: str | None = None


class StreamOptions2(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    include_obfuscation: bool | None = None


class CreateResponse(BaseModel):
    model_config = ConfigDict(
        extra="allow",
    )
    metadata: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    temperature: float | None = None
    top_logprobs: int | None = None
    top_p: float | None = None
    user: str | None = None
    background: bool | None = None
    max_tool_calls: int | None = None
    model: str | None = None
    previous_response_id: str | None = None
    prompt: Prompt | None = None
    reasoning: Reasoning | None = None
    text: Text | None = None
    tool_choice: ToolChoice | str | None = None
    tools: list[Tool] | None = None
    truncation: str | None = None
    context_management: list[ContextManagementItem] | None = None
    conversation: Conversation | str | None = None
    include: list[str] | None = None
    input: list[InputItem] | str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions2 | None = None

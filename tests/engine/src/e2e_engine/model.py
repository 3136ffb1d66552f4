"""The tiny model and its adapters, as files: a random Llama of 2 layers that answers in made-up words.

Pure but for `write`: everything follows from seeds, so that each machine makes the same files and the answers of base
and adapters differ in the same way everywhere. The model's tokenizer knows 512 words and nothing else; it is no
language model, it only shows which weights answered. The bad adapters are those of the recordings: each is refused
by an engine in its own way.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from e2e_engine import weights
from e2e_engine.weights import Tensor

REVISION = "2"
"""To be raised with every change of what is written: it is part of the cache's key."""

NAME = "tiny"
PROMPT = "hello world"
"""The prompt for which base, `lora-a` and `lora-b` are known to answer differently."""

LAYERS = 2
HIDDEN = 128
HEADS = 4
INTERMEDIATE = 256
VOCABULARY = 512
CONTEXT = 4096
RANK = 8

ADAPTERS = {"lora-a": 11, "lora-b": 22}
"""Good adapters and their seeds."""

BAD_ADAPTERS = ("rank-32", "dora", "no-weights", "truncated", "broken-config")
"""Adapters that no engine started with `--max-lora-rank 16` can ever load."""

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"


def vocabulary() -> tuple[str, ...]:
    """The words: the special ones, those of the prompt, then syllable pairs."""
    syllables = [consonant + vowel for vowel in "aeiou" for consonant in "bdfgklmnprstvz"]
    words = [*SPECIAL, *PROMPT.split()]
    rng = random.Random(7)
    pairs = [first + second for first in syllables for second in syllables]
    rng.shuffle(pairs)
    return tuple(words + pairs[: VOCABULARY - len(words)])


def model_files() -> Mapping[str, bytes]:
    """Everything `vllm serve DIRECTORY` needs."""
    words = vocabulary()
    ids = {word: index for index, word in enumerate(words)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": ids[word],
                "content": word,
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for word in SPECIAL
        ],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"},
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HIDDEN // HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": ids["<s>"],
        "eos_token_id": ids["</s>"],
        "pad_token_id": ids["<pad>"],
        "torch_dtype": "float32",
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    generation = {"bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"], "pad_token_id": ids["<pad>"]}
    return {
        "config.json": _json(config),
        "generation_config.json": _json(generation),
        "tokenizer.json": _json(tokenizer),
        "tokenizer_config.json": _json(tokenizer_config),
        "model.safetensors": weights.safetensors(_llama(random.Random(1))),
    }


def adapter_files(seed: int, *, rank: int = RANK, dora: bool = False) -> Mapping[str, bytes]:
    """A LoRA adapter of the attention's query and value projections, as peft writes it."""
    rng = random.Random(seed)
    tensors: dict[str, Tensor] = {}
    for layer in range(LAYERS):
        for module in ("q_proj", "v_proj"):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            # Both factors are drawn at random: with peft's usual zero B an untrained adapter would change nothing.
            tensors[f"{prefix}.lora_A.weight"] = weights.normal(rng, rank, HIDDEN, deviation=0.3)
            tensors[f"{prefix}.lora_B.weight"] = weights.normal(rng, HIDDEN, rank, deviation=0.3)
            if dora:
                tensors[f"{prefix}.lora_magnitude_vector"] = weights.ones(HIDDEN)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": NAME,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": ["q_proj", "v_proj"],
        "use_dora": dora,
        "use_rslora": False,
    }
    return {"adapter_config.json": _json(config), "adapter_model.safetensors": weights.safetensors(tensors)}


def bad_adapter_files(name: str) -> Mapping[str, bytes]:
    """One of `BAD_ADAPTERS`."""
    good = adapter_files(33)
    match name:
        case "rank-32":
            return adapter_files(33, rank=32)
        case "dora":
            return adapter_files(33, dora=True)
        case "no-weights":
            return {"adapter_config.json": good["adapter_config.json"]}
        case "truncated":
            tensors = good["adapter_model.safetensors"]
            return {**good, "adapter_model.safetensors": tensors[: len(tensors) // 2]}
        case "broken-config":
            return {**good, "adapter_config.json": b"{not json"}
    raise KeyError(name)


def write(directory: Path) -> Path:
    """Write `model/`, `adapters/NAME/` and `adapters/bad/NAME/`, all at once and readable by every user.

    A directory that is already there is complete, since it only appears under its name when it is.
    """
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        _write_files(unfinished / "model", model_files())
        for name, seed in ADAPTERS.items():
            _write_files(unfinished / "adapters" / name, adapter_files(seed))
        for name in BAD_ADAPTERS:
            _write_files(unfinished / "adapters" / "bad" / name, bad_adapter_files(name))
        for folder in (unfinished, *(path for path in unfinished.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        os.replace(unfinished, directory)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        if directory.is_dir():  # another process was faster
            return directory
        raise
    return directory


def _llama(rng: random.Random) -> dict[str, Tensor]:
    def projection(rows: int, columns: int) -> Tensor:
        return weights.normal(rng, rows, columns, deviation=1.5 / columns**0.5)

    tensors = {"model.embed_tokens.weight": weights.normal(rng, VOCABULARY, HIDDEN, deviation=1.0)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for module in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{prefix}.self_attn.{module}.weight"] = projection(HIDDEN, HIDDEN)
        tensors[f"{prefix}.mlp.gate_proj.weight"] = projection(INTERMEDIATE, HIDDEN)
        tensors[f"{prefix}.mlp.up_proj.weight"] = projection(INTERMEDIATE, HIDDEN)
        tensors[f"{prefix}.mlp.down_proj.weight"] = projection(HIDDEN, INTERMEDIATE)
        tensors[f"{prefix}.input_layernorm.weight"] = weights.ones(HIDDEN)
        tensors[f"{prefix}.post_attention_layernorm.weight"] = weights.ones(HIDDEN)
    tensors["model.norm.weight"] = weights.ones(HIDDEN)
    tensors["lm_head.weight"] = projection(VOCABULARY, HIDDEN)
    return tensors


def _write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    directory.mkdir(parents=True)
    for name, content in files.items():
        path = directory / name
        path.write_bytes(content)
        path.chmod(0o644)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()

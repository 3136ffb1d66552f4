"""The engines: `base` says what Patio needs of one, `vllm` and `sglang` speak to the real ones."""

"""A real engine for end-to-end tests and the demo: vLLM on a CPU, a tiny model and its adapters, made on the machine.

`environment` installs vLLM from the committed lock; `model` writes the model and the adapters; `launch` knows the one
command line that starts the engine, on this machine or in a pod. `python -m e2e_engine` is their command line.
"""

# The image of pods that run a real engine from a folder of the node (hostPath): a Python and the shared libraries
# which the engine's wheels expect of the system. The engine itself, gigabytes of it, is never in an image here.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE}
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends libgomp1 libnuma1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*

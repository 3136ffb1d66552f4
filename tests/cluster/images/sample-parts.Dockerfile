# What stands for the images that upstream's samples name: the programs that their commands start, as stand_ins.py has
# them. The router is a real one. Runs as root, as those images do.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS builder
ARG PIP_CERT
ARG SSL_CERT_FILE
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/patio UV_PYTHON=/opt/patio/bin/python3
WORKDIR /src
RUN --mount=type=secret,id=ca-bundle \
    python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet uv==0.13.8 \
    && python3 -m venv --without-pip /opt/patio
COPY pyproject.toml uv.lock ./
RUN --mount=type=secret,id=ca-bundle \
    /opt/uv/bin/uv sync --frozen --only-group router
COPY tests/doubles/engine/pyproject.toml tests/doubles/engine/
RUN --mount=type=secret,id=ca-bundle \
    /opt/uv/bin/uv sync --frozen --inexact --no-dev --no-install-workspace --package patio-engine-double
COPY tests/doubles/engine/src tests/doubles/engine/src
RUN --mount=type=secret,id=ca-bundle \
    /opt/uv/bin/uv sync --frozen --inexact --no-dev --no-editable --package patio-engine-double
COPY tests/cluster/images/stand_ins.py ./
RUN mkdir /opt/bin \
    && for name in python python3 vllm nginx mooncake_master etcd nats; do \
       install -m 755 stand_ins.py /opt/bin/$name; done

FROM ${BASE}
ENV PATH=/opt/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=builder /opt/patio /opt/patio
COPY --from=builder /opt/bin /opt/bin
ENTRYPOINT ["nginx"]

# One-word commands. `make help` lists them.
UV  := scripts/uv
RUN := $(UV) run --frozen --no-sync

ENGINE ?= vllm
# Which cluster: kind, local, or empty for the one that fits this machine.
PROVIDER ?= $(PATIO_CLUSTER_PROVIDER)
export PATIO_CLUSTER_PROVIDER := $(PROVIDER)
PYTEST_ARGS ?=
# Tests mostly wait, so some of the quick ones run at the same time.
AT_ONCE ?= 3
UNIT := protocol/tests api/tests kube/tests sidecar/tests operator/tests observability/tests release/tests inference-server/tests gateway/tests tests/doubles/engine/tests tests/scripts
BENCH_ARGS ?=
FUZZ_ARGS ?=
RELEASE_ARGS ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install the locked Python environment (.venv).
	@$(UV) sync --frozen --quiet

.PHONY: demo
demo: setup ## From a bare machine to an adapter that answers. ENGINE=vllm (default) or double, PROVIDER=kind or local.
	@$(RUN) python -m patio_testing.demo --engine $(ENGINE)

.PHONY: down
down: setup ## Take the demo's cluster down and leave nothing of it behind.
	@$(RUN) python -m e2e_cluster down

.PHONY: lint
lint: setup ## Format check, linters, types, import contracts, generated files, links of the documentation.
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) mypy scripts/run_tests.py scripts/user_texts.py scripts/engine_options.py scripts/openai_types.py scripts/reference
	$(RUN) lint-imports
	@$(MAKE) --no-print-directory check-generated
	$(RUN) zensical build --strict --clean

.PHONY: check-generated
check-generated: ## Say which generated file is not up to date, which place has another version; lint the workflows.
	$(RUN) python -m patio_api.crd --check charts/patio/crds
	$(RUN) python -m patio.document --check docs/openapi.json
	$(RUN) python -m scripts.openai_types --check gateway/src/patio_gateway/front/openai_types.py
	$(RUN) python -m scripts.reference --check docs/reference
	$(RUN) python -m scripts.user_texts --check
	$(RUN) python -m patio_observability --check .
	$(RUN) python -m patio_release check
	$(RUN) zizmor --offline --quiet --no-progress .github
	$(RUN) check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yaml
	$(RUN) check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml

.PHONY: tools
tools: setup ## Install system packages and build the cluster's binaries (first time: about ten minutes).
	@$(RUN) python -m e2e_cluster tools >/dev/null

.PHONY: test
test: setup ## Everything, and one summary: linters, unit, API server, cluster with the double and with a real vLLM.
	@$(RUN) python -m scripts.run_tests -- $(PYTEST_ARGS)

LONG := PATIO_TEST_LONG=1 PATIO_TEST_ALL_SAMPLES=1 PATIO_TEST_ALL_ORDERS=1 PATIO_TEST_VLLM_FLEET=1 PATIO_TEST_DOWNLOAD_MB=200

.PHONY: test-long
test-long: setup ## Everything, with random seeds and more of them, all samples, all orders of kills: hours, before a release.
	@$(LONG) $(RUN) python -m scripts.run_tests -- $(PYTEST_ARGS)

.PHONY: unit
unit: setup ## The quick tests: no API server, no cluster.
	$(RUN) pytest -n $(AT_ONCE) --dist worksteal -m "not api" $(UNIT) $(PYTEST_ARGS)

.PHONY: bench
bench: setup ## What the sidecar costs, beside one that parses metrics into objects. BENCH_ARGS="--scrapes 100000".
	@$(RUN) python -m benchmarks.run $(BENCH_ARGS)

.PHONY: bench-adapters
bench-adapters: setup ## A sidecar with 100 and with 1,000 adapters. BENCH_ARGS="--engine vllm --adapters 500".
	@$(RUN) python -m benchmarks.many_adapters $(BENCH_ARGS)

.PHONY: bench-fleet
bench-fleet: setup ## The operator with 1,000 pods, 100 adapters, 1,000 groups behind a slow API server. BENCH_ARGS="--pods 300".
	@$(RUN) python -m benchmarks.fleet $(BENCH_ARGS)

.PHONY: fuzz
fuzz: setup ## 100,000 hostile metric texts, 10,000 requests to a sidecar's API, 100,000 calls from outside its pod.
	@$(RUN) python -m benchmarks.fuzz $(FUZZ_ARGS)
	@$(RUN) python -m benchmarks.fuzz_api $(FUZZ_API_ARGS)
	@$(RUN) python -m benchmarks.fuzz_guard $(FUZZ_GUARD_ARGS)

.PHONY: e2e
e2e: setup ## The end-to-end tests on a real cluster. PROVIDER=kind or local.
	$(RUN) pytest -m "cluster or vllm" $(PYTEST_ARGS)

.PHONY: test-kind
test-kind: setup ## The end-to-end tests with the engine double on kind, and what kind leaves on the machine.
	@PATIO_CLUSTER_PROVIDER=kind $(RUN) pytest -m cluster tests/cluster/tests/test_kind_cluster.py tests/e2e $(PYTEST_ARGS)

.PHONY: images
images: setup ## Build the container images with Docker or buildah.
	$(RUN) python -m e2e_cluster.images build

.PHONY: crds
crds: setup ## Generate the CRDs from the operator's models.
	$(RUN) python -m patio_api.crd charts/patio/crds

.PHONY: openapi
openapi: setup ## Write the sidecar's OpenAPI document.
	$(RUN) python -m patio.document docs/openapi.json

.PHONY: openai-types
openai-types: setup ## Write the types of the requests that the gateway checks before it starts a worker for them.
	$(RUN) python -m scripts.openai_types gateway/src/patio_gateway/front/openai_types.py

.PHONY: reference
reference: setup ## Write the generated pages of docs/reference.
	$(RUN) python -m scripts.reference docs/reference

.PHONY: texts
texts: setup ## Write tests/scripts/user_texts.txt: every text that a user can meet, to be read as a whole.
	$(RUN) python -m scripts.user_texts

.PHONY: dashboards
dashboards: setup ## Write dashboards, alerts and runbooks: the chart's, those for Perses, and the pages about alerts.
	$(RUN) python -m patio_observability .

MINUTES ?= 8
PROMETHEUS ?=
PICTURES := observability/pictures

.PHONY: pictures
pictures: setup ## Draw the dashboards for the documentation, with Node.js and Chromium. ENGINE=double, PROMETHEUS=http://..., INSTALL=1.
	@test -z "$(INSTALL)" || apt-get install --yes --no-install-recommends chromium
	npm --prefix $(PICTURES) ci
ifeq ($(PROMETHEUS),)
	$(RUN) python -m patio_testing.observed_fleet --minutes $(MINUTES) $(if $(filter vllm,$(ENGINE)),--vllm) $(PICTURES)/data.json
else
	$(RUN) python -m patio_observability.panel_data --minutes $(MINUTES) $(PROMETHEUS) $(PICTURES)/data.json
endif
	node $(PICTURES)/draw.mjs $(PICTURES)/data.json docs/pictures

.PHONY: docs
docs: setup ## Build the site of the documentation into site/.
	$(RUN) zensical build --strict --clean

.PHONY: version
version: setup ## Write another version into all places and take the fragments into CHANGELOG.md. VERSION=0.2.0.
	$(RUN) python -m patio_release set $(VERSION)
	@$(MAKE) --no-print-directory crds openapi reference

.PHONY: base
base: setup ## Name the base of released images with the digest that its tag has now: release/base.txt.
	@$(RUN) python -m patio_release base

.PHONY: release
release: setup ## Make and publish a release of the tagged commit. RELEASE_ARGS="--registry HOST/PATH --key FILE".
	@$(RUN) python -m patio_release publish $(RELEASE_ARGS)

.PHONY: changelog
changelog: setup ## Show what the changelog of the next release would say.
	@$(RUN) towncrier build --draft --version next

.PHONY: format
format: setup ## Format the code and sort its imports.
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

.PHONY: clean
clean: ## Remove what was made inside the tree. The caches outside it stay.
	rm -rf $(PICTURES)/node_modules $(PICTURES)/data.json .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache site .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

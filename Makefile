# Two commands: `make run` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := $(CURDIR)/.venv
READY := $(VENV)/.ready
EXTRAS ?= data,train,serve,orchestrate,benchmarks,dev
SOURCE ?=
DATA ?=
ARGS ?=
PORT ?= 3000
# of the tests of training, those that start processes or train a whole small model are left to `make test`
SLOWER := $(addprefix tests/training/test_,exported.py memory.py nodes.py processes.py real_log.py resume.py train_and_evaluate.py)
QUICK := tests/architecture tests/features/encoding tests/features/history $(filter-out $(SLOWER),$(wildcard tests/training/test_*.py)) \
    $(addprefix tests/contracts/test_,params.py publish.py figures.py) $(addprefix tests/serving/test_,requests.py gate.py body.py hosts.py)
UI_PORT := $(if $(filter command line,$(origin PORT)),$(PORT),3001)
ONLINE ?= $(or $(LEITMOTIF_ONLINE),sqlite)

export PATH := $(VENV)/bin:$(PATH)
export VIRTUAL_ENV := $(VENV)
export DAGSTER_HOME := $(CURDIR)/.dagster
export BENTOML_HOME := $(CURDIR)/.bentoml
# where histories and live events are kept online: sqlite, redis (on this machine), host:port of a Redis or several of a Redis Cluster
export LEITMOTIF_ONLINE := $(ONLINE)
# without kept bytecode each of the two processes of `make test` rewrites the assertions of 200 files at every call (8 CPU s)
unexport PYTHONDONTWRITEBYTECODE
# idle OpenMP threads sleep: spinning ones made a training step 7x slower where cores are shared
export OMP_WAIT_POLICY := PASSIVE
# the tools below report their use to their makers unless told not to
export BENTOML_DO_NOT_TRACK := true
export DAGSTER_DISABLE_TELEMETRY := yes
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export FEAST_USAGE := False
export GX_ANALYTICS_ENABLED := false

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-11s %s\n", $$1, $$2}'

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not ((3, 11) <= v < (3, 13)) and f"leitmotif needs Python 3.11 or 3.12; $(PYTHON) is {v[0]}.{v[1]}. Give another: make PYTHON=/path/to/python3.11 ...")'
	@echo "Setting up .venv (a few minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[$(EXTRAS)]'
	@mkdir -p $(DAGSTER_HOME) && cp orchestration/dagster.yaml $(DAGSTER_HOME)/dagster.yaml
	@touch $@

.PHONY: setup
setup: $(READY) ## the virtual environment, pinned by requirements.lock

.PHONY: spark
spark: $(READY) ## PySpark (430 MB) beside the rest, for engine.name=spark (docs/spark.md)
	@python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[spark]'

# as they were typed, whatever they hold: in quotes an apostrophe would end them, and make would take a dollar for its own
export GIVEN_SOURCE = $(value SOURCE)
export GIVEN_DATA = $(value DATA)
export GIVEN_URL = $(value URL)

# what more than one target runs
RUN = python -m orchestration.reproduce $(if $(SOURCE),--source="$$GIVEN_SOURCE") $(if $(value DATA),--data="$$GIVEN_DATA") $(ARGS)
PUSH = dvc push --run-cache
REMOTE = dvc remote modify --local storage url "$$GIVEN_URL" && dvc remote list
LISTEN = $(if $(filter command line,$(origin HOST)),--host '$(HOST)')
GUARDED = python -m orchestration.door --door 'make $@' --port '$(PORT)' $(LISTEN)
SERVE = python -m features.online.load && exec $(GUARDED) -- bentoml serve serving.service:Leitmotif --port '$(PORT)' $(LISTEN)

.PHONY: run
run: $(READY) ## the whole pipeline: SOURCE=simulator|movielens|ebnerd|table DATA=<path> ARGS="key=value ..."
	@$(RUN)

.PHONY: set
set: $(READY) ## change params.yaml: make set ARGS="model.num_themes=8"
	@python -m orchestration.configure $(ARGS)

.PHONY: ui
ui: $(READY) ## Dagster's web page on PORT (3001)
	@python -m orchestration.door --door 'make ui' --port '$(UI_PORT)'
	@mkdir -p $(DAGSTER_HOME) && cp orchestration/dagster.yaml $(DAGSTER_HOME)/dagster.yaml
	@python -m orchestration.recover
	@exec python -m orchestration.door --door 'make ui' --port '$(UI_PORT)' -- python -m orchestration.ui --port '$(UI_PORT)'

.PHONY: load
load: $(READY) ## bring Feast's online store to the newest snapshot
	@python -m features.online.load

.PHONY: freshness
freshness: $(READY) ## freshness and completeness of each view, live events included
	@python -m features.online.freshness

.PHONY: serve
serve: $(READY) ## the ranking service on PORT (3000) of this machine alone, HOST=<address> others; ONLINE=redis or host:port: histories and live events in Redis
	@$(GUARDED)
	@$(SERVE)

.PHONY: up
up: $(READY) ## from a log to its service: make run, make push to URL=s3://... if that is given, make serve; takes the variables of all three
	@$(GUARDED)
	@$(if $(value URL),$(REMOTE))
	@$(RUN)
	@$(if $(value URL),$(PUSH))
	@$(SERVE)

.PHONY: ask
ask: $(READY) ## ask the running service for one ranking: ARGS="--user u00042"; --keep remembers it as shown
	@python -m serving.ask --url http://127.0.0.1:$(PORT) $(ARGS)

.PHONY: absorb
absorb: $(READY) ## seal acknowledged live events for the next run
	@python -m features.live.absorb

.PHONY: forget
forget: $(READY) ## forget users for good: USER="u1 u2"; lists what still holds them and what removes it
	@python -m features.live.forget $(ARGS)$(if $(filter command line,$(origin USER)), --words='$(subst ','\'',$(value USER))')

.PHONY: docs
docs: $(READY) ## Great Expectations' Data Docs again, after .state was deleted
	@dvc repro --quiet validate && dvc repro --force --single-item validate

export GIVEN_SCORES = $(value SCORES)

.PHONY: audit
audit: $(READY) ## is the log good, do interests shift? SOURCE=... DATA=... as `make run`, without training; SCORES=<csv>: another recommender's beside ours
	@python -m orchestration.reproduce $(if $(SOURCE),--source="$$GIVEN_SOURCE") $(if $(value DATA),--data="$$GIVEN_DATA") describe audit $(ARGS)
	@$(if $(value SCORES),python -m training.foreign --scores="$$GIVEN_SCORES")

.PHONY: quarantine
quarantine: $(READY) ## rows held back, by reason; ARGS="--export held.csv", and repaired: ARGS="--repaired held.csv"
	@python -m features.stages.quarantine $(ARGS)

.PHONY: bento
bento: $(READY) ## build the Bento for deployment
	@python -m serving.bento

MINUTES ?= 30

.PHONY: soak
soak: $(READY) ## the service at half of what it can do for MINUTES (30): memory flat, nothing fails
	@python -m benchmarks.soak --minutes '$(MINUTES)' $(ARGS)

export GIVEN_LOG = $(value LOG)

.PHONY: drift
drift: $(READY) ## does what is served look like what the model was judged on? LOG=<the request log's folder>
	@python -m serving.drift "$$GIVEN_LOG" $(ARGS)

.PHONY: export
export: $(READY) ## the model as programs that need torch alone (ARGS=--compile: machine code, which serve then uses)
	@python -m serving.export $(ARGS)

.PHONY: promote
promote: $(READY) ## score bundle and champion on the newest requests and, if better, put it in its place
	@python -m serving.promote $(ARGS)

.PHONY: rollback
rollback: $(READY) ## put the former champion back in its place
	@python -m serving.rollback $(ARGS)

.PHONY: push
push: $(READY) ## data, models and champion to the DVC remote
	@$(PUSH)

.PHONY: pull
pull: $(READY) ## data, models and champion from the DVC remote
	@dvc pull --run-cache

.PHONY: remote
remote: $(READY) ## choose the DVC remote: make remote URL=s3://bucket/leitmotif
	@$(REMOTE)

.PHONY: doctor
doctor: ## check the machine and say what is missing
	@$(or $(wildcard $(VENV)/bin/python),$(PYTHON)) -m orchestration.doctor

.PHONY: lint
lint: $(READY) ## ruff, pyright, import contracts
	@ruff check . && ruff format --check . && pyright && lint-imports

.PHONY: test checks
test: ## lint, types, import contracts, all tests but the slow ones
	@$(MAKE) --no-print-directory -j 2 lint checks

# beside lint, whose types keep one core for a minute
checks: $(READY)
	@pytest -n 2 -m "not slow" $(ARGS)

.PHONY: test-slow
test-slow: $(READY) ## the slow tests: whole real logs, the quality of the default model
	@pytest -n 2 -m slow $(ARGS)

.PHONY: test-all every
test-all: ## lint beside every test, as one run: the long slow groups begin first, so that neither core waits for the other
	@$(MAKE) --no-print-directory -j 2 lint every

every: $(READY)
	@pytest -n 2 $(ARGS)

.PHONY: test-fast quick
test-fast: ## for an edit loop, under two minutes: lint and types beside the tests that start nothing
	@$(MAKE) --no-print-directory -j 2 lint quick

quick: $(READY)
	@pytest -n 1 -m "not slow" $(QUICK) $(ARGS)

.PHONY: image-check
image-check: $(READY) ## build the image with buildah and run it with podman as deploy/ does (root, minutes; docs/deployment.md)
	@LEITMOTIF_IMAGE_CHECK=1 pytest -n 0 -vv -rs tests/doors/test_image.py $(ARGS)

.PHONY: clean
clean: ## remove mutable state (.state, attempts) unless something runs; data, cache and models stay
	@$(or $(wildcard $(VENV)/bin/python),$(PYTHON)) -m contracts.running
	@rm -rf .pytest_cache .ruff_cache

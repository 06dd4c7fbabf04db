# Two commands do everything on a machine with Python and make: `make demo` and `make test`.
# Both set up .venv by themselves; a second run does only what is not done yet.

PYTHON ?= python3
WORKERS ?= 2

BIN := .venv/bin
ENVIRONMENT := .venv/.installed
PRESETS := src/vilta/config/presets
FIND_LINKS := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)")
# Everything but torch comes from the lock, checked by hash; the second call adds torch and vilta.
LOCKED := --no-deps --require-hashes -r requirements.lock
PACKAGES := --no-build-isolation -c constraints.txt -e ".[dev]"
WITH_UV = "$$uv" pip install --quiet --compile-bytecode --python $(BIN)/python $(FIND_LINKS)
WITH_PIP := $(BIN)/python -m pip install --quiet
# The tests share the cores among processes, so each process takes one thread.
ONE_THREAD := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

AUDIT := .venv/audit
LOWEST := .venv/lowest

# A step that failed has not written its last file: `vilta pretrain` writes its model before it calibrates it.
.DELETE_ON_ERROR:
.PHONY: demo test lowest lint docs lock clean reliability sbom audit

demo: runs/demo/report/report.html
	@echo "The demo is done: open $(CURDIR)/$<"

test: $(ENVIRONMENT)
	$(ONE_THREAD) $(BIN)/pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

# All tests with the oldest versions that pyproject.toml allows, in an environment of its own. torch alone is as new as for the
# other tests: it exists in builds that a resolver takes for one another.
lowest:
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/pip install --quiet -c constraints.txt torch uv
	$(LOWEST)/bin/pip freeze | grep '^torch==' > $(LOWEST)/torch.txt
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
	  --override $(LOWEST)/torch.txt -e ".[dev]"
	$(ONE_THREAD) $(LOWEST)/bin/pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: $(ENVIRONMENT)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# site/index.html; --strict makes a broken link, anchor or cross-reference an error.
docs: $(ENVIRONMENT)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# After a change of dependencies in pyproject.toml; UPGRADE=1 takes the newest versions of all.
lock: $(ENVIRONMENT)
	$(BIN)/python .ci/lock.py

# The short forms of the programs in reliability/, whose outcome hangs on no machine's speed: a quarter of an hour. The long
# forms of soak, signals and processes run each week: .github/workflows/campaign.yml.
reliability: $(ENVIRONMENT)
	$(ONE_THREAD) $(BIN)/python reliability/checkpoints.py
	$(ONE_THREAD) $(BIN)/python reliability/kill_and_resume.py --kills 20
	$(ONE_THREAD) $(BIN)/python reliability/poisons.py
	$(ONE_THREAD) $(BIN)/python reliability/poison_inputs.py
	$(ONE_THREAD) $(BIN)/python reliability/mutation.py config
	$(ONE_THREAD) $(BIN)/python reliability/advisories.py reliability/pysec-2026-09-23.json
	$(ONE_THREAD) $(BIN)/python reliability/fuzz_readers.py --inputs 600
	$(ONE_THREAD) $(BIN)/python reliability/http_api.py --cases 10
	$(ONE_THREAD) $(BIN)/python reliability/signals.py --short
	$(ONE_THREAD) $(BIN)/python reliability/processes.py --short
	$(ONE_THREAD) $(BIN)/python reliability/soak.py --short

# What the lock holds, as a bill of materials in CycloneDX's form.
sbom: $(AUDIT)
	$(AUDIT)/bin/cyclonedx-py requirements requirements.lock --output-reproducible --of JSON -o sbom.cdx.json

# The known vulnerabilities of what the lock holds. --strict: a package that could not be looked up is an error.
# Where no advisory service is reached: reliability/advisories.py checks the lock against a list that is a file.
audit: $(AUDIT)
	$(AUDIT)/bin/pip-audit --strict --disable-pip --progress-spinner off -r requirements.lock

$(AUDIT):
	@$(PYTHON) -m venv $@ && $@/bin/pip install --quiet pip-audit cyclonedx-bom

clean:
	rm -rf .venv site runs/demo runs/demo-data runs/demo-text

# uv, from the PATH or from PyPI, installs in seconds; pip does it where uv cannot be had.
$(ENVIRONMENT): pyproject.toml constraints.txt requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "error: Python 3.11, 3.12 or 3.13 is needed; name one: make PYTHON=python3.12" >&2; exit 2; }
	@echo "setting up .venv (a minute or less, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || uv venv --clear --python $(PYTHON) .venv
	@uv=$$(command -v uv || { $(BIN)/python -m pip install --quiet uv >&2 && echo $(BIN)/uv; }); \
	{ test -n "$$uv" && $(WITH_UV) $(LOCKED) && $(WITH_UV) $(PACKAGES); } || \
	  { echo "without uv: pip takes a little longer"; $(WITH_PIP) $(LOCKED) && $(WITH_PIP) $(PACKAGES); }
	@touch $@

# The demo. Each step is done once; the file that it writes last stands for it. What was interrupted
# goes on the next time; what is there and older than its settings is made anew.
train = $(BIN)/vilta $(1) $(2) $(if $(wildcard $(3)),--run.overwrite,--run.resume auto)

runs/demo-data/train/manifest.json: | $(ENVIRONMENT)
	$(BIN)/vilta pack "scenes:40000?seed=0&size=96" --out $(@D)

runs/demo-data/val/manifest.json: | $(ENVIRONMENT)
	$(BIN)/vilta pack "scenes:1000?seed=1&size=96" --out $(@D)

runs/demo-text/model/config.json: $(PRESETS)/demo-text.yaml runs/demo-data/train/manifest.json | $(ENVIRONMENT)
	$(call train,pretrain-text,demo-text,$@)

runs/demo/model/config.json: $(PRESETS)/demo.yaml $(PRESETS)/demo-image.json runs/demo-text/model/config.json runs/demo-data/val/manifest.json | $(ENVIRONMENT)
	$(call train,pretrain,demo,$@)

runs/demo/evaluation-val.json: runs/demo/model/config.json
	$(BIN)/vilta evaluate runs/demo --data runs/demo-data/val

runs/demo/report/report.html: runs/demo/evaluation-val.json
	$(BIN)/vilta report runs/demo

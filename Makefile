# The commands of the README. Each does all its own set-up: Python 3.11, Java 17 and make are all it needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test soak fuzz check docs format bench bench-quick bench-growth pack sbom audit lock clean

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PACK := build/pack
PACKED := dist/mlaas_spark.tar.gz
PEERS := benchmarks/.venv
AUDIT := build/audit
FUZZ := build/fuzz

LOCKED := --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header
PIP := python -m pip --quiet --disable-pip-version-check
# Of all that pip says a line for every 50 packages.
TOLD := /^Collecting/ && ++n % 50 == 0 { print "  " n " of " all " fetched"; fflush() } \
  /^Installing collected/ { print "  " all " fetched, unpacking them"; fflush() }

export PYSPARK_PYTHON := $(CURDIR)/$(BIN)/python
export PYSPARK_DRIVER_PYTHON := $(PYSPARK_PYTHON)
export SPARK_HOME := $(CURDIR)/$(VENV)/lib/python3.11/site-packages/pyspark
export SPARK_CONF_DIR := $(CURDIR)/conf/spark

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(INSTALLED) java  ## Train a model from ROOT files through Spark, on a sample made here
	@$(BIN)/mlaas-spark demo --out data/demo
	@$(BIN)/spark-submit --master 'local[2]' jobs/train.py --config conf/demo.yaml

test: $(INSTALLED) java  ## Run the whole test suite, two folders of tests at a time
	@$(BIN)/python -m pytest -n 2 --no-loadscope-reorder --durations=25

# Not with -n: what is killed at random moments is measured by the clock. The table of what fired is printed at the end.
soak: $(INSTALLED) java  ## Faults by the hundred, some 90 minutes: kills at random moments and at each step of a commit
	@$(BIN)/python -m pytest -m 'soak or faults' -rA --durations=10 tests

# An input that fails is kept in build/fuzz; the module's docstring tells how to run one document alone.
FUZZED := specs.json manifest.json expression config.yaml params-of-bundle.json m.tar.gz
fuzz: $(INSTALLED) $(FUZZ)/.installed  ## Fuzz what is read from elsewhere, led by coverage: a minute each
	@for name in $(FUZZED); do \
	  echo "$$name"; PYTHONPATH=$(FUZZ)/site $(BIN)/python -m tests.fuzz $$name -max_total_time=60 -max_len=65536 \
	    -timeout=10 -rss_limit_mb=4096 -verbosity=0 -print_final_stats=1 -artifact_prefix=$(FUZZ)/ ; \
	done

check: $(INSTALLED) docs  ## Format, lint, types, import contracts, the documentation's site
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# Not by --quiet, which keeps warnings from mkdocs' own count of them too.
docs: $(INSTALLED)  ## Build the documentation's site, build/site/index.html; a broken link fails
	@mkdir -p build
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict >build/docs.log 2>&1 || { cat build/docs.log >&2; exit 1; }

format: $(INSTALLED)  ## Format the code and mend what the linter can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(INSTALLED) $(PEERS)/.installed java  ## Measure the stages beside their peers; writes benchmarks/out/results.json
	@$(BIN)/python -m benchmarks

bench-quick: $(INSTALLED) $(PEERS)/.installed java  ## The same rows on smaller samples, in a minute or two
	@$(BIN)/python -m benchmarks --quick

bench-growth: $(INSTALLED) java  ## Time, memory, files and shuffle against events, cores, ...; draws docs/scaling.png
	@$(BIN)/python -m benchmarks growth

pack: $(PACKED)  ## Pack what cluster nodes need, for spark-submit --archives: dist/mlaas_spark.tar.gz

sbom: $(AUDIT)/.installed  ## List all that is installed with its digests, as CycloneDX: build/sbom.json
	@$(AUDIT)/bin/cyclonedx-py requirements requirements-run.lock --mc-type application --output-reproducible --validate \
	  --of JSON --output-file build/sbom.json
	@echo "build/sbom.json: $$(grep -c '"purl"' build/sbom.json) packages"

# --strict: a package of which the service knows nothing was not audited, and is a failure
audit: $(AUDIT)/.installed  ## Ask PyPI for known vulnerabilities of all that is installed
	@$(AUDIT)/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements.lock

lock:  ## Make the lock files anew from setup.cfg and benchmarks/peers.in (needs uv)
	@uv pip compile setup.cfg --extra dev --extra xrootd $(LOCKED) -o requirements.lock
	@uv pip compile setup.cfg --extra xrootd --constraint requirements.lock $(LOCKED) -o requirements-run.lock
	@uv pip compile benchmarks/peers.in $(LOCKED) -o benchmarks/peers.lock
	@uv pip compile requirements-audit.in $(LOCKED) -o requirements-audit.lock
	@uv pip compile requirements-fuzz.in $(LOCKED) -o requirements-fuzz.lock
	@uv pip compile tests/cluster/airflow.in $(LOCKED) -o tests/cluster/airflow.lock

clean:  ## Remove what the targets made, the environment too
	@rm -rf $(VENV) runs data build dist $(PEERS) benchmarks/out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The environment is made again only when the lock file or the package's metadata change.
$(INSTALLED): requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
	  { echo "mlaas_spark needs Python 3.11: install it, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "Python 3.11 lacks its venv module: install it (Debian: apt install python3.11-venv)" >&2; exit 2; }
	@echo "installing the packages of requirements.lock into $(VENV) (once, some minutes)"
	@$(BIN)/python -m pip --disable-pip-version-check install --require-hashes --no-deps -r requirements.lock | \
	  awk -v all="$$(grep -c '==' requirements.lock)" '$(TOLD)'
	@$(BIN)/$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# The benchmark's peers, with the newest of their libraries.
$(PEERS)/.installed: benchmarks/peers.lock
	@echo "installing the packages of benchmarks/peers.lock into $(PEERS) (once, a minute)"
	@rm -rf $(PEERS) && $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/$(PIP) install --require-hashes --no-deps -r benchmarks/peers.lock
	@touch $@

# What makes the SBOM and the audit, apart from what it looks at.
$(AUDIT)/.installed: requirements-audit.lock
	@rm -rf $(AUDIT) && $(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/$(PIP) install --require-hashes --no-deps -r requirements-audit.lock
	@touch $@

$(FUZZ)/.installed: requirements-fuzz.lock
	@rm -rf $(FUZZ) && mkdir -p $(FUZZ)
	@$(BIN)/$(PIP) install --target $(FUZZ)/site --require-hashes --no-deps -r requirements-fuzz.lock
	@touch $@

# A second environment, without the tools of developers and with the package itself in place of a link to it. Packed
# without Spark's jars, which the cluster has (spark.yarn.jars), and without what nobody imports: a node unpacks less
# than half as many files.
UNPACKED := pyspark/jars tensorflow/include site-packages/pip site-packages/*/tests
$(PACK)/.installed: requirements-run.lock
	@echo "installing the packages of requirements-run.lock into $(PACK) (once, some minutes)"
	@rm -rf $(PACK) && $(PYTHON) -m venv $(PACK)
	@$(PACK)/bin/$(PIP) install --require-hashes --no-deps -r requirements-run.lock
	@touch $@

$(PACKED): $(PACK)/.installed $(INSTALLED) $(shell find mlaas_spark -type f -not -name '*.pyc' 2>/dev/null)
	@rm -rf build/lib build/bdist.*  # where pip builds, and would find modules that are gone from the sources
	@$(PACK)/bin/$(PIP) install --force-reinstall --no-deps --no-build-isolation .
	@mkdir -p dist
	@$(BIN)/venv-pack --quiet --force --prefix $(PACK) --output $@ --compress-level 1 $(UNPACKED:%=--exclude '*/%/*')
	@echo "$@: $$(du -h $@ | cut -f1); see docs/cluster.md"

.PHONY: help demo test soak fuzz check docs format bench bench-quick bench-growth pack sbom audit lock clean
java:
	@java="$${JAVA_HOME:+$$JAVA_HOME/bin/}java"; \
	found=$$("$$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1 || true); \
	test "$$found" = 17 || { echo "mlaas_spark needs Java 17, found $${found:-none}: install it (Debian: apt install openjdk-17-jre-headless) or set JAVA_HOME" >&2; exit 2; }

# Every target creates .venv from the committed lock; requirements: Python, make and a package index.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
FLINK  := .cache/flink
SPARK  := .cache/spark

# keep compiled modules: compiling those of TensorFlow at import costs 10 s each time
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench fuzz chaos rehearsal flink spark extras docs docs-tools figures sbom wheel lock clean

help:
	@echo "make demo    build, train and report on the embedded corpus"
	@echo "make test    lint, types, tests, wheel; with CI=true also the slow tests"
	@echo "make lint    ruff, the language checker and mypy only"
	@echo "make bench   all benchmarks, one JSON line each"
	@echo "make fuzz    mutate captures for MINUTES=10; also SEED=1, INPUTS=100000, MUTANTS=1"
	@echo "make chaos   kill commands at N=20 points, fill disks, flip bytes; also SEED=1"
	@echo "make rehearsal  meter 100 large files, an elephant flow and a SYN flood; SMALL=1 is shorter"
	@echo "make flink   fetch the requirements of the tests on Flink: 380 MB, with Maven"
	@echo "make spark   fetch those of the tests on Spark: 260 MB"
	@echo "make extras  install ONNX, PyTorch and Hugging Face datasets too, 5 GB on Linux, for the tests that need them"
	@echo "make sbom    write the packages of the lock as dist/sbom.json (CycloneDX)"
	@echo "make wheel   build dist/flowloom-*.whl, the same bytes for the same commit"
	@echo "make docs    build the pages into build/docs, with the tools of requirements-docs.lock"
	@echo "make figures  write the printed figures of README and pages from a run on this machine"
	@echo "make lock    update requirements.lock and those of extras and docs from pyproject.toml"
	@echo "make clean   remove all generated files"

# pip installs uv at the version and hash of the lock; uv installs the rest in seconds
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Python must be 3.11 to 3.13, got %d.%d; choose one with make PYTHON=..." % v)'
	$(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/# via/p' requirements.lock > $(VENV)/uv.lock
	$(BIN)/python -m pip install --quiet --require-hashes -r $(VENV)/uv.lock
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $(READY)

demo: $(READY)
	rm -rf demo-output
	$(BIN)/flowloom demo --out demo-output

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/check_language.py
	mkdir -p .cache/types && ln -sfn "$(CURDIR)" .cache/types/flowloom
	MYPYPATH=.cache/types $(BIN)/mypy -m flowloom -p flowloom.schemas -p flowloom.transforms -p flowloom.pipelines -p flowloom.trainers

# each file runs in one process, so that its fixtures are made once; files with slow tests run first
test: lint
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(if $(CI),,-m "not slow") $(PYTEST_ARGS)

bench: $(READY)
	@for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

# tools of docs/reliability.md; each exits with 1 if it finds a fault
HOSTILE := PYTHONPATH=tests/support:tests/hostile $(BIN)/python tests/hostile

fuzz: $(READY)
	$(HOSTILE)/fuzz.py --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1) $(if $(INPUTS),--inputs $(INPUTS)) $(if $(MUTANTS),--mutants $(if $(ONLY),--only $(ONLY)))

chaos: $(READY)
	$(HOSTILE)/chaos.py --points $(or $(N),20) --seed $(or $(SEED),1)

rehearsal: $(READY)
	$(HOSTILE)/rehearsal.py $(if $(SMALL),--small)

# Beam's job server, and the parts of Flink's distribution for job and task managers
flink: $(FLINK)/job-server.jar $(FLINK)/cluster

$(FLINK)/job-server.jar: docs/engines/flink-job-server/pom.xml
	mvn -B -q -f $< package -Doutput="$(CURDIR)/$(FLINK)"

$(FLINK)/cluster: tests/support/flink.txt | $(READY)
	$(BIN)/python -m pip download --quiet --no-deps --no-binary :all: --require-hashes -r $< -d $(FLINK)
	rm -rf $@ && mkdir -p $@.part
	tar xzf $(FLINK)/apache-flink-libraries-*.tar.gz -C $@.part --strip-components=3 --wildcards '*/deps/lib/flink-dist-*' '*/deps/lib/log4j-*'
	rm $(FLINK)/apache-flink-libraries-*.tar.gz
	mv $@.part $@ && touch $@

spark: $(SPARK)/job-server.jar

$(SPARK)/job-server.jar: docs/engines/spark-job-server/pom.xml
	mvn -B -q -f $< package -Doutput="$(CURDIR)/$(SPARK)"

extras: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-extras.lock

docs-tools: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-docs.lock

# all anew, as the reference follows the code; warnings are errors, notebooks run, no page loads anything from another host
docs: docs-tools
	rm -rf build/docs
	$(BIN)/sphinx-build -q -E -W --keep-going -b html -c docs -d .cache/doctrees . build/docs
	! grep -rlE '(src="|<link[^>]*href=")(https?:)?//' build/docs --include=*.html
	@echo build/docs/index.html

figures: $(READY)
	PYTHONPATH=tests/support $(BIN)/python docs/write_figures.py

sbom: $(READY)
	$(BIN)/python .ci/write_sbom.py dist/sbom.json

# from a clean copy of the commit, whose time and modes all files of the wheel have
wheel: $(READY)
	rm -rf .cache/wheel && mkdir -p .cache/wheel
	umask 022 && git archive HEAD | tar x -C .cache/wheel && \
		SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --wheel --no-isolation --outdir dist .cache/wheel

# the second lock is of CI alone: torch for Linux comes with gigabytes of CUDA
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes pyproject.toml
lock: $(READY)
	$(COMPILE) --extra all --extra dev -o requirements.lock
	$(COMPILE) --extra lightgbm --extra onnx --extra torch --extra huggingface -c requirements.lock -o requirements-extras.lock
	$(COMPILE) --extra docs -c requirements.lock -o requirements-docs.lock

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info demo-output

# make help lists the targets. All of them work in .venv, which setup makes and skips when it is up to date.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DOCS_READY := .venv/.docs-ready

.PHONY: help setup run sweep tables methods report study docs docs-serve examples notebooks test test-all test-lowest test-witnesses chaos lint bench
help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## the environment, from requirements.lock
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) --version), Python 3.11 or newer is needed; try make PYTHON=python3.12 setup"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(READY)

run: setup ## the bundled experiment: baseline / NCR / NCR + UEA on drawn scenes
	$(BIN)/python -m attrbind_exp.run text_processor=ablation

sweep: setup ## a table or figure of the paper: make sweep NAME=table3_alpha ARGS="dataset.root=DIR"
	$(BIN)/python -m attrbind_exp.run sweep=$(NAME) $(ARGS)

SHAPES := model=bundled tracker=none
tables: setup ## every table and figure of the paper on the bundled model and data: fills docs/results.md
	$(BIN)/python -m attrbind_exp.run sweep=table1_coco dataset=shapes_classes $(SHAPES)
	$(BIN)/python -m attrbind_exp.run sweep=table2_refcoco dataset=shapes seeds=3 $(SHAPES)
	$(BIN)/python -m attrbind_exp.run sweep=table3_alpha dataset=shapes $(SHAPES)
	$(BIN)/python -m attrbind_exp.run sweep=table4_ablation dataset=shapes $(SHAPES)
	$(BIN)/python -m attrbind_exp.run sweep=figure7_alpha_curve dataset=shapes text_processor.chunk_prefix=template $(SHAPES)
	$(BIN)/python -m attrbind_exp.run sweep=figures_heat_maps dataset=shapes dataset.fraction=0.008 $(SHAPES)
	$(BIN)/python -m attrbind_exp.results outputs docs/results.md

PROPOSALS := outputs/proposals/shapes
methods: setup ## readings of attention and edits of the words compared, on the bundled model: fills docs/methods.md
	$(BIN)/python -m attrbind_exp.run sweep=edits dataset=shapes $(SHAPES)
	$(BIN)/python -m attrbind_exp.run sweep=methods dataset=shapes keep_maps=true $(SHAPES)
	$(BIN)/python -m attrbind_exp.run sweep=methods_costly dataset=shapes keep_maps=true $(SHAPES)
	$(BIN)/python -m attrbind_exp.run sweep=methods_steps dataset=shapes keep_maps=true $(SHAPES)
	$(BIN)/python benchmarks/proposals.py $(PROPOSALS) dataset=shapes dataset.split=val
	$(BIN)/python benchmarks/proposals.py $(PROPOSALS) dataset=shapes dataset.split=test
	$(BIN)/python -m attrbind_exp.run sweep=methods_refined dataset=shapes proposals=$(PROPOSALS) keep_maps=true $(SHAPES)
	$(BIN)/python -m attrbind_exp.run sweep=methods_tuned keep_maps=true
	$(BIN)/python -m attrbind_exp.results --methods outputs docs/methods.md

report: setup ## open the newest report.html below outputs/, or make one first: make report DIR=outputs/table3_alpha/..
	$(BIN)/python -m attrbind_exp.report --open $(DIR)

study: setup ## docs/binding-study.md: does editing the embedding mend mis-binding? bundled model and data
	$(BIN)/python -m attrbind_exp.run sweep=binding_study
	$(BIN)/python -m attrbind_exp.run sweep=binding_layers
	$(BIN)/python -m attrbind_exp.run sweep=binding_uncond
	$(BIN)/python -m attrbind_exp.study outputs docs/binding-study.md

$(DOCS_READY): $(READY) requirements-docs.lock
	$(BIN)/python -m pip install --quiet --requirement requirements-docs.lock
	@touch $(DOCS_READY)

docs: $(DOCS_READY) ## the documentation as a site, in site/: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

docs-serve: $(DOCS_READY) ## the site while one writes on it, at http://127.0.0.1:8000
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --watch conf --watch examples --watch attrbind_exp

examples: setup ## draw the pictures of docs/examples.md anew
	$(BIN)/python docs/hooks/draw_examples.py

notebooks: setup ## run the notebooks anew and keep what they show
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[notebooks]'
	$(BIN)/python docs/hooks/run_notebooks.py

test: setup ## the tests, slow ones left out, two files at a time
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-all: setup ## all tests
	$(BIN)/python -m pytest

test-lowest: .venv-lowest/.ready ## the tests again, with the lowest versions that pyproject.toml allows, in .venv-lowest
	.venv-lowest/bin/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile --deselect tests/test_examples.py::test_an_example_draws_its_picture
.venv-lowest/.ready: requirements-lowest.lock
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --requirement requirements-lowest.lock
	.venv-lowest/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

test-witnesses: setup ## our maps and weighted words beside those of other people's packages
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-witnesses.lock
	$(BIN)/python -m pytest tests/test_witnesses.py

chaos: setup ## kills, stops and faulty disks: all must end as if nothing had happened; ten runs on seven GPUs outlive two that are lost
	$(BIN)/python -m pytest tests/test_resume.py tests/test_launchers.py -k "twenty or killed_and_a_failed"
	$(BIN)/python benchmarks/kills.py --kills 30 --budget-minutes 3
	$(BIN)/python benchmarks/faults.py --faults 20 --stops 5 --budget-minutes 3

lint: setup ## ruff, mypy, and which room may import which
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: setup ## our core, the published recipe and a bare UNet pass, side by side; what a run costs beside it
	$(BIN)/python benchmarks/core.py --model bundled
	$(BIN)/python benchmarks/overheads.py

# Each target does its own set-up: Python 3.11 or newer and make are all that a machine needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Python compiles what is imported, when it is; pip would compile all of torch.
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
RUN_DIR ?= runs/demo

.PHONY: help demo demo-detection demo-segmentation test test-all check-kernels lint format figures models-page readme-figure bench bench-cuda bench-page dense-page clean
help:
	@echo "make demo         train ACmix and its two controls on embedded handwriting, draw what they learned"
	@echo "make demo-detection     Mask R-CNN on composed scenes of these digits: boxes and masks"
	@echo "make demo-segmentation  Semantic FPN on the same scenes: a class for each pixel"
	@echo "make test         the test suite"
	@echo "make test-all     the test suite and its slow, full-depth part"
	@echo "make check-kernels  the native kernels without torch, on hostile cases: as installed, then under sanitizers"
	@echo "make lint         ruff, ruff format, mypy --strict"
	@echo "make figures      draw the figures of docs/ again; after make demo, make readme-figure takes README.md's from it"
	@echo "make bench        measure everything on the CPU for benchmarks/; OFFICIAL=FOLDER adds the authors' code"
	@echo "make bench-cuda   on a CUDA machine: its tests, the choice of convolution forms, and records; meant to take ten minutes"
	@echo "make bench-page   draw the records of benchmarks/ and write its README.md again"
	@echo "make dense-page   count detectors and decoders and write docs/detection_segmentation.md again"
	@echo "make models-page  count the networks and write docs/models.md again"

# torch first: the native kernels are built with its headers, where there is a compiler.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/acmix demo --output $(RUN_DIR)

demo-detection: $(STAMP)
	$(BIN)/acmix demo detection --output $(RUN_DIR)-detection

demo-segmentation: $(STAMP)
	$(BIN)/acmix demo segmentation --output $(RUN_DIR)-segmentation

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

test-all: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m ''

check-kernels: $(STAMP)
	$(BIN)/python scripts/check_kernels.py
	$(BIN)/python scripts/check_kernels.py --sanitize address,undefined

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: $(STAMP)
	$(BIN)/python scripts/draw_idea.py

models-page: $(STAMP)
	$(BIN)/python scripts/make_models_page.py

# What `make demo` drew last.
readme-figure:
	cp $(RUN_DIR)/analysis/attention.png docs/images/demo_attention.png

# Takes hours on two cores, compilation above all; whatever else the machine does spoils it.
BENCH := $(BIN)/acmix bench
RECORDS ?= benchmarks/records
OFFICIAL ?=
AUTHORS := $(if $(OFFICIAL),--official $(OFFICIAL))

bench: $(STAMP)
	$(BENCH) layers $(AUTHORS) --output $(RECORDS)
	$(BENCH) layers $(AUTHORS) --batch 1 --output $(RECORDS)
	$(BENCH) attention --output $(RECORDS)
	$(BENCH) sizes --output $(RECORDS)
	$(BENCH) windows --output $(RECORDS)
	$(BENCH) networks --output $(RECORDS)
	$(BENCH) networks --batch 1 --output $(RECORDS)
	$(BENCH) backbones --output $(RECORDS)

# Right answers first: the tests that need a card, four at a time, for most of their time goes into compiling kernels; then
# the kernels under compute-sanitizer, where that is installed. Then the forms of the convolution path are measured and
# chosen, then the records. The authors' code takes part with OFFICIAL=FOLDER.
CUDA := --device cuda --batch 128 --turns 10 --budget 3 --output $(RECORDS)
STAGES := 64x56 128x28 256x14 512x7

bench-cuda: $(STAMP)
	$(BIN)/python -c 'import torch, sys; torch.cuda.is_available() or sys.exit("make bench-cuda: torch finds no CUDA device here")'
	CUBLAS_WORKSPACE_CONFIG=:4096:8 $(BIN)/python -m pytest -m cuda -n 4 --dist loadgroup
	$(BIN)/python scripts/sanitize_cuda.py --limit 90
	$(BIN)/python scripts/choose_convolution_forms.py
	$(BENCH) layers $(AUTHORS) --only ours torch official $(CUDA)
	$(BENCH) layers $(AUTHORS) --only ours torch official $(CUDA) --dtype bfloat16 --channels-last
	$(BENCH) attention --only ours reference-compiled flex natten --shapes $(STAGES) $(CUDA) --dtype bfloat16
	$(BENCH) attention --only ours reference-compiled flex natten --shapes 64x56 $(CUDA)
	$(BENCH) networks acmix_resnet50:resnet50 $(CUDA) --dtype bfloat16 --channels-last
	$(BENCH) networks acmix_resnet50:resnet50 $(CUDA) --dtype bfloat16 --channels-last --batch 256 --modes training

dense-page: $(STAMP)
	$(BIN)/python scripts/make_dense_page.py

bench-page: $(STAMP)
	$(BIN)/python scripts/make_benchmarks_page.py

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis

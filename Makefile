# Two commands do everything on a machine with Python 3.11+, make and gcc:
#   make train   install, train on the built-in sample, evaluate, detect
#   make test    install, lint, run the tests
# PYTHON=python3.12 picks the interpreter; PIP_ARGS="--index-url ..." an index with CPU-only wheels.

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := runs/demo
PYTEST_ARGS ?=

.PHONY: train test lint ops soak clean help
.DELETE_ON_ERROR:

help:
	@sed -n '1,4p' Makefile

$(VENV)/installed: requirements.txt tests/requirements.txt constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements.txt -r tests/requirements.txt -c constraints.txt
	touch $@

train: $(VENV)/installed
	rm -rf $(DEMO)
	$(RUN) train.py --cfg yolov4-tiny-mish.cfg --size 224 --epochs 40 --set learning_rate=0.004 --eval-interval 500 \
	    --out $(DEMO)/train
	$(RUN) eval.py --weights $(DEMO)/train/best.pt --data datasets/sample --plots $(DEMO)/eval --json $(DEMO)/eval.json
	$(RUN) -m data.sample --clip $(DEMO)/clip.mp4
	$(RUN) detect.py --weights $(DEMO)/train/best.pt --source datasets/sample/val --out $(DEMO)/images
	$(RUN) detect.py --weights $(DEMO)/train/best.pt --source $(DEMO)/clip.mp4 --out $(DEMO)/video
	@echo
	@echo "Look at:"
	@echo "  $(DEMO)/train/results.png  how training went      $(DEMO)/train/mosaic.jpg  what the network saw"
	@echo "  $(DEMO)/eval/              curves, worst images   $(DEMO)/images/, $(DEMO)/video/  detections"

test: lint
	$(RUN) -m pytest -n 2 -m "not soak and not network" $(PYTEST_ARGS)

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The fused operators, ahead of their first use (which would build them too).
ops: $(VENV)/installed
	$(RUN) -m models.ops --build

soak: $(VENV)/installed
	$(RUN) -m pytest -m "soak or hypothesis" --hypothesis-profile explore $(PYTEST_ARGS)

clean:
	rm -rf runs/demo .pytest_cache .ruff_cache .mypy_cache .hypothesis

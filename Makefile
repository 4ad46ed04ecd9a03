# Every target makes .venv itself on first use. PYTHON= chooses the interpreter, DATA= the data set of `make train`.
PYTHON ?= python3
DATA ?= digits
EPOCHS ?= 10
RUN = .venv/bin/python

.PHONY: install train test lint compare bench results results-check tensorboard clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[dev,export,notebook,sweep,trackers]'
	touch $@

# both algorithms on both networks, and the comparison
train: install
	$(RUN) train.py -m algo=bp,ff model=cnn,mlp data=$(DATA) trainer.max_epochs=$(EPOCHS)
	$(RUN) compare.py runs=logs

test: install
	$(RUN) -m pytest --numprocesses=2 --dist=worksteal

lint: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

compare: install
	$(RUN) compare.py runs=logs

bench: install
	$(RUN) benchmarks/steps.py --out results/steps.json
	$(RUN) benchmarks/threads.py --out results/threads.json
	$(RUN) benchmarks/startup.py --out results/startup.json

# the README's tables from the files in results/
results: install
	$(RUN) results/tables.py

# one more seed of each experiment of at most ten minutes: does it lie where the figures say?
results-check: install
	$(RUN) results/check.py

tensorboard: install
	.venv/bin/tensorboard --logdir logs --host localhost

clean:
	rm -rf .venv build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache

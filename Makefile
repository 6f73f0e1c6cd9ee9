# The two commands of the README are `make reproduce` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
MMSA := .venv-mmsa

.PHONY: install reproduce reproduce-all bench statistics paper-power test check mutations lint lab reference clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v[:2] < (3, 13) or sys.exit("MGCL needs Python 3.11 or 3.12, \
	and %s is %d.%d.%d: make PYTHON=python3.12 names another" % (sys.executable, v[0], v[1], v[2]))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[notebooks,minilm,search,cluster,test]'
	touch $@

# mmsa 2.2.1, which the compared systems are timed against. Its BERT_MAG needs transformers 4, and its requirements pull
# far more than its models import.
$(MMSA)/.installed:
	$(PYTHON) -m venv $(MMSA)
	$(MMSA)/bin/pip install --quiet torch==2.13.0 'transformers==4.57.*' numpy pandas scikit-learn tqdm easydict nvidia-ml-py \
	   safetensors
	$(MMSA)/bin/pip install --quiet --no-deps mmsa==2.2.1
	touch $@

# Every table and figure from the embedded demo corpora, which are synthetic. Nothing is downloaded after the installation.
reproduce: $(INSTALLED)
	$(BIN)/mgcl run

# The selection audit, the ten compared systems and missing modalities too.
reproduce-all: $(INSTALLED)
	$(BIN)/mgcl run --all

# Speed on this machine, with the compared systems beside mmsa's own: results/bench/.
bench: $(INSTALLED) $(MMSA)/.installed
	$(BIN)/mgcl bench --mmsa $(MMSA)/bin/python

# Intervals and tests against a known truth, the table of docs/statistics.md: minutes. MGCL_LABELS names a folder with
# CH-SIMS/labels.csv and CMU-MOSI/labels.csv; without it, labels are drawn from an approximation.
statistics: $(INSTALLED)
	$(BIN)/mgcl statistics

# What the paper's comparisons could show, data/paper/power.csv: minutes.
paper-power: $(INSTALLED)
	$(BIN)/python -m mgcl_core.bench.paper_power > power.csv.new
	mv power.csv.new data/paper/power.csv

# Two files of tests at a time, each with one thread; TESTS=4 runs four. An encoding that is not named is an error.
TESTS ?= 2
PYTEST := PYTHONWARNDEFAULTENCODING=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TESTS) --dist loadfile --no-loadscope-reorder

test: lint
	$(PYTEST) tests

# The fast tests, for whoever edits: all but those that train whole studies or start processes.
check: lint
	$(PYTEST) -q -m "not slow" tests

# Feature files, results, run folders and settings that are damaged or made up at random (fixed seeds), ten to twelve times as many as
# a run of the tests tries; and the kills of running jobs, all twenty.
mutations: $(INSTALLED)
	MGCL_MUTATIONS=12 $(BIN)/python -m pytest -s tests/data/safe_pickle/test_mutations.py tests/experiments/test_damages.py \
	   tests/experiments/test_hostile_runs.py tests/test_hostile_settings.py
	MGCL_KILLS=20 $(BIN)/python -m pytest -k kill tests/experiments/test_runs.py tests/experiments/test_clusters.py

lint: $(INSTALLED)
	$(BIN)/ruff check mgcl_core tests
	$(BIN)/ruff format --check mgcl_core tests

# On copies in lab/, which git ignores: JupyterLab saves outputs, and tracked notebooks have none.
lab: $(INSTALLED)
	$(BIN)/mgcl lab

# The small reference that a test holds new results against; only after a deliberate change of the numbers.
reference: $(INSTALLED)
	mkdir -p results/demo/reference
	cp results/report/demo+demo-mosi-demo/tables/table[1-6].csv results/report/demo+demo-mosi-demo/tables/table[3-6]_cells.csv \
	   results/report/demo+demo-mosi-demo/tables/table[3-6]_seeds.csv results/demo/reference/
	cp results/demo/demo/figures/03_curves.png results/demo/demo/figures/03_predicted.png \
	   results/demo/demo/figures/04_ablations.png results/demo/demo/figures/05_embeddings.png results/demo/reference/

clean:
	rm -rf $(VENV) $(MMSA)

# `make` makes the demo from nothing; `make test` runs the whole suite in the same environment.
# It asks of the machine Python 3.11+ and git; Java and ffmpeg come from PyPI where they are missing.

PYTHON ?= python3
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
bin := .venv/bin
export PATH := $(CURDIR)/$(bin):$(PATH)
export DVC_NO_ANALYTICS := 1
export TOKENIZERS_PARALLELISM := false
run := $(bin)/python -m
rwlock := test -s .dvc/tmp/rwlock || rm -f .dvc/tmp/rwlock # a killed DVC may leave it empty, and then refuses to start

.PHONY: all environment parser demo table seeds rivals tables dataset remove search test check clean

all: environment parser demo table

environment: .venv/.installed
.venv/.installed: requirements.txt
	@command -v git >/dev/null || { echo "git is missing; install it first" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; type: make PYTHON=python3.11" >&2; exit 1; }
	test -x $(bin)/python || $(PYTHON) -m venv .venv
	$(bin)/python -m pip --quiet --disable-pip-version-check install uv
	$(bin)/uv pip install --quiet --compile-bytecode --python $(bin)/python -r requirements.txt
	touch $@

parser: environment
	@$(run) pipeline.scene_graph --fetch || true

# one dataset's failure is no other's: `make` asks for demo's report alone, `dvc repro --keep-going` for all that are enabled
demo: environment parser
	@$(rwlock)
	@dvc repro report@demo

table:
	@$(run) eval.report --table

# three seeds of every method of one dataset: they are written to `seeds` in params.yaml and are runs like the first.
# make seeds [NAME=demo]
NAME ?= demo
seeds: environment parser
	@$(run) pipeline.datasets.enable $(NAME) --seeds 1 2
	@$(rwlock)
	@dvc repro report@$(NAME)
	@$(run) eval.report --dataset $(NAME) --table

# all other methods: those under `rivals` in params.yaml are added to `methods`. Stopped, the same command goes on. make rivals [NAME=demo]
rivals: environment parser
	@$(run) pipeline.datasets.enable $(NAME) --rivals
	@$(rwlock)
	@dvc repro report@$(NAME)
	@$(run) eval.report --dataset $(NAME) --table

# the papers' tables, every number beside the paper's own; MORE="--quick" or "--only 5 8" asks for less
tables: environment
	@$(run) eval.tables --dataset $(NAME) $(MORE)

# one more dataset, from outside: make dataset NAME=msrvtt_mini ROOT=/data/msrvtt_mini
# A root is handed on as it is, whatever it holds; without ROOT the one in params.yaml must work. `make remove NAME=...` undoes it.
quoted = '$(subst ','\'',$(value $(1)))'
dataset: environment parser
	@$(run) pipeline.datasets.enable $(NAME) --root $(call quoted,ROOT)
	@$(rwlock)
	@dvc repro report@$(NAME)
	@$(run) eval.report --dataset $(NAME) --table

remove: environment
	@$(run) pipeline.datasets.enable $(NAME) --off

# a page over any folder of photos and videos: make search ROOT=~/Pictures [RUN=cache/msrvtt/runs/unitrim]; it needs no parser
search: environment
	@$(run) eval.search --folder $(call quoted,ROOT) $(if $(RUN),--run $(call quoted,RUN))

# a thread each and two at once: two torch processes with two threads each would stall each other
test: environment parser
	@OMP_NUM_THREADS=1 $(run) pytest -n 2 --dist loadfile

check: environment
	$(bin)/ruff format --check . && $(bin)/ruff check . && OMP_NUM_THREADS=1 $(run) pytest -n 2 --dist loadfile

clean:
	rm -rf cache/*/ tools

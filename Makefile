# SPDX-License-Identifier: Apache-2.0
#
# A fresh Debian 12 or 13 needs `make` and `git`; `make setup` does the rest.

.DEFAULT_GOAL := help
.PHONY: help setup run test test-unit lint format bench lock proto clean

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup:  ## install what is missing and build; quick when nothing changed
	@scripts/setup

run: setup  ## start a guest, run a command in it, show how long each phase took
	.venv/bin/inn run --timings -- sh -c 'uname -a; free -m; uptime'

test: setup lint  ## every check: lint, Rust tests, Python tests, guests
	@scripts/test

test-unit: setup  ## the tests that start no guest
	@scripts/test unit

lint: setup  ## ruff, mypy, rustfmt, clippy
	@scripts/lint

format: setup  ## let the formatters rewrite the sources
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	cargo fmt --all

bench: setup  ## compare starts, commands, vsock and memory with others; BENCH=--quick
	.venv/bin/python scripts/bench.py $(BENCH)

lock: setup  ## write requirements/*.txt anew; UPGRADE=1 takes the newest versions
	scripts/lock

proto: setup  ## generate the Python side of proto/
	.venv/bin/python scripts/proto.py

clean:  ## remove what was built; packages, kernels and images stay
	rm -rf target .venv .state python/innkeeper/_guest python/innkeeper/_core*.so \
	    .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find python tests scripts -name __pycache__ -prune -exec rm -rf {} +

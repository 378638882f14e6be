# What a developer and CI run. Everything is non-interactive; `deps` says what it installs.
CARGO ?= cargo
export PITRD_SERVERS ?= /var/tmp/pitrd-servers
# Tests start real servers: more than two at a time only makes them wait for each other on a small machine.
TEST_THREADS ?= 2
FUZZ_SECONDS ?= 600

.DEFAULT_GOAL := help
.PHONY: help deps build release check deny test demo demo-mongodb bench soak fuzz

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

deps: ## install the servers and libraries that tests, demo and benchmarks need
	@integration/install.sh

build: deps ## build every binary
	$(CARGO) build --workspace --bins --locked

release: deps ## build every binary, optimised
	$(CARGO) build --workspace --bins --locked --release

check: deps ## formatting and lints; warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

deny: ## licences, sources, duplicates and advisories of what is linked (deny.toml); installs cargo-deny
	@integration/deny.sh

test: build ## every test of the workspace, real servers included
	@integration/test.sh $(TEST_THREADS)

demo: build ## archive a live server, destroy its data, bring it back (under two minutes)
	@$(CARGO) run --quiet --locked -p pitr-integration --bin pitr-demo

demo-mongodb: build ## the same with a MongoDB replica set
	@$(CARGO) run --quiet --locked -p pitr-integration --bin pitr-demo-mongodb

bench: release ## side by side with pgBackRest, pg_receivewal, pg_basebackup, and MongoDB read bare
	@integration/install.sh --bench
	@python3 integration/bench/bench.py

soak: build ## 200 kills under load with PostgreSQL and 100 with MongoDB, then compare; two daemons in more orders
	PITRD_KILLS=200 $(CARGO) test --locked -p pitr-integration --test kills -- --nocapture --test-threads 1
	PITRD_KILLS=100 $(CARGO) test --locked -p pitr-integration --test mongodb_capture kills_of_the_daemon -- --nocapture --test-threads 1
	PITRD_DEPTH=6 $(CARGO) test --locked -p pitr-tests --test interleavings

fuzz: ## every parser of bytes we did not write, FUZZ_SECONDS each (needs cargo-fuzz and a nightly compiler)
	@fuzz/run.sh $(FUZZ_SECONDS)

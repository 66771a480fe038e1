# The README's two commands are `make rehearse` and `make test`; both set up what they need by themselves.
SHELL := /bin/bash
export CARGO_TARGET_DIR ?= $(CURDIR)/target
export PATH := $(CURDIR)/.cache/tools/bin:$(HOME)/.cargo/bin:$(PATH):/usr/sbin:/sbin:$(CURDIR)/.cache/packer-current
# Registries fail now and then.
export CARGO_NET_RETRY ?= 10
# CI compiles once in a fresh checkout: nothing is kept for a second time.
ifdef CI
export CARGO_INCREMENTAL ?= 0
endif
export REHEARSAL_MOTO ?= $(CURDIR)/.cache/venv/bin/moto_server

.PHONY: help setup setup-test setup-prove build build-tests box box-host box-x86_64 box-aarch64 dist imagebuilder-x86_64 imagebuilder-aarch64 orders-load rehearse check check-wire check-rest test prove bench bench-orders bench-static packer-current msrv advisories mutants coverage clean

help:
	@echo 'make rehearse [QUICK=1]   the main job, end to end, on the rehearsal cloud'
	@echo 'make test                 every test: fmt, clippy, deny, unit, golden, story, protocol, one QEMU rehearsal'
	@echo 'make check                the edit-test loop: everything but QEMU'
	@echo 'make prove [PROOF=NAME]   what takes too long for that: a current Packer, the whole story, faults on fleets of others'
	@echo 'make bench                the benchmarks, with what they compare with'
	@echo 'make bench-orders         the order service beside the Flask stack it follows'
	@echo 'make bench-static         the order service as a static binary beside one for this glibc: start, memory, processor time'
	@echo 'make box                  the programs for instances: static, for x86_64 and aarch64, in target/box/ARCHITECTURE'
	@echo 'make dist [ARCH=x86_64]   static tarballs, Debian packages and SHA256SUMS, for both architectures or one, in target/dist'
	@echo 'make packer-current       a current Packer and its Amazon plugin, from the Go module proxy'

setup:
	@make/setup.sh

build: setup
	@cargo build --quiet --locked --workspace

# The programs on instances: static, small and stripped (make/box.sh), for both architectures; what runs here needs only this host's.
box: box-x86_64 box-aarch64
host := $(shell uname -m)
box-host: box-$(host)
box-x86_64 box-aarch64: box-%: setup
	@make/box.sh $* imagebuilder-agent orders

# What is published. The operator's program with the AWS SDK takes a quarter of an hour for each architecture, so `make box` leaves it out.
packed := $(or $(ARCH),x86_64 aarch64)
dist: box $(addprefix imagebuilder-,$(packed))
	@make/tool.sh cargo-deb
	@make/dist.sh $(packed)
imagebuilder-x86_64 imagebuilder-aarch64: imagebuilder-%: setup
	@make/box.sh $* imagebuilder

# Not a program on instances. Optimised like the service, with which it shares the cores of a proof.
orders-load: setup
	@make/box.sh $(host) orders-load

# `orders-load` comes last: .cache/orders-changed builds the library that it links once more.
rehearse: build box-host $(if $(QUICK),,.cache/orders-changed .cache/agent-changed) orders-load
	@make/rehearse.sh $(if $(QUICK),--quick)

# The story's second release: the same service under another version number.
.cache/orders-changed: $(shell find orders -path orders/load -prune -o '(' -name '*.rs' -o -name Cargo.toml ')' -print) Cargo.lock | box-host
	@ORDERS_VERSION=1.1.0 make/box.sh $(host) orders
	@cp $(CARGO_TARGET_DIR)/box/orders $@
	@make/box.sh $(host) orders

# And its second agent.
.cache/agent-changed: $(shell find agent contract support -name '*.rs' -o -name Cargo.toml) Cargo.lock | box-host
	@IMAGEBUILDER_AGENT_VERSION=0.2.0 make/box.sh $(host) imagebuilder-agent
	@cp $(CARGO_TARGET_DIR)/box/imagebuilder-agent $@
	@make/box.sh $(host) imagebuilder-agent

# Binaries and tests in one go: apart, aws-sdk-ec2 would be compiled once for each, as tests want more of tokio.
build-tests: setup-test
	cargo build --quiet --locked --workspace --all-targets

check: build-tests
	cargo fmt --all --check
	@make/cycles.py
	@make/references.py
	@.cache/venv/bin/typos
	@.cache/venv/bin/shellcheck $(scripts)
	cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	cargo deny --log-level error check bans licenses sources
	@$(MAKE) --no-print-directory -j2 --output-sync=target check-wire check-rest

# All but those that the base image is made by, whose every change makes it anew.
scripts = $(shell git ls-files '*.sh' .ci/run ':!rehearsal/base-image')

# Whole bakes by real Packer mostly wait; the other tests run beside them. One run names every red test.
tests := $(wildcard */tests */*/tests)
others := $(filter-out wire,$(sort $(basename $(notdir $(wildcard $(addsuffix /*.rs,$(tests))) $(patsubst %/main.rs,%,$(wildcard $(addsuffix /*/main.rs,$(tests))))))))

check-wire:
	cargo test --locked --workspace --no-fail-fast --test wire

check-rest:
	cargo test --locked --workspace --no-fail-fast --lib --bins $(addprefix --test ,$(others))
	cargo test --locked --workspace --no-fail-fast --doc

setup-test:
	@make/setup.sh test

test: check box-host orders-load
	@make/rehearse.sh --quick

# What does not fit into `make test`. PROOF names one.
setup-prove:
	@make/setup.sh prove

prove: setup-prove build-tests box $(if $(filter-out package,$(PROOF)),,dist) .cache/orders-changed .cache/agent-changed orders-load
	@make/prove.sh $(PROOF)

# What is measured is optimised, as its users have it.
bench: setup box-host orders-load
	@cargo build --quiet --locked --release -p imagebuilder -p rehearsal -p stand-in
	@bench/run.sh

bench-orders: box-host orders-load
	@cargo build --quiet --locked --release -p stand-in
	@bench/orders/run.sh

# The service for glibc, apart from the one that instances get.
bench-static: box-host orders-load
	@cargo build --quiet --locked --profile box --target $(host)-unknown-linux-gnu -p orders
	@python3 bench/static.py --static $(CARGO_TARGET_DIR)/box/orders --load $(CARGO_TARGET_DIR)/box/orders-load \
	  --dynamic $(CARGO_TARGET_DIR)/$(host)-unknown-linux-gnu/box/orders $(if $(wildcard $(CARGO_TARGET_DIR)/box/imagebuilder),--start $(CARGO_TARGET_DIR)/box/imagebuilder)

packer-current:
	@make/packer-current.sh

# What outsiders' CI runs beside `make test` (.github/workflows).
msrv: setup
	rustup toolchain install --profile minimal $(msrv)
	cargo +$(msrv) check --locked --workspace --all-targets

msrv = $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# Fetches the advisory database.
advisories: setup
	@make/tool.sh cargo-deny
	cargo deny --log-level error check advisories

# The pure deciders: what they return is covered by tables, so a change of any line must fail a test.
deciders := imagebuilder/roll/src/{plan,blame,watch,before,limits}.rs agent/update/src/plan.rs rehearsal/refresh/src/decide.rs

mutants: setup-test
	@make/tool.sh cargo-mutants
	cargo mutants --test-workspace=true $(foreach file,$(shell echo $(deciders)),--file $(file)) --output .cache -- --locked --lib --bins

coverage: setup-test
	@make/tool.sh cargo-llvm-cov
	rustup component add llvm-tools
	cargo llvm-cov --locked --workspace --lib --bins --html --output-dir .cache/coverage

clean:
	cargo clean
	rm -rf .cache .rehearsal

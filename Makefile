# One command each; every one does its own set-up. What they do is in .ci/, as scripts that run by hand as well.
.NOTPARALLEL:
.PHONY: help setup demo tutorial test check bench guest soak arm fuzz fresh dev clean
PYTHON := .venv/bin/python

help:
	@sed -n 's/^#: //p' Makefile

#: make setup    packages, Rust, .venv and the native build (called by all the others)
setup:
	@.ci/setup

#: make demo     build an image, run two containers from it while it is fetched, show a table
demo: setup
	@.ci/demo

#: make tutorial type every command of docs/tutorial.md and the guides, compare what comes (ARGS=PAGE)
tutorial: setup
	@.ci/tutorial $(ARGS)

#: make test     every test (ARGS='-k name' goes to pytest)
test:
	@.ci/test $(ARGS)

#: make check    linters only
check:
	@.ci/check

#: make bench    `zos bench run --peers`: measures and ratios, nothing gated (ARGS='erasure --quick')
bench: setup
	@.ci/bench $(ARGS)

#: make guest    the core path and more on stock Debian kernels in QEMU, one at a time (ARGS='-k bookworm')
guest: setup
	@.ci/guest $(ARGS)

#: make soak     the whole kill matrix and 1,000 runs, an hour (ARGS='--seed N')
soak: setup
	@.ci/soak $(ARGS)

#: make arm      the erasure code's tests for AArch64, NEON among them, below qemu-user
arm: setup
	@.ci/arm

#: make fuzz     every parser of bytes from outside, 30 s each (ZOS_FUZZ_S, ZOS_FUZZ_SEED)
fuzz: setup
	@.ci/fuzz

#: make fresh    `make demo` and `make test` in new Debian 12 and 13 roots (ARGS='trixie:user')
fresh:
	@.ci/fresh $(ARGS)

#: make dev      fast native build in place, without optimization (ARGS='rust programs')
dev:
	@$(PYTHON) native/build/dev.py $(ARGS)

#: make clean    take everything away again
clean:
	@.ci/clean

# SPDX-License-Identifier: GPL-2.0
#
# The front door. The module itself is built by the kernel's Kbuild, which reads
# the file Kbuild, not this one; the work is done by the scripts in scripts/.

.DEFAULT_GOAL := modules
export KDIR

# The kernel to build for, in $$kdir: KDIR= if it is given, or else the test kernel.
find-kdir = kdir=$${KDIR:-$$(scripts/kernel.sh test kdir)}
# The settings on make's command line, for Kbuild: V=1, W=1, CLIPPY=1 ...
options = $(filter-out KDIR=% KSRC=% ARGS=%,$(MAKEOVERRIDES))

.PHONY: modules
modules:
	@$(find-kdir) && scripts/build.sh "$$kdir" $(options)

.PHONY: rust-analyzer
rust-analyzer:
	@$(find-kdir) && scripts/build.sh "$$kdir" $(options) rust-analyzer

.PHONY: ncrx
ncrx:
	@CARGO_TARGET_DIR=$(CURDIR)/build scripts/cargo.sh build --release -p ncrx

PREFIX ?= /usr/local
share = $(DESTDIR)$(PREFIX)/share

# Root, who installs it, has no cache with the compiler.
build/release/ncrx:
	@$(MAKE) ncrx
NCRX ?= build/release/ncrx

# The unit looks for the program in /usr/bin: it is told where it is.
.PHONY: install-ncrx
install-ncrx: $(NCRX)
	install -D $(NCRX) $(DESTDIR)$(PREFIX)/bin/ncrx
	install -d $(share)/man/man1 $(share)/bash-completion/completions $(share)/zsh/site-functions
	$(NCRX) --man > $(share)/man/man1/ncrx.1
	$(NCRX) --completions bash > $(share)/bash-completion/completions/ncrx
	$(NCRX) --completions zsh > $(share)/zsh/site-functions/_ncrx
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's,/usr/bin/ncrx,$(PREFIX)/bin/ncrx,' ncrx/dist/ncrx.service \
		> $(DESTDIR)$(PREFIX)/lib/systemd/system/ncrx.service
	install -D -m 644 -t $(share)/ncrx ncrx/dist/alerts.yml ncrx/dist/grafana.json ncrx/dist/ncrx.lnav.json

# The module for KDIR's kernel, and the service.
.PHONY: install uninstall
install: install-module install-service

# "make modules" has to be run before, by whoever has the compiler.
.PHONY: install-module
install-module:
	@$(find-kdir) && release=$$(cat "$$kdir/include/config/kernel.release") && \
		install -D -m 644 netconsole_ext.ko $(DESTDIR)/lib/modules/$$release/updates/netconsole_ext.ko && \
		{ [ -n "$(DESTDIR)" ] || depmod "$$release"; }

# initramfs-tools and dracut look nowhere else.
hooks = $(DESTDIR)/usr/share/initramfs-tools/hooks
dracut = $(DESTDIR)/usr/lib/dracut/modules.d/90netconsole-ext
units = $(DESTDIR)$(PREFIX)/lib/systemd/system

.PHONY: install-service
install-service:
	install -D dist/netconsole-ext $(DESTDIR)$(PREFIX)/sbin/netconsole-ext
	install -d $(units)
	sed 's,/usr/sbin/,$(PREFIX)/sbin/,' dist/netconsole-ext.service > $(units)/netconsole-ext.service
	install -D -m 644 dist/netconsole-ext.8 $(share)/man/man8/netconsole-ext.8
	install -D dist/initramfs-hook $(hooks)/netconsole-ext
	install -D -t $(dracut) dist/dracut/*.sh
	[ -e $(DESTDIR)/etc/default/netconsole-ext ] || \
		install -D -m 644 dist/netconsole-ext.default $(DESTDIR)/etc/default/netconsole-ext

# All but what has been configured.
uninstall:
	rm -f $(DESTDIR)/lib/modules/*/updates/netconsole_ext.ko
	rm -f $(DESTDIR)$(PREFIX)/sbin/netconsole-ext $(units)/netconsole-ext.service \
		$(share)/man/man8/netconsole-ext.8 $(hooks)/netconsole-ext
	rm -rf $(dracut) $(DKMS)
	rm -f $(DESTDIR)$(PREFIX)/bin/ncrx $(units)/ncrx.service $(share)/man/man1/ncrx.1 \
		$(share)/bash-completion/completions/ncrx $(share)/zsh/site-functions/_ncrx
	rm -rf $(share)/ncrx

# The module's sources for DKMS.
DKMS = $(DESTDIR)/usr/src/netconsole_ext-$(VERSION)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
.PHONY: install-dkms
install-dkms:
	scripts/module-sources.sh $(DKMS)
	install dist/dkms-probe $(DKMS)/
	sed 's/#MODULE_VERSION#/$(VERSION)/' dist/dkms.conf > $(DKMS)/dkms.conf

# Into the source that KSRC names, or as patches for it.
.PHONY: in-tree patches
in-tree:
	@scripts/in-tree.sh $(or $(KSRC),$(error KSRC=<dir> names the kernel's source))
patches:
	@scripts/patches.sh $(KSRC)

# The kernel's own runner of KUnit tests, in such a source.
.PHONY: kunit-in-tree
kunit-in-tree:
	@scripts/kunit-in-tree.sh $(or $(KSRC),$(error KSRC=<dir> names the kernel's source)) $(ARGS)

.PHONY: deb
deb:
	@scripts/deb.sh $(ARGS)

.PHONY: clean
clean:
	rm -rf build
	rm -f *.o *.ko *.mod *.mod.c .*.cmd .*.d *.rsi *.symtypes modules.order \
		Module.symvers .module-common.o bindings_generated.rs rust-project.json

.PHONY: demo vm kunit
demo vm kunit:
	@scripts/harness.sh $@ $(ARGS)

.PHONY: soak
soak:
	@scripts/cargo.sh test --release -p ncrx --test program -- --ignored --nocapture soak

.PHONY: check test lint fuzz bench check-in-tree
check test lint fuzz bench check-in-tree:
	@scripts/$@.sh $(ARGS)

.PHONY: trial
trial:
	@scripts/harness.sh trials $(ARGS)

.PHONY: test-kernels
test-kernels:
	@scripts/test-kernels.sh $(ARGS)

.PHONY: test-install
test-install:
	@scripts/test-install.sh $(ARGS)

.PHONY: test-kasan
test-kasan:
	@scripts/harness.sh kasan $(ARGS)

.PHONY: kernel stock-kernel
kernel:
	@scripts/kernel.sh test
stock-kernel:
	@scripts/kernel.sh stock

# Paths and nothing else on standard output.
.PHONY: print-kdir print-kernel print-stock-kdir print-stock-kernel print-stock-modules
print-kdir:
	@$(find-kdir) && echo "$$kdir"
print-kernel:
	@scripts/kernel.sh test image
print-stock-kdir:
	@scripts/kernel.sh stock kdir
print-stock-kernel:
	@scripts/kernel.sh stock image
print-stock-modules:
	@scripts/kernel.sh stock modules

define HELP
netconsole_ext: kernel log records over UDP, sent until they have arrived.

To see it work
  make demo            Boot Debian's stock kernel in a VM, load the module, and show
                       each record as it arrives here. Needs no root, no network card.
  make vm              A VM with the module at hand, to play with.

To use it
  make                 Build netconsole_ext.ko for the test kernel, or with
                       KDIR=<dir> for the kernel that was built (or whose headers are)
                       there: KDIR=/lib/modules/$$(uname -r)/build. For a kernel of
                       arm64 with ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-, which is
                       what it takes without.
  make ncrx            Build the receiver: build/release/ncrx.
  make install-ncrx    Install it, its manual, completions and systemd unit: PREFIX=/usr/local.
  make install         Install the module that "make" has built, and the service that sets it
                       up. make uninstall removes all that is installed.
  make deb             Build Debian packages in build/deb: the module for Debian's kernel, its
                       sources for DKMS, the service, the receiver. SIGN_KEY= SIGN_CERT= sign
                       the module. KERNEL=stock-7.3-amd64: for Debian's kernel for all
                       machines instead of that for cloud machines.

  make in-tree KSRC=<dir>   Put the module into a kernel's source, as
                       drivers/net/netconsole_ext.
  make patches         The same as a series for git am, in build/patches: KSRC=<dir>.

To work on it
  make check           Lint and the host's tests, before each commit: two minutes.
  make test            Everything; ends in "N passed, N failed". What CI runs.
  make trial           Trials in VMs: ARGS="lossy::" an area, ARGS="crash::oops_survived
                       --seed 7" one, replayed; ARGS=--list names them all.
  make lint            Formatting, clippy, and the house rules.
  make test-kasan      The trials in VMs, on a kernel with KASAN and kmemleak: hours, so
                       better with ARGS="NAME ...".
  make test-kernels    A smoke, a lossy and a panic trial on each of Debian's 7.3 kernels, of
                       arm64 as well, in a table: minutes for each at first;
                       ARGS="stock-7.3-amd64" for one.
  make test-install    The packages on an installed Debian 13 in a VM, from apt install through
                       reboots and a panic to a purge: half an hour; ARGS="installed::life"
                       for one of its trials.
  make fuzz            Every target of tests/fuzz, FUZZ_SECONDS (60) each.
  make bench           Measure, and write docs/measurements.md: hours, so better with
                       ARGS="NAME ..." (scripts/bench.sh --list names the sections).
  make soak            ncrx for an hour, or NCRX_SECONDS, at a steady rate, to a file system
                       that fills up and empties again.
  make kunit           The pure parts' tests, inside the test kernel.
  make check-in-tree   Build this folder as drivers/net/netconsole_ext.
  make kunit-in-tree KSRC=<dir>   The same tests by the kernel's kunit.py, in a kernel with
                       the module built in: ten minutes of building at first. Or with
                       ARCH=arm64.
  make rust-analyzer   Write the project file (rust-project.json) that editors need.
  make clean           Remove what make has built in this folder.

Kernels
  make kernel          Provide the test kernel (Linux 7.3 with lock and memory checks).
  make stock-kernel    Provide Debian's 7.3 kernel, unchanged.
  make print-kdir      print-kernel: where they are. print-stock-kdir,
                       print-stock-kernel, print-stock-modules: likewise; the last names
                       the modules that a guest must load first.

Settings
  ARGS="..."                       Arguments for demo, vm, kunit, trial, test-kasan, lint,
                                   fuzz, bench.
  V=1 W=1 ...                      Whatever Kbuild understands.
  NETCONSOLE_EXT_CACHE=<dir>       Where the compiler, the kernels and all that is built
                                   for the tests go (~/.cache/netconsole_ext, 4 GB). It
                                   may be deleted at any time.
  NETCONSOLE_EXT_MIRROR=<url>      The Debian mirror, if not the one apt uses here.
  NETCONSOLE_EXT_KERNEL_TARBALL=<file>   Make the test kernel from this source.
endef

.PHONY: help
help:
	$(info $(HELP))
	@:

# Everything sets itself up: each target makes the virtual environment it needs under .venv/.

PYTHON ?= python3
# An interpreter that is named, as in `make test PYTHON=python3.12`, has environments of its own.
VERSION := $(if $(filter python3,$(PYTHON)),,$(or $(shell $(PYTHON) -c \
  'import platform; print(platform.python_version())'),$(error PYTHON=$(PYTHON): an interpreter expected)))
VENV := .venv$(VERSION:%=/%)
C_SOURCES := $(wildcard pmemheap/_core/*/*.c pmemheap/_core/*/*.h) pmemheap/_core/build_sys.py
BUILT_FROM := pyproject.toml setup.py .ci/constraints.txt $(C_SOURCES)
COMMA := ,
# What lint and tests in this tree import; EXTRAS=pictures,libraries for the tests of these as well.
TOOLS := $(VENV)/lint,test$(EXTRAS:%=$(COMMA)%)
PYTHON_CODE := pmemheap tests setup.py $(wildcard docs/conf.py benchmarks examples)

# What is beside cffi and sortedcontainers has the releases that are listed there: those of tomorrow change nothing here.
export PIP_CONSTRAINT := $(CURDIR)/.ci/constraints.txt
export PIP_BUILD_CONSTRAINT := $(PIP_CONSTRAINT)

# pip would compile each module of each library, which takes a third of its time; Python compiles those it imports.
export PIP_COMPILE := 0

WARNINGS := -std=gnu11 -Wall -Wextra -Werror -fsyntax-only
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1

.PHONY: all browser demo pictures screenshots test fuzz differential lint bench baselines compare commits kv peers recommend docs wheel constraints installed checked sanitize forge damage kill kvkill redis faults interrupts contracts surroundings disk-full fifo gallery scaling sizes clean

all: lint test

# One recipe for all environments: .venv/<extras>/ready has the package, editable, with those extras.
$(VENV)/%/ready: $(BUILT_FROM)
	test -x $(VENV)/$*/bin/python || $(PYTHON) -m venv $(VENV)/$*
	$(VENV)/$*/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

# What runs in this tree alone needs what it imports, and no package: .venv/<extras>/imports. Nothing is compiled.
$(VENV)/%/imports: pyproject.toml .ci/constraints.txt .ci/requirements
	test -x $(VENV)/$*/bin/python || $(PYTHON) -m venv $(VENV)/$*
	$(VENV)/$*/bin/python .ci/requirements $* >$(VENV)/$*/requirements.txt
	$(VENV)/$*/bin/python -m pip install --quiet --disable-pip-version-check --requirement $(VENV)/$*/requirements.txt
	touch $@

demo: $(VENV)/cli,numpy/ready
	$(VENV)/cli,numpy/bin/pmemheap demo

# In this tree with the default Python; a version that is named gets a build of its own, elsewhere.
ifeq ($(VERSION),)
test: $(VENV)/test/ready
	$(VENV)/test/bin/python -m pytest -n 2 --dist worksteal -m "not checked" $(PYTEST_OPTIONS)
	$(MAKE) checked
else
test: installed
endif

# Random calls of the whole API with hostile arguments; CI takes 12 seconds of it.
fuzz: $(VENV)/test/ready
	$(VENV)/test/bin/python tests/fuzz_api.py --seconds $(or $(SECONDS),600) --seed $(or $(SEED),0)

# Every crash of programs of one to three operations, 2 million states; CI takes 16000 of them.
crash: $(VENV)/test/ready
	$(VENV)/test/bin/python tests/crash_load.py --states $(or $(STATES),2000000) --seed $(or $(SEED),0)

# Readers beside a writer: every interleaving of small worlds, each rule of the protocol left out; half an hour.
.PHONY: model
model: $(VENV)/test/ready
	$(VENV)/test/bin/python tests/readers_model.py --states $(or $(STATES),1000000) --steps $(or $(STEPS),3000000) \
	  --seed $(or $(SEED),0)

# The long comparison with the real libpmem2 (apt-get install libpmem2-dev).
differential: $(VENV)/test/ready
	PMEMHEAP_DIFFERENTIAL_STEPS=$(or $(STEPS),100000) \
	  $(VENV)/test/bin/python -m pytest tests/test_pmem2_differential.py -rA --no-header

# Every byte of a small heap file's metadata changed, every truncation: a quarter of an hour.
damage: $(VENV)/test/ready
	PMEMHEAP_DAMAGE_ALL=1 $(VENV)/test/bin/python -m pytest tests/test_heap_damage.py -rA --no-header

# ROUNDS=1000 of SIGKILL at random times on disk (both durabilities) and in memory.
kill: $(VENV)/test/ready
	for where in ". power" ". process" "/dev/shm process"; do set -- $$where; \
	  $(VENV)/test/bin/python tests/kill_load.py --rounds $(or $(ROUNDS),1000) --where $$1 --durability $$2 \
	    --seed $(or $(SEED),0) || exit 1; \
	done

# ROUNDS=200 of SIGKILL at the key-value store, in each place, of 1 and of 10 operations a commit.
kvkill: $(VENV)/test/ready
	for where in ". power" ". process" "/dev/shm process"; do for operations in 1 10; do set -- $$where; \
	  $(VENV)/test/bin/python tests/kvstore_kill_load.py --rounds $(or $(ROUNDS),200) --where $$1 --durability $$2 \
	    --operations $$operations --seed $(or $(SEED),0) || exit 1; \
	done; done

# Eight readers and a writer of one file, ROUNDS=300 of SIGKILL at any of them, in each place; then two that come and go, so that
# the writer edits in place. Ten minutes and more.
.PHONY: readers
readers: $(VENV)/test/ready
	for where in ". power" ". process" "/dev/shm process" "memfd process"; do set -- $$where; \
	  for readers in "8" "2 --visits"; do \
	    $(VENV)/test/bin/python tests/readers_load.py --rounds $(or $(ROUNDS),300) --where $$1 --durability $$2 \
	      --readers $$readers --seed $(or $(SEED),0) || exit 1; \
	  done; \
	done

# A writer and a reader by turns, COUNT=1000000 random schedules and all with up to three changes of hand. An hour.
.PHONY: pairs
pairs: $(VENV)/test/ready
	$(VENV)/test/bin/python tests/pairs_load.py --count $(or $(COUNT),1000000) --seed $(or $(SEED),0)

# A reader beside a writer whose header is damaged meanwhile, ROUNDS=5000 times. A minute.
.PHONY: readers-forged
readers-forged: $(VENV)/test/ready
	$(VENV)/test/bin/python tests/readers_forged.py --rounds $(or $(ROUNDS),5000) --seed $(or $(SEED),0)

# Random requests to the store's server and to a real Redis (apt-get install redis-server), replies compared.
redis: $(VENV)/test/ready
	for protocol in 2 3; do \
	  $(VENV)/test/bin/python tests/kvstore_redis_load.py --requests $(or $(REQUESTS),50000) --protocol $$protocol \
	    --seed $(or $(SEED),0) || exit 1; \
	done

# Every system call of a script refused, with each errno, and Python short of memory: an hour.
faults: $(VENV)/test/ready
	PMEMHEAP_FAULTS_ALL=1 $(VENV)/test/bin/python -m pytest tests/test_heap_faults.py -rA --no-header
	for durability in process power; do \
	  $(VENV)/test/bin/python tests/fault_load.py --durability $$durability --stride $(or $(STRIDE),1) \
	    --memory 1000 || exit 1; \
	done

# Block devices that refuse writes for a while, with the heap mapped by others; as root, with loop devices.
.PHONY: writeback
writeback: $(VENV)/test/ready
	$(VENV)/test/bin/python tests/failed_writeback.py

# Ctrl-C at every place where Python would notice one, in every change of every heap: 20 minutes.
interrupts: $(VENV)/test/ready
	PMEMHEAP_INTERRUPTS_ALL=1 $(VENV)/test/bin/python -m pytest tests/test_interrupts.py -rA --no-header

# The contract of allocators, over every stack of three layers, in every order.
contracts: $(VENV)/test/ready
	PMEMHEAP_STACKS_ALL=1 $(VENV)/test/bin/python -m pytest tests/test_contracts.py -rA --no-header

# Every call after every way in which somebody else can change a file; forks beside threads for a minute.
surroundings: $(VENV)/test/ready
	PMEMHEAP_FILE_CHANGES_ALL=1 PMEMHEAP_FORK_SECONDS=$(or $(SECONDS),60) \
	  $(VENV)/test/bin/python -m pytest tests/test_file_changed.py tests/test_heap_fork.py -rA --no-header

# Named arrays in the hands of pandas, polars and pyarrow, which are 400 MB: with a copy or without.
.PHONY: libraries
libraries: $(VENV)/test,libraries/ready
	$(VENV)/test,libraries/bin/python -m pytest tests/test_arrays_libraries.py -rA --no-header

# File systems of 4 and 8 MiB that are really full; mounts them, so it wants root.
disk-full: $(VENV)/test/ready
	$(VENV)/test/bin/python -m pytest tests/disk_full_load.py -rA --no-header

# A FIFO load of GB=100 through memory and a tenth of it through a file, trimmed and not, and its picture.
fifo: $(VENV)/bench/ready
	mkdir -p build/fifo
	for load in "anonymous $(or $(GB),100)" "file $$(($(or $(GB),100) / 10))"; do \
	  for way in "" --never-trim; do \
	    $(VENV)/bench/bin/python tests/fifo_load.py $$load $$way --json "build/fifo/$${load%% *}$$way.json" || exit 1; \
	  done; \
	done
	$(VENV)/bench/bin/python tests/fifo_load.py plot docs/fifo.svg $(foreach medium,anonymous file,\
	  build/fifo/$(medium).json build/fifo/$(medium)--never-trim.json)

# Snapshots beside a writer: what they cost both, beside LMDB. COUNT=20000 takes a minute.
.PHONY: snapshots
snapshots: $(VENV)/bench/ready
	mkdir -p benchmarks/results/readers
	$(VENV)/bench/bin/python benchmarks/bench_readers.py table $(or $(COUNT),100000) | tee benchmarks/results/readers/table.md
	$(VENV)/bench/bin/python benchmarks/readers_plot.py benchmarks/results/readers/table.md benchmarks/results/readers/throughput.svg

# Named arrays beside h5py, zarr and numpy.memmap: 100,000 small and ten large ones. COUNT=2000 takes a minute.
.PHONY: arrays
arrays: $(VENV)/bench/ready
	$(VENV)/bench/bin/python benchmarks/bench_named_arrays.py table $(or $(COUNT),100000)

# The pictures and tables of docs/gallery.md: memory over time, and times, of each strategy beside others. Three minutes.
gallery: $(VENV)/bench/ready
	$(VENV)/bench/bin/python benchmarks/gallery.py measure docs/gallery/data.json
	$(VENV)/bench/bin/python benchmarks/gallery.py draw docs/gallery/data.json docs

# Costs beside more and more blocks, free extents and bytes of heap, and their picture. Three minutes.
scaling: $(VENV)/bench/ready
	$(VENV)/bench/bin/python benchmarks/scaling.py measure benchmarks/results/scaling/data.json $(if $(ROUNDS),--rounds $(ROUNDS))
	$(VENV)/bench/bin/python benchmarks/scaling.py draw benchmarks/results/scaling/data.json benchmarks/results/scaling/scaling.svg

# What a user's type checker finds: the types of all public names, and of the examples as somebody else's code.
PYRIGHT = PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" PYTHONPATH=$(CURDIR) pyright

lint: $(TOOLS)/imports
	.ci/titles
	$(TOOLS)/bin/ruff check $(PYTHON_CODE)
	$(TOOLS)/bin/ruff format --check $(PYTHON_CODE)
	$(TOOLS)/bin/mypy
	mkdir -p build
	$(PYRIGHT) --verifytypes pmemheap --ignoreexternal >build/types.txt || { cat build/types.txt; exit 1; }
	$(PYRIGHT) examples/*.py examples/*/*.py
	$(CC) $(WARNINGS) -Ipmemheap/_core -DPy_LIMITED_API=0x030B0000 -isystem $$($(PYTHON) -c \
	  'import sysconfig; print(sysconfig.get_path("include"))') pmemheap/_core/*/*.c

# jemalloc, one of the peers, is loaded late and wants room for its thread-local data when Python starts.
bench baselines compare gallery: export GLIBC_TUNABLES := glibc.rtld.optional_static_tls=16384

bench: $(VENV)/bench/ready
	for layer in benchmarks/bench_*.py; do $(VENV)/bench/bin/python $$layer --fast --quiet || exit 1; done

# The same, kept in benchmarks/results/pyperf, for `python -m pyperf compare_to`. Half an hour.
baselines: $(VENV)/bench/ready
	$(VENV)/bench/bin/python benchmarks/baselines.py benchmarks/results/pyperf $(LAYERS)

# Commits beside SQLite, LMDB and libpmemobj, recovery, calls outside of transactions.
commits: $(VENV)/bench/ready | peers
	$(VENV)/bench/bin/python benchmarks/compare.py --only commits,recovery,bare --out benchmarks/results/commits $(if $(ROUNDS),--rounds $(ROUNDS))

# The key-value store beside LMDB, RocksDB, LevelDB, SQLite, diskcache and GNU dbm.
kv: $(VENV)/bench/ready
	$(VENV)/bench/bin/python benchmarks/compare.py --only kv --out benchmarks/results/kv $(if $(ROUNDS),--rounds $(ROUNDS))

# The store and LMDB from a thousand to ten million records, with syncs to one, and their pictures. Seven minutes.
sizes: $(VENV)/bench/ready
	for kind in process power; do \
	  at=benchmarks/results/sizes/$$kind; \
	  $(VENV)/bench/bin/python benchmarks/kv_sizes.py measure $$at.json --durability $$kind $(if $(MOST),--most $(MOST)) || exit 1; \
	  $(VENV)/bench/bin/python benchmarks/kv_sizes.py draw $$at.json $$at.svg || exit 1; \
	done

# Libraries that are compared with where they can be had; without them the results say what is missing.
peers:
	test -f /usr/include/libpmemobj.h || apt-get install -y -qq libpmemobj-dev || echo "going on without libpmemobj"

# Side by side with other allocators; traces with TRACES=directory, sections with ONLY=micro,traces.
compare: $(VENV)/bench/ready
	$(VENV)/bench/bin/python benchmarks/compare.py --out benchmarks/results \
	  $(if $(TRACES),--traces $(TRACES)) $(if $(ONLY),--only $(ONLY))

# Chromium, in which the tests look at the page of a heap; as root. Most of a minute, once.
browser:
	command -v chromium && command -v chromedriver || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; } || \
	  echo "going on without chromium: tests that need it are skipped, which fails in CI"

# The tests that look at pages and notebooks, and the pictures of docs/pictures.md.
pictures: $(VENV)/test,pictures/ready browser
	$(VENV)/test,pictures/bin/python -m pytest tests/test_pictures*.py tests/test_notebook*.py $(PYTEST_OPTIONS)

screenshots: $(VENV)/test,pictures/ready browser
	$(VENV)/test,pictures/bin/python tests/screenshots.py docs/pictures

# What `pmemheap recommend` says of each trace in TRACES=directory, beside the best of all plans: minutes a trace.
recommend: $(VENV)/test/ready
	$(VENV)/test/bin/python benchmarks/recommended.py $(TRACES)/*.trace*

docs: $(VENV)/docs/imports
	$(VENV)/docs/bin/python setup.py --quiet build_ext --inplace
	$(VENV)/docs/bin/python -m sphinx -W -b html docs docs/_build/html

# The sdist, and the wheel that pip makes of it, apart from all but what pyproject.toml asks for.
wheel:
	test -x $(VENV)/wheel/bin/python || $(PYTHON) -m venv $(VENV)/wheel
	$(VENV)/wheel/bin/python -m pip install --quiet --disable-pip-version-check build setuptools cffi
	rm -rf dist build/sdist && mkdir -p build/sdist
	$(VENV)/wheel/bin/python -m build --sdist --no-isolation --outdir dist
	tar -xf dist/*.tar.gz -C build/sdist --strip-components=1
	$(VENV)/wheel/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist build/sdist

# The list of releases, made anew from the newest ones that go together with the oldest Python.
constraints:
	rm -rf $(VENV)/constraints && $(PYTHON) -m venv $(VENV)/constraints
	env -u PIP_CONSTRAINT -u PIP_BUILD_CONSTRAINT $(VENV)/constraints/bin/python -m pip install --quiet \
	  --disable-pip-version-check build '.[numpy,cli,docs,test,pictures,libraries,bench,lint]'
	$(VENV)/constraints/bin/python -m pip freeze --all --exclude pip --exclude pmemheap > .ci/constraints.txt

# Where these tools are, for .ci/installed.
.PHONY: tools
tools: $(TOOLS)/imports
	@echo $(CURDIR)/$(TOOLS)

# The tests of the sdist, outside of this tree, on the wheel in an empty environment.
installed: wheel
	EXTRAS=pictures,libraries .ci/installed $(PYTHON) -n 2 --dist worksteal -m "not checked" $(PYTEST_OPTIONS)

# A copy of the tree, build/$(1), whose C core asserts and can leave rules of recovery out, built in the environment $(2).
# Python in .venv/$(1) finds it first, then what the tests import. Files that others write meanwhile are left out.
SITE_PACKAGES = $$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
define BUILD_CHECKED
	rm -rf build/$(1) $(VENV)/$(1) && mkdir -p build/$(1)
	find pyproject.toml setup.py MANIFEST.in README.md LICENSE pmemheap tests $(wildcard benchmarks examples) \
	  -name __pycache__ -prune -o -type f ! -name '*.so' -print0 | xargs -0 cp --parents --target-directory build/$(1)
	$(PYTHON) -m venv --without-pip $(VENV)/$(1)
	printf '%s\n' "$(CURDIR)/build/$(1)" "$(call SITE_PACKAGES,$(CURDIR)/$(TOOLS))" \
	  >"$(call SITE_PACKAGES,$(VENV)/$(1))/tree.pth"
	cd build/$(1) && PMEMHEAP_CHECKED=1 $(2) $(CURDIR)/$(VENV)/$(1)/bin/python setup.py --quiet build_ext --inplace
endef

# The tests that need such a core: planted bugs.
checked: $(TOOLS)/imports
	$(call BUILD_CHECKED,checked)
	cd build/checked && $(CURDIR)/$(VENV)/checked/bin/python -m pytest -p no:cacheprovider -n 2 --dist worksteal \
	  -m checked $(PYTEST_OPTIONS) $$(grep -l mark.checked tests/*.py)

BUILD_SANITIZED = $(call BUILD_CHECKED,sanitized,CFLAGS="$(SANITIZERS)" LDFLAGS="-fsanitize=address$(COMMA)undefined")
# Python in it. No leak detection: the interpreter itself never frees everything. The library of C++ comes with the sanitizer, which
# looks for it once: matplotlib throws an exception.
LOADED_FIRST = $$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libstdc++.so.6)
RUN_SANITIZED = cd build/sanitized && LD_PRELOAD="$(LOADED_FIRST)" \
  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 PYTHONMALLOC=malloc $(CURDIR)/$(VENV)/sanitized/bin/python

# The tests in it. Nothing that measures: it would measure the sanitizers. Nor what they change themselves: they take
# the signals of faults, say each refusal of memory, and need more address space than the limits that are tested.
sanitize: $(TOOLS)/imports
	$(BUILD_SANITIZED)
	$(RUN_SANITIZED) -m pytest -p no:cacheprovider --capture=sys -m "not unsanitized" $(PYTEST_OPTIONS) \
	  --ignore=tests/test_benchmarks.py --ignore=tests/test_release.py tests

# Every field of every structure of a heap file forged, COUNT=20000 files: an hour. With SANITIZE=1 by the core above.
FORGE = tests/forger.py --count $(or $(COUNT),20000) --seed $(or $(SEED),0) --jobs $(or $(JOBS),2)
ifdef SANITIZE
forge: $(TOOLS)/imports
	$(BUILD_SANITIZED)
	$(RUN_SANITIZED) $(FORGE)
else
forge: $(VENV)/test/ready
	$(VENV)/test/bin/python $(FORGE)
endif

clean:
	rm -rf .venv build dist docs/_build *.egg-info pmemheap/_core/*.so

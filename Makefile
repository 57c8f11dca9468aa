PYTHON ?= .venv/bin/python

.PHONY: bench-train
bench-train:  ## train the image examples by their sources' plain code and by ours, side by side (about 50 minutes)
	$(PYTHON) -m tests.bench.train

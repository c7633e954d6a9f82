"""The notebooks are tests: every cell runs, and what it prints is compared with what the file shows.

nbval does the work, if it is installed (the extra `notebooks`). Pictures are not compared; their
numbers are, by tests/notebooks.
"""

import os


def pytest_configure(config):
    """As if `--nbval --nbval-current-env` had been typed, with short training and one BLAS thread."""
    if config.pluginmanager.hasplugin("nbval"):
        config.option.nbval = config.option.nbval_current_env = True
        os.environ["TINYVIT_FAST"] = "1"  # the kernels inherit these
        os.environ["OPENBLAS_NUM_THREADS"] = "1"

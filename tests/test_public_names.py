import subprocess
import sys

import pytest

import steerec

NAMES = {
    "Event",
    "FitConfig",
    "Query",
    "Recommender",
    "__version__",
    "build_dataset",
    "fit",
    "load_snapshot",
    "read_tables",
    "save_snapshot",
}


def test_the_promised_names_are_these_ten():
    assert set(steerec.__all__) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_promised_name_is_there_and_bears_its_name(name):
    found = getattr(steerec, name)
    assert name == "__version__" or found.__name__ == name
    assert name in dir(steerec)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="steerec has no 'recomend'"):
        _ = steerec.recomend


def test_importing_steerec_imports_nothing_heavy():
    code = "import steerec, sys; print('numpy' in sys.modules or 'polars' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"

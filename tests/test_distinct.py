"""The different numbers of an array, against a set."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from steerec.data.distinct import distinct


@given(st.lists(st.integers(-5, 5)))
def test_each_number_comes_once_and_in_order(numbers):
    assert distinct(np.array(numbers, np.int64)).tolist() == sorted(set(numbers))

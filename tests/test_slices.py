import numpy as np
import pytest

from steerec.evaluation.slices import (
    SliceConfig,
    gap_slices,
    history_slices,
    item_slices,
    slice_results,
)


def test_every_request_has_one_length_of_history():
    found = history_slices(np.array([0, 5, 6, 20, 21]))
    assert found["new_users"].tolist() == [True, True, False, False, False]
    assert found["short_history"].tolist() == [False, False, True, True, False]
    assert found["long_history"].tolist() == [False, False, False, False, True]


def test_thresholds_can_be_set():
    found = history_slices(np.array([1, 2, 3]), SliceConfig(new_max=1, short_max=2))
    assert [mask.argmax() for mask in found.values()] == [0, 1, 2]


def test_items_are_split_by_training_events():
    counts = np.array([0, 1, 4, 5, 50] + [2] * 6)  # ten with events: item 4 is the head
    found = item_slices(np.array([0, 1, 2, 3, 4], np.int32), counts)
    assert np.flatnonzero(found["cold_items"]).tolist() == [0]
    assert np.flatnonzero(found["rare_items"]).tolist() == [1, 2]
    assert np.flatnonzero(found["popular_items"]).tolist() == [4]
    assert np.flatnonzero(found["tail_items"]).tolist() == [0, 1, 2, 3]


def test_unknown_gaps_are_in_no_slice():
    found = gap_slices(np.array([0.0, 60.0, 60.5, np.nan]))
    assert found["gap_over_60s"].tolist() == [False, False, True, False]


def test_slices_report_their_size_and_means():
    masks = {"some": np.array([True, True, False]), "none": np.zeros(3, bool)}
    values = {"blend": {"ndcg@10": np.array([1.0, np.nan, 0.5]), "x": np.array([np.nan] * 3)}}
    found = slice_results(masks, values)
    assert found == {"some": {"n": 2, "blend": {"ndcg@10": 1.0, "x": None}}, "none": {"n": 0}}


def test_thresholds_out_of_order_are_refused():
    with pytest.raises(ValueError, match="new_max=9"):
        SliceConfig(new_max=9, short_max=3)
    with pytest.raises(ValueError, match="head_share=2"):
        SliceConfig(head_share=2)

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steerec.encoders.attributes import AttributeConfig, AttributeEncoder
from steerec.errors import DataError
from steerec.heads.whitening import Whitening


def rng():
    return np.random.default_rng(0)


def shop():
    return pl.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "brand": ["Acme", "Acme", "Bolt", None],
            "tags": [["red", "new"], ["red"], [], ["new", "new"]],
            "price": [1.0, 2.0, 3.0, None],
            "all_the_same": ["x", "x", "x", "x"],
            "nothing": pl.Series([None] * 4, dtype=pl.String),
            "no_number": pl.Series([None] * 4, dtype=pl.Float64),
            "one_number": [5, 5, 5, 5],
        }
    )


def test_values_are_weighted_by_rarity_and_rows_have_unit_length():
    encoder = AttributeEncoder.fit(shop(), AttributeConfig(), rng())
    # Kept: seen twice or more, but not everywhere; by frequency, ties by name. Bolt is seen once.
    assert list(encoder.values) == [("brand", "Acme"), ("tags", "new"), ("tags", "red")]
    np.testing.assert_allclose(encoder.rarity, np.log(5 / 3) + 1, rtol=1e-6)
    named = encoder.transform(shop())[:, :3]
    third, half = 1 / np.sqrt(3), 1 / np.sqrt(2)
    expected = [[third, third, third], [half, 0, half], [0, 0, 0], [0, 1, 0]]
    np.testing.assert_allclose(named, expected, rtol=1e-6)


def test_rare_values_weigh_more_than_frequent_ones():
    table = pl.DataFrame({"c": [["often", "rare"]] * 2 + [["often"]] * 6 + [["other"]] * 2})
    encoder = AttributeEncoder.fit(table, AttributeConfig(), rng())
    often, rare = (encoder.rarity[encoder.values["c", v]] for v in ("often", "rare"))
    np.testing.assert_allclose([often, rare], [np.log(11 / 9) + 1, np.log(11 / 3) + 1], rtol=1e-6)


def test_numbers_are_scaled_and_missing_ones_flagged():
    encoder = AttributeEncoder.fit(shop(), AttributeConfig(), rng())
    assert encoder.scaler.columns == ("price",)  # constant and empty columns are left out
    assert encoder.dim == 5
    np.testing.assert_allclose(encoder.transform(shop())[:, 3:], [[-1, 0], [0, 0], [1, 0], [0, 1]])


def test_an_outlier_does_not_drown_the_rest():
    encoder = AttributeEncoder.fit(shop(), AttributeConfig(), rng())
    new = shop().with_columns(price=pl.lit(1e9))
    assert encoder.transform(new)[:, 3].max() == 5.0


def test_new_items_may_hold_values_never_seen():
    encoder = AttributeEncoder.fit(shop(), AttributeConfig(), rng())
    new = shop().with_columns(brand=pl.lit("Unknown"), tags=pl.lit(None, pl.List(pl.String)))
    assert not encoder.transform(new)[:, :3].any()
    assert encoder.transform(shop().clear()).shape == (0, 5)


def many_values():
    picks = rng().integers(0, 300, (500, 3))
    return pl.DataFrame({"tags": [[f"t{x}" for x in row] for row in picks]})


def test_many_values_are_reduced_and_likeness_survives():
    full = AttributeEncoder.fit(many_values(), AttributeConfig(dim=10_000), rng())
    reduced = AttributeEncoder.fit(many_values(), AttributeConfig(dim=64), rng())
    assert full.dim > 250
    assert reduced.dim == 64
    exact = full.transform(many_values())
    # The slow obvious version: all singular vectors, the 64 strongest.
    _, _, directions = np.linalg.svd(exact.astype(np.float64), full_matrices=False)
    best = exact @ directions[:64].T
    got = reduced.transform(many_values())
    np.testing.assert_allclose(got @ got.T, best @ best.T, atol=1e-4)


def test_equal_data_gives_equal_vectors():
    one, two = (AttributeEncoder.fit(many_values(), AttributeConfig(), rng()) for _ in range(2))
    np.testing.assert_array_equal(one.transform(many_values()), two.transform(many_values()))


@pytest.mark.parametrize("table", [shop, many_values])
def test_attributes_saved_and_loaded_give_equal_vectors(tmp_path, table):
    encoder = AttributeEncoder.fit(table(), AttributeConfig(), rng())
    encoder.save(tmp_path)
    loaded = AttributeEncoder.load(tmp_path)
    np.testing.assert_array_equal(loaded.transform(table()), encoder.transform(table()))


def test_altered_attributes_are_refused(tmp_path):
    with pytest.raises(DataError, match="no saved attributes"):
        AttributeEncoder.load(tmp_path)
    AttributeEncoder.fit(shop(), AttributeConfig(), rng()).save(tmp_path)
    about = json.loads((tmp_path / "attributes.json").read_text())
    about["values"].pop()
    (tmp_path / "attributes.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="equal numbers"):
        AttributeEncoder.load(tmp_path)


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match="colour"):
        AttributeEncoder.fit(shop(), AttributeConfig(categories=("colour",)), rng())
    encoder = AttributeEncoder.fit(shop(), AttributeConfig(), rng())
    with pytest.raises(DataError, match="brand"):
        encoder.transform(shop().drop("brand"))


def test_a_table_without_attributes_gives_vectors_of_length_zero():
    encoder = AttributeEncoder.fit(pl.DataFrame({"item_id": ["a", "b"]}), AttributeConfig(), rng())
    assert encoder.transform(pl.DataFrame({"item_id": ["a", "b"]})).shape == (2, 0)


def vectors(n=400, dim=12):
    draw = rng()
    mixed = draw.standard_normal((n, dim)) @ draw.standard_normal((dim, dim)) + 3.0
    return mixed.astype(np.float32)


def test_full_whitening_evens_out_all_directions():
    white = Whitening.fit(vectors(), dim=12, shrink=0.0)
    raw = (vectors() - white.mean) @ white.projection
    np.testing.assert_allclose(np.cov(raw, rowvar=False, bias=True), np.eye(12), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(white.transform(vectors()), axis=1), 1, rtol=1e-5)


def test_full_shrinkage_only_centres_and_rotates():
    white = Whitening.fit(vectors(), dim=12, shrink=1.0)
    centred = vectors() - vectors().mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    got = white.transform(vectors())
    np.testing.assert_allclose(got @ got.T, centred @ centred.T, atol=1e-4)


def test_items_without_text_stay_zero_and_change_nothing():
    holes = np.concatenate([np.zeros((50, 12), np.float32), vectors()])
    with_holes, without = Whitening.fit(holes, dim=5), Whitening.fit(vectors(), dim=5)
    np.testing.assert_allclose(with_holes.projection, without.projection, rtol=1e-5)
    assert not with_holes.transform(holes)[:50].any()


def test_fewer_items_than_dimensions_give_fewer_dimensions():
    white = Whitening.fit(vectors(n=4), dim=128)
    assert white.dim == 3
    assert np.isfinite(white.transform(vectors())).all()


def test_equal_vectors_whiten_to_finite_numbers():
    white = Whitening.fit(np.ones((5, 3), np.float32))
    assert np.isfinite(white.transform(vectors(dim=3))).all()


@pytest.mark.parametrize("n", [0, 1])
def test_whitening_without_texts_is_a_clear_error(n):
    few = np.concatenate([np.zeros((3, 4), np.float32), np.ones((n, 4), np.float32)])
    with pytest.raises(DataError, match="no text"):
        Whitening.fit(few)


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(2, 8), st.integers(1, 6)),
        elements=st.floats(-2, 2, width=16),
    ),
    st.floats(0, 1),
)
def test_whitened_rows_are_zero_or_of_unit_length(x, shrink):
    if x.any(axis=1).sum() < 2:
        return
    length = np.linalg.norm(Whitening.fit(x, dim=4, shrink=shrink).transform(x), axis=1)
    assert np.all((length == 0) | (np.abs(length - 1) < 1e-4))


def test_whitening_saved_and_loaded_gives_equal_vectors(tmp_path):
    white = Whitening.fit(vectors(), dim=5)
    white.save(tmp_path / "white.npz")
    loaded = Whitening.load(tmp_path / "white.npz")
    np.testing.assert_array_equal(loaded.transform(vectors()), white.transform(vectors()))
    whole = (tmp_path / "white.npz").read_bytes()
    (tmp_path / "white.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="holds no whitening"):
        Whitening.load(tmp_path / "white.npz")


def test_whitening_refuses_vectors_of_another_encoder():
    with pytest.raises(DataError, match="shape"):
        Whitening.fit(vectors()).transform(vectors(dim=7))

"""Splits, normalisation and batches."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.assertions import refused

from nl_models import Network, build
from nl_nodes import Device, ShapeError
from nl_training.data import EpochBatches, Normalization, Split, batches, epoch_order, load
from nl_training.data.splits import stratified, train_and_test


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=200), st.floats(0, 0.99), st.integers(0, 5))
def test_a_split_is_a_partition_that_keeps_every_class(labels, share, seed):
    t = np.array(labels)
    ctx, taken = stratified(t, share, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([ctx, taken])), np.arange(len(t)))
    assert set(t[ctx]) == set(labels)
    assert len(taken) <= round(len(t) * share)
    for label in set(labels):
        assert abs((t[taken] == label).sum() - (t == label).sum() * share) < 1 + 1e-9


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("of", ["x", "t"])
def test_data_of_lists_or_of_other_counts_are_refused(part: str, of: str):
    data = load("digits")
    split = getattr(data, part)
    array = getattr(split, of)
    for other, told in ((array.tolist(), "NumPy arrays, got list"), (array[:7], "need as many labels")):
        with refused(told):
            replace(data, **{part: replace(split, **{of: other})})


def test_a_split_takes_the_exact_share_where_classes_are_unequal():
    t = np.repeat([0, 1, 2], [7, 12, 14])
    _, taken = stratified(t, 0.2, seed=0)
    assert np.bincount(t[taken]).tolist() == [1, 3, 3]  # quotas 1.4, 2.4, 2.8; equal remainders: first down


def test_split_depends_on_its_seed_only():
    t = np.arange(100) % 10
    np.testing.assert_array_equal(stratified(t, 0.3, 1)[1], stratified(t, 0.3, 1)[1])
    assert (stratified(t, 0.3, 1)[1] != stratified(t, 0.3, 2)[1]).any()


def test_too_few_images_for_a_test_part():
    with refused("2 images", "at least 3"):
        train_and_test(np.zeros((2, 1, 2, 2)), np.array([0, 1]))


def test_normalisation_is_per_channel_and_exact():
    x = np.random.default_rng(0).integers(0, 256, (2500, 3, 4, 5), dtype=np.uint8)
    x[:, 1] //= 4
    scale = Normalization.fit(x)
    np.testing.assert_allclose(scale.mean, x.mean(axis=(0, 2, 3), dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(scale.std, x.std(axis=(0, 2, 3), dtype=np.float64), rtol=1e-12)
    y = scale.apply(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3), dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=(0, 2, 3), dtype=np.float64), 1, atol=1e-5)
    np.testing.assert_array_equal(scale.apply(x[7]), y[7])
    assert scale.apply(x, "float64").dtype == np.float64


def test_constant_channel_is_centred_and_not_scaled():
    scale = Normalization.fit(np.full((4, 1, 2, 2), 9, np.uint8))
    assert scale == Normalization((9.0,), (1.0,))
    assert not scale.apply(np.full((4, 1, 2, 2), 9, np.uint8)).any()


def test_applying_normalization_does_not_change_its_input():
    x = np.ones((2, 1, 2, 2), np.float32)
    Normalization((5.0,), (2.0,)).apply(x)
    assert (x == 1).all()


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 3, 8, 8), (8, 8)])
def test_applying_refuses_other_channels(shape):
    with pytest.raises(ShapeError, match=r"1 channels.*" + str(shape[0])):
        Normalization((0.0,), (1.0,)).apply(np.zeros(shape))


def numbered(n: int) -> Split:
    return Split(np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1), np.arange(n))


@pytest.mark.parametrize(("n", "sizes"), [(10, [4, 4, 2]), (8, [4, 4]), (3, [3]), (0, [])])
def test_batches_have_every_image_once_in_the_given_order(n, sizes):
    order = epoch_order(n, seed=0, epoch=1)
    assert sorted(order) == list(range(n))
    got = list(batches(numbered(n), 4, order))
    assert [len(t) for _, t in got] == sizes
    assert [t for _, part in got for t in part] == order.tolist()
    for x, t in got:
        np.testing.assert_array_equal(x.ravel(), t)


def mlp(batch_norm: bool, device: Device | None = None) -> Network:
    return build("mlp", input_shape=(1, 2, 2), classes=2, hidden=[3], batch_norm=batch_norm, device=device)


@pytest.mark.parametrize(("n", "count", "sizes"), [(100, 4, {32, 4}), (96, 3, {32}), (5, 1, {5}), (33, 2, {32, 1})])
def test_the_batches_of_an_epoch_have_one_or_two_sizes(n, count, sizes):
    found = EpochBatches.of(mlp(batch_norm=False), n, 32)
    assert (found.images, found.count, found.sizes, found.note) == (n, count, sizes, "")


@pytest.mark.parametrize("compiled", [True, False])
def test_last_batch_of_one_image_is_dropped_if_batch_norm_fails_on_it(compiled):
    net = mlp(batch_norm=True, device=Device(compile=compiled))
    found = EpochBatches.of(net, 33, 32)
    assert (found.images, found.count, found.sizes) == (32, 1, {32})
    assert "leaves its last, single image out" in found.note
    got = list(batches(numbered(33), 32, epoch_order(33, seed=0, epoch=1)[: found.images]))
    assert [len(t) for _, t in got] == [32]
    assert EpochBatches.of(net, 34, 32) == EpochBatches(34, 32)
    for images, size in ((33, 1), (1, 32)):
        with refused(f"trainer.batch_size={size}", f"{images} images", "layer 2 (BatchNormalization)", "(1, 3)"):
            EpochBatches.of(net, images, size)


def test_last_batch_of_one_image_with_large_maps_is_trained_on_and_reported():
    net = build("simple_convnet", input_shape=(1, 8, 8), width=4, batch_norm=True)
    for images, size, which in ((33, 32, "the last batch of an epoch"), (33, 1, "each batch"), (1, 32, "each batch")):
        found = EpochBatches.of(net, images, size)
        assert (found.images, found.note.startswith(f"batch norm: {which} is a single image")) == (images, True)


def test_without_an_order_batches_are_views_of_the_split():
    split = numbered(10)
    got = list(batches(split, 4))
    np.testing.assert_array_equal(np.concatenate([t for _, t in got]), split.t)
    assert all(np.shares_memory(x, split.x) for x, _ in got)


def test_an_order_can_be_rebuilt_and_differs_between_epochs_and_seeds():
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    np.testing.assert_array_equal(epoch_order(50, 2, 7), epoch_order(50, 2, 7))
    assert (epoch_order(50, 3, 0) != np.random.default_rng(3).permutation(50)).any()

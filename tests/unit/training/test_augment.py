"""Augmentation and mixup: what happens to the pixels, and that it depends on seed, epoch and image only."""

from dataclasses import replace

import numpy as np
import pytest
from support.assertions import refused
from support.fake_device import FakeArray, FakeBackend, install

from nl_training.data import Dataset, Normalization, PixelFormat, Split
from nl_training.data.augment import AUGMENTATIONS, Augmentation, augmentations, background
from nl_training.data.mixup import mixup

install()
RNG = np.random.default_rng(3)


def dataset(c: int = 3, h: int = 32, w: int = 32, images: int = 300) -> Dataset:
    x, t = RNG.standard_normal((images, c, h, w)).astype(np.float32), RNG.integers(0, 4, images)
    scale = Normalization((64.0, 32.0, 16.0)[:c], (128.0, 64.0, 16.0)[:c])
    return Dataset("few", Split(x, t), None, Split(x[:5], t[:5]), tuple("abcd"), scale, "")


DATA = dataset()
BLACK = np.float32([-0.5, -0.5, -1.0])
ALL = np.arange(len(DATA.train))


def windows(image: np.ndarray, down: int, right: int) -> dict[bytes, tuple[int, int, bool]]:
    """Return every crop of an image with a black border, and whether it is flipped."""
    c, h, w = image.shape
    padded = np.empty((c, h + 2 * down, w + 2 * right), image.dtype)
    padded[...] = BLACK[:c, None, None]
    padded[:, down : down + h, right : right + w] = image
    found = {}
    for y in range(2 * down + 1):
        for x in range(2 * right + 1):
            window = padded[:, y : y + h, x : x + w]
            found |= {window.tobytes(): (y, x, False), window[:, :, ::-1].tobytes(): (y, x, True)}
    return found


@pytest.mark.parametrize(
    ("name", "size", "down", "right", "flips"),
    [
        ("shift", (28, 28), 2, 2, [False]),
        ("shift", (8, 30), 1, 2, [False]),
        ("crop_flip", (32, 32), 4, 4, [False, True]),
        ("crop_flip", (9, 24), 1, 3, [False, True]),
    ],
)
def test_images_are_moved_and_flipped_evenly(name: str, size, down: int, right: int, flips: list[bool]) -> None:
    data = dataset(3, *size)
    x = data.train.x.copy()
    changed = Augmentation((name,), data, 5)(data.train.x, ALL, 1)
    np.testing.assert_array_equal(data.train.x, x)
    assert changed.dtype == np.float32
    found = [windows(before, down, right)[after.tobytes()] for before, after in zip(x, changed, strict=True)]
    rows, columns, flipped = (sorted(set(values)) for values in zip(*found, strict=True))
    assert (rows, columns, flipped) == (list(range(2 * down + 1)), list(range(2 * right + 1)), flips)
    counts = np.bincount([y for y, _, _ in found]) / len(found)
    assert abs(counts - 1 / (2 * down + 1)).max() < 0.1


def test_cutout_zeroes_a_square_that_may_reach_beyond_the_edges() -> None:
    changed = Augmentation(("cutout",), DATA, 5)(DATA.train.x, ALL, 1)
    cut = (changed == 0).all(axis=1)
    np.testing.assert_array_equal(np.where(cut[:, None], 0, DATA.train.x), changed)
    places = set()
    for mask in cut:
        ys, xs = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        assert mask.sum() == len(ys) * len(xs)
        assert all(np.array_equal(line, np.arange(line[0], line[-1] + 1)) for line in (ys, xs))
        for line in (ys, xs):
            assert len(line) == 16 or (8 <= len(line) < 16 and (line[0] == 0 or line[-1] == 31))
        places.add((ys[0], xs[0]))
    assert len(places) > 100


@pytest.mark.parametrize("names", [("shift",), ("crop_flip", "cutout")])
def test_an_image_is_changed_alike_in_every_batch(names: tuple[str, ...]) -> None:
    whole = Augmentation(names, DATA, 5)(DATA.train.x, ALL, 2)
    order = RNG.permutation(len(ALL))
    augment = Augmentation(names, DATA, 5)
    for size in (7, 128):
        for start in range(0, len(order), size):
            index = order[start : start + size]
            np.testing.assert_array_equal(augment(DATA.train.x[index], index, 2), whole[index])
    for other in (Augmentation(names, DATA, 6)(DATA.train.x, ALL, 2), augment(DATA.train.x, ALL, 1)):
        same = (other == whole).all(axis=(1, 2, 3)).mean()
        assert same < 0.1


def test_augmentations_of_one_batch_are_independent() -> None:
    crops = Augmentation(("crop_flip",), DATA, 5)._bits(1)[0]
    cuts = Augmentation(("cutout",), DATA, 5)._bits(1)[0]
    assert abs(np.corrcoef(crops[:, 0], cuts[:, 0])[0, 1]) < 0.2


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_images_on_a_device_are_changed_there(name: str) -> None:
    augment, index = Augmentation((name,), DATA, 5), ALL[10:20]
    found = augment(FakeBackend().array(DATA.train.x[index]), index, 1)
    assert isinstance(found, FakeArray)
    np.testing.assert_array_equal(found._data, augment(DATA.train.x[index], index, 1))


def test_the_border_is_the_datas_background() -> None:
    np.testing.assert_array_equal(background(DATA)[:, 0, 0], BLACK)
    light = replace(DATA, pixels=PixelFormat(3, (32, 32), (-1.0, 255.0), "light"))
    np.testing.assert_allclose(background(light)[:, 0, 0], [(255 - 64) / 128, (255 - 32) / 64, (255 - 16) / 16])
    dark = replace(DATA, pixels=PixelFormat(3, (32, 32), (-64.0, 255.0), "dark"))
    np.testing.assert_allclose(background(dark)[:, 0, 0], [-1, -1.5, -5])


def test_auto_depends_on_the_channels() -> None:
    assert [augmentations("auto", c) for c in (1, 3)] == [("shift",), ("crop_flip",)]
    assert augmentations(["auto", "cutout"], 1) == ("shift", "cutout")
    assert augmentations("cutout", 3) == ("cutout",)
    assert augmentations(None, 3) == ()


def test_unknown_augmentation_is_refused() -> None:
    with refused("augment=crop", "did you mean crop_flip?"):
        Augmentation(("crop",), DATA, 0)


def test_an_augmentation_given_twice_is_refused() -> None:
    with refused("augment has crop_flip twice, perhaps as auto: name each once"):
        Augmentation(augmentations(["auto", "cutout", "crop_flip"], 3), DATA, 0)


@pytest.mark.parametrize("wrong", [3, 0, True, [3], [["shift"]], {"shift"}])
def test_augmentations_that_are_no_names_are_refused(wrong) -> None:
    with refused("augment=", "must be a name or a list of names: auto, shift"):
        augmentations(wrong, 1)


@pytest.mark.parametrize("classes", [4, 1])
def test_mixup_mixes_images_and_labels_of_the_same_pairs(classes: int) -> None:
    x, t = np.eye(40, dtype=np.float32).reshape(40, 1, 5, 8), RNG.integers(0, max(classes, 2), 40)
    mixed, rows = mixup(x, t, 0.4, classes, seed=3, epoch=2, step=1)
    weights = mixed.reshape(40, 40)  # row n has the share of each image in mixed image n
    share = weights.diagonal().min()
    assert 0 < share < 1
    np.testing.assert_allclose(weights.sum(0), 1, rtol=1e-6)  # each image is mixed into one
    others = weights - share * np.eye(40)
    np.testing.assert_allclose(np.sort(others.ravel())[-40:], 1 - share, rtol=1e-5)
    own = np.eye(classes)[t] if classes > 1 else t[:, None]
    np.testing.assert_allclose(rows, weights @ own, rtol=1e-5, atol=1e-7)
    assert rows.dtype == np.float32


def test_mixup_of_integer_images_mixes_labels_in_fractions() -> None:
    x, t = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), np.arange(6) % 3
    found, expected = (mixup(images, t, 0.4, 3, seed=0, epoch=1, step=0) for images in (x, x.astype("float64")))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(found[1].sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize(("classes", "label"), [(4, 4), (4, -1), (1, 2)])
def test_mixup_refuses_labels_of_other_classes(classes: int, label: int) -> None:
    with refused("mixup", label):
        mixup(np.ones((2, 1, 2, 2)), np.array([0, label]), 0.4, classes, seed=0, epoch=1, step=0)


def test_mixup_depends_on_seed_epoch_and_step() -> None:
    x, t = DATA.train.x[:8], DATA.train.t[:8]
    results = [mixup(x, t, 0.4, 4, *given)[0] for given in ((3, 2, 1), (3, 2, 1), (4, 2, 1), (3, 3, 1), (3, 2, 2))]
    np.testing.assert_array_equal(results[0], results[1])
    assert all(not np.array_equal(results[0], other) for other in results[2:])
    on_device, rows = mixup(FakeBackend().array(x), t, 0.4, 4, 3, 2, 1)
    np.testing.assert_array_equal(on_device._data, results[0])
    assert isinstance(rows, np.ndarray)


def test_shares_are_of_the_beta_distribution() -> None:
    # With two images the first label's share is s, or 1 where it is paired with itself.
    x, t = np.zeros((2, 1, 1, 1)), np.array([0, 1])
    shares = [mixup(x, t, 2.0, 2, 0, 1, step)[1][0, 0] for step in range(4000)]
    mixed = np.array([share for share in shares if share < 1])
    assert abs(mixed.mean() - 0.5) < 0.02
    assert abs(mixed.var() - 1 / 20) < 0.005  # of Beta(2, 2)

"""Users' image files: transparent, rotated, of other bit depths, of mixed sizes, in nested and split folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.assertions import refused

from nl_training.config.cli import check
from nl_training.data import Normalization, PixelFormat, RunData, load, load_test, read_image
from nl_training.data.catalog import read_source
from nl_training.data.pixels import value_range

# A stroke on the left, so that a rotated or mirrored image differs.
STROKE = np.zeros((12, 8), np.uint8)
STROKE[2:10, 1:3] = 255
STROKE[2:4, 1:6] = 255


def save(path: Path, image: Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def ink(value: int, mode: str = "RGBA") -> Image.Image:
    """Return the stroke in a uniform grey on a transparent background."""
    return Image.merge(mode, [Image.new("L", (8, 12), value)] * (len(mode) - 1) + [Image.fromarray(STROKE)])


def transparent_palette(value: int) -> Image.Image:
    image = Image.fromarray((STROKE > 127).astype(np.uint8)).convert("P")
    image.putpalette([value] * 6)
    return image


TRANSPARENT = {
    "rgba.png": (ink, {}),
    "rgba.webp": (ink, {"lossless": True}),
    "rgba.tif": (ink, {}),
    "la.png": (lambda value: ink(value, "LA"), {}),
    "palette.png": (transparent_palette, {"transparency": 0}),
    "palette.gif": (transparent_palette, {"transparency": 0}),
}


@pytest.mark.parametrize(("value", "ground"), [(0, 255), (255, 0), (40, 255), (200, 0)])
@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_image_gets_a_contrasting_background(tmp_path: Path, name, value, ground):
    make, options = TRANSPARENT[name]
    pixels = read_image(save(tmp_path / name, make(value), **options), (1, 12, 8))[0]
    np.testing.assert_array_equal(pixels, np.where(STROKE > 0, value, ground))


def test_palette_transparency_is_respected(tmp_path: Path):
    grey = save(tmp_path / "grey.png", Image.fromarray(STROKE), transparency=0)
    assert set(np.unique(read_image(grey))) == {0, 255}  # the light stroke on black
    colour = save(tmp_path / "colour.png", Image.fromarray(STROKE).convert("RGB"), transparency=(255, 255, 255))
    np.testing.assert_array_equal(read_image(colour)[0], np.where(STROKE > 0, 255, 0))


def test_opaque_image_keeps_its_background(tmp_path: Path):
    opaque = Image.fromarray(STROKE).convert("RGBA")
    assert read_image(save(tmp_path / "p.png", opaque))[0, 0, 0] == 0
    unused = save(tmp_path / "q.gif", Image.fromarray(STROKE).convert("P"), transparency=77)
    np.testing.assert_array_equal(read_image(unused)[0], STROKE)


def test_predicted_image_uses_the_runs_background_if_visible(tmp_path: Path):
    grey, black = save(tmp_path / "grey.png", ink(100)), save(tmp_path / "black.png", ink(0))
    assert read_image(grey, (1, 12, 8), matte=0)[0, 0, 0] == 0
    assert read_image(black, (1, 12, 8), matte=0)[0, 0, 0] == 255


MODES = {
    "1": Image.fromarray(STROKE).convert("1"),
    "16 bits": Image.fromarray(STROKE.astype(np.uint16) * 257),
    "cmyk": Image.fromarray(255 - STROKE).convert("RGB").convert("CMYK"),
}


@pytest.mark.parametrize("name", ["1.png", "1.tif", "16 bits.png", "16 bits.tif", "cmyk.jpg", "cmyk.tif"])
def test_other_bit_depths_and_modes(tmp_path: Path, name):
    mode, _, suffix = name.partition(".")
    expected = 255 - STROKE if mode == "cmyk" else STROKE
    pixels = read_image(save(tmp_path / name, MODES[mode]), (1, 12, 8))[0]
    np.testing.assert_allclose(pixels, expected, atol=60 if suffix == "jpg" else 0)


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_applied(tmp_path: Path, orientation, suffix):
    upright = Image.fromarray(STROKE).resize((64, 96), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x112] = orientation
    path = save(tmp_path / f"p.{suffix}", upright.transpose(TURNS[orientation]), exif=exif)
    assert np.abs(read_image(path)[0].astype(int) - np.asarray(upright)).mean() < 5


def folder(root: Path, classes: str = "ab", n: int = 6, suffix: str = ".png", image: Image.Image | None = None) -> Path:
    for label, name in enumerate(classes):
        for i in range(n):
            own = Image.fromarray(np.where(STROKE > 0, 255 - i, label).astype(np.uint8))
            save(root / name / f"{i}{suffix}", image or own)
    return root


def count(root: Path, **options) -> int:
    data = load("images", root=str(root), **options)
    return sum(len(part) for part in (data.train, data.validation, data.test) if part is not None)


def test_all_pillow_formats_and_nested_folders_are_read(tmp_path: Path, caplog):
    root = folder(tmp_path / "pets")
    folder(root / "a", ["more"])
    folder(root / "a" / "more", ["deep"], suffix=".JFIF")
    folder(root, "b", 10, ".tif")
    assert count(root) == 12 + 6 + 6 + 10
    assert caplog.text == ""


def test_skipped_files_are_counted_in_one_line(tmp_path: Path, caplog):
    root = folder(tmp_path / "pets")
    for name in ("list.csv", "a/notes.txt", "b/scan.pdf", "b/raw.heic"):
        (root / name).write_text("no picture")
    save(root / "lone.png", Image.fromarray(STROKE))
    for name in (".hidden", "a/._0.png", "a/.cache/x.png", "__MACOSX/a/._0.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("no picture")
    assert count(root) == 12
    (record,) = caplog.records
    message = record.getMessage()
    assert "5 files skipped" in message
    assert "a/notes.txt" in message
    assert "hidden" not in message
    assert "\n" not in message


def test_mixed_sizes_are_resized_or_refused_with_a_hint(tmp_path: Path):
    root = folder(tmp_path / "pets")
    other = save(root / "b" / "7.png", Image.fromarray(STROKE).resize((30, 20)))
    with refused(other, "30x20", "data.size=[12,8]"):
        load("images", root=str(root))
    data = load("images", root=str(root), size=(10, 9))
    assert data.input_shape == (1, 10, 9)
    assert data.pixels.size == (10, 9)


def test_option_size_is_two_numbers_and_for_images_only():
    assert check(["data=images", "data.size=[28,20]"], multirun=False).data.size == (28, 20)
    assert check(["data=images"], multirun=False).data.size is None
    for value in ("[28]", "[28,28,3]", "28", "[0,28]"):
        with refused("data.size", "a list of 2 numbers"):
            check(["data=images", f"data.size={value}"], multirun=False)
    with refused("data.size"):
        check(["data=mnist5k", "data.size=[28,28]"], multirun=False)


@pytest.mark.parametrize("names", [("train", "test", "val"), ("Training", "Testing", "Validation")])
def test_root_with_split_folders_is_used_as_is(tmp_path: Path, names, caplog):
    for name, n in zip(names, (5, 4, 3), strict=True):
        folder(tmp_path / "split" / name, n=n)
    data = load("images", root=str(tmp_path / "split"))
    assert data.classes == ("a", "b")
    assert [np.bincount(part.t).tolist() for part in (data.train, data.test, data.validation)] == [
        [5, 5],
        [4, 4],
        [3, 3],
    ]
    assert caplog.text == ""
    assert load("images", root=str(tmp_path / "split"), validation=0).validation is None
    assert "6 validation images are left out" in caplog.text


def test_without_val_folder_validation_images_come_from_train(tmp_path: Path):
    folder(tmp_path / "split" / "train", n=10)
    folder(tmp_path / "split" / "test", n=4)
    data = load("images", root=str(tmp_path / "split"), validation=0.2)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [16, 4, 8]


def test_a_split_root_needs_train_and_test(tmp_path: Path):
    root = tmp_path / "split"
    folder(root / "train")
    folder(root / "val")
    with refused(root, "train/, val/", "no test/"):
        load("images", root=str(root))


def test_classes_named_train_and_others_are_classes(tmp_path: Path):
    assert load("images", root=str(folder(tmp_path, ["bus", "train"]))).classes == ("bus", "train")


@pytest.mark.parametrize("extra", ["unlabeled", "training"])
def test_a_folder_beside_those_of_the_splits_is_refused(tmp_path: Path, extra: str):
    for name in ("train", "test", extra):
        folder(tmp_path / name)
    with refused("train/, test/ and train", "move") if extra == "training" else refused("test/ and unlabeled/", "move"):
        load("images", root=str(tmp_path))


def test_grey_images_are_converted_to_black_and_white_with_a_warning(tmp_path: Path, caplog):
    x, t = np.full((6, 1, 8, 8), 140, np.uint8), np.arange(6) % 2
    x[:, :, :2] = 0
    np.savez(tmp_path / "grey.npz", x_train=x, t_train=t, x_test=x, t_test=t)
    ink = PixelFormat(1, (8, 8), binary=True)
    scale = Normalization.scaling(255, 1)
    test, _ = load_test("images", str(tmp_path / "grey.npz"), ink, scale, RunData("", None), own=False)
    assert set(np.unique(test.x)) == {0, 1}
    assert "pixels 0 to 255, light background; it is converted to the run's 1x8x8, black and white" in caplog.text


def test_class_without_training_images_is_reported(tmp_path: Path, caplog):
    folder(tmp_path / "split" / "train")
    folder(tmp_path / "split" / "test", "abc")
    assert load("images", root=str(tmp_path / "split")).classes == ("a", "b", "c")
    assert "no training image is of class c" in caplog.text
    caplog.clear()
    x, t = np.stack([STROKE] * 12), np.arange(12) % 3
    np.savez(tmp_path / "a.npz", x_train=x[t < 2], t_train=t[t < 2], x_test=x, t_test=t)
    load("images", root=str(tmp_path / "a.npz"))
    assert "no training image is of class 2" in caplog.text


def test_data_set_has_one_background(tmp_path: Path):
    """Most strokes are black; the one grey stroke would get a black background if it were alone."""
    root = folder(tmp_path / "ink", image=ink(0))
    save(root / "a" / "grey.png", ink(150))
    source = read_source("images", str(root))
    x = np.concatenate([source.train.x, source.test.x])
    assert (x[:, :, 0, 0] == 255).all()
    assert {int(image.min()) for image in x} == {0, 150}
    assert (source.pixels.matte, source.pixels.ground) == (255, "light")
    hidden = save(root / "a" / "white.png", ink(255))
    with refused(hidden, "ground"):
        load("images", root=str(root))


def npz(tmp_path: Path, **arrays) -> str:
    np.savez(tmp_path / "a.npz", **arrays)
    return str(tmp_path / "a.npz")


RNG = np.random.default_rng(0)
T = np.arange(30) % 3


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_are_recognised(tmp_path: Path, channels):
    x = RNG.integers(0, 256, (30, 6, 5, channels), dtype=np.uint8)
    source = read_source("images", npz(tmp_path, x=x, t=T))
    assert source.train.x.shape[1:] == (channels, 6, 5)
    first = read_source("images", npz(tmp_path, x=x.transpose(0, 3, 1, 2), t=T))
    np.testing.assert_array_equal(source.train.x, first.train.x)


@pytest.mark.parametrize("shape", [(3, 6, 3), (1, 6, 1), (3, 6, 1), (2, 2, 3), (28, 28, 4), (28, 28, 2)])
def test_ambiguous_channel_axis_is_refused(tmp_path: Path, shape):
    with refused("x in", (30, *shape), "first or last"):
        load("images", root=npz(tmp_path, x=np.zeros((30, *shape), np.uint8), t=T))


def test_arrays_are_resized_too(tmp_path: Path):
    x = RNG.random((30, 1, 8, 8), dtype=np.float32)
    source = read_source("images", npz(tmp_path, x=x, t=T), size=(4, 6))
    assert source.train.x.shape[1:] == (1, 4, 6)
    assert source.range == (0, 1)


def test_splits_with_different_value_ranges_are_refused(tmp_path: Path):
    x = RNG.integers(0, 256, (30, 6, 5)).astype(np.float32)
    with refused("0 to 1 in x_train", "0 to 255 in x_test"):
        load("images", root=npz(tmp_path, x_train=x / 255, t_train=T, x_test=x, t_test=T))


RAMP = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)
RANGES = {
    "8 bits": ((RAMP * 255).astype(np.uint8), (0, 255)),
    "8 bits, dark": ((RAMP * 100).astype(np.uint8), (0, 255)),
    "floats": (RAMP, (0, 1)),
    "floats, not bright": (RAMP * 0.4, (0, 1)),
    "around 0": (RAMP * 2 - 1, (-1, 1)),
    "half around 0": (RAMP - 0.5, (-0.5, 0.5)),
    "bool": (RAMP > 0.5, (0, 1)),
    "16 bits": (RAMP * 60000, (0, 65535)),
    "12 bits": (RAMP * 4095, (0, 4095)),
    "17 greys": (RAMP * 16, (0, 16)),
    "standardised": (RAMP * 4 - 0.5, (-0.5, 3.5)),
    "even": (RAMP * 0 + 7, (7, 8)),
}


@pytest.mark.parametrize(("x", "expected"), RANGES.values(), ids=RANGES)
def test_value_range_of_an_array(x, expected):
    assert value_range(x) == pytest.approx(expected)


DIGIT = np.where(STROKE > 0, 255, 0).astype(np.uint8)[None, None]


@pytest.mark.parametrize(("bounds", "shown"), [((0, 1), (0, 1)), ((-1, 1), (-1, 1)), ((0, 255), (0, 255))])
def test_images_are_converted_to_a_format(bounds, shown):
    low, high = shown
    of = PixelFormat.of(low + DIGIT / 255 * (high - low), bounds)
    assert of == PixelFormat(1, (12, 8), bounds, "dark", None, binary=True)
    colours = np.repeat(DIGIT, 3, axis=1)
    for x, range_ in ((DIGIT, (0, 255)), (colours, (0, 255)), (DIGIT / 255, (0, 1)), (DIGIT * 0.5, (0, 127.5))):
        np.testing.assert_allclose(of.adapt(x, range_), low + DIGIT / 255 * (high - low), atol=1e-5)
    assert of.adapt(RNG.random((2, 3, 24, 16)), (0, 1)).shape == (2, 1, 12, 8)
    with refused("4 channels"):
        of.adapt(np.zeros((1, 4, 12, 8)), (0, 1))


def test_matching_images_are_unchanged():
    x = RNG.integers(0, 256, (3, 1, 12, 8), dtype=np.uint8)
    assert PixelFormat.of(x, (0, 255)).adapt(x, (0, 255)) is x


def test_inverted_images_are_reported():
    dark = PixelFormat.of(DIGIT, (0, 255))
    paper = (160 - DIGIT * 0.4).astype(np.uint8)  # grey paper, black ink
    even = np.full_like(DIGIT, 200)
    assert dark.inverted(np.concatenate([DIGIT, 255 - DIGIT, paper, even])).tolist() == [False, True, True, False]
    assert not PixelFormat(1, (12, 8)).inverted(255 - DIGIT).any()
    np.testing.assert_array_equal(
        dark.adapt(np.concatenate([DIGIT, 255 - DIGIT]), (0, 255), np.array([False, True])),
        np.concatenate([DIGIT, DIGIT]),
    )


def test_without_normalization_non_negative_pixels_are_scaled_to_one(tmp_path: Path):
    x = RNG.integers(0, 256, (30, 6, 5)).astype(np.float32)
    for scale in (1, 1 / 255, 16 / 255):
        data = load("images", root=npz(tmp_path, x=x * scale, t=T), normalize=False)
        np.testing.assert_allclose([data.train.x.min(), data.train.x.max()], [0, 1], atol=0.02)

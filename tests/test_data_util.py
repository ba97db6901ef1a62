import json

import imageio.v3 as iio
import numpy as np
import pytest
import scenes
from PIL import Image

import data_util
import util

SIDES = [None, 16, 20, 64]  # of the parity fixtures; 64 enlarges


def load_published(parity, loader, name, side):
    return parity.load("image_io")[f"{loader}/{name}/{side}"]


# Images


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["rgba_40x28", "rgba_33x47"])
def test_rgba_images_are_cropped_whitened_and_averaged_as_published(parity, name, side):
    image, _ = scenes.composed_image(parity.folder / "files" / f"{name}.png", side)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image.transpose(2, 0, 1), load_published(parity, "semantic", name, side), rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", SIDES)
def test_rgb_images_are_read_as_by_the_published_vanilla_code_and_are_opaque(parity, side):
    image, _ = scenes.composed_image(parity.folder / "files" / "rgb_30x30.png", side)
    published = load_published(parity, "vanilla", "rgb_30x30", side)
    np.testing.assert_allclose(image[..., :3].transpose(2, 0, 1), published, rtol=0, atol=1e-6)
    np.testing.assert_allclose(image[..., 3], 1, atol=1e-6)


def test_only_transparent_pixels_differ_from_the_published_vanilla_code(parity):
    """It drops alpha, so transparent pixels keep their stored colour."""
    image, covered = scenes.composed_image(parity.folder / "files" / "rgba_40x28.png")
    published = load_published(parity, "vanilla", "rgba_40x28", None).transpose(1, 2, 0)
    np.testing.assert_allclose(image[covered][:, :3], published[covered], rtol=0, atol=1e-6)
    assert (image[~covered] == 1).all() and (published[~covered] < 1).any()


def write_png(path, pixels):
    iio.imwrite(path, np.asarray(pixels, dtype=np.uint8))
    return path


RED, HALF_BLUE, HIDDEN_GREEN, OPAQUE_WHITE = ((255, 0, 0, 255), (0, 0, 255, 51), (0, 255, 0, 0), (255, 255, 255, 255))


@pytest.fixture
def four_pixels(tmp_path):
    return write_png(tmp_path / "four.png", [[RED, HALF_BLUE], [HIDDEN_GREEN, OPAQUE_WHITE]])


def test_transparent_pixels_are_white_and_half_transparent_ones_are_taken_as_they_are(four_pixels):
    image, covered = scenes.composed_image(four_pixels)
    expected = [[(1, -1, -1, 1), (-1, -1, 1, -0.6)], [(1, 1, 1, 1), (1, 1, 1, 1)]]
    np.testing.assert_allclose(image, expected, atol=1e-6)
    assert covered.tolist() == [[True, True], [False, True]]


def test_blend_alpha_composites_over_white(four_pixels):
    image, _ = scenes.composed_image(four_pixels, blend_alpha=True)
    expected = [[(1, -1, -1, 1), (0.6, 0.6, 1, 1)], [(1, 1, 1, 1), (1, 1, 1, 1)]]
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_pixels_become_white_before_they_are_averaged(four_pixels):
    image, covered = scenes.composed_image(four_pixels, 1, blend_alpha=True)
    np.testing.assert_allclose(image[0, 0], [(1 + 0.6 + 1 + 1) / 4, (-1 + 0.6 + 1 + 1) / 4, 0.5, 1], atol=1e-6)
    assert covered.tolist() == [[True]]  # partly covered


def test_without_transparency_what_is_not_white_is_foreground(tmp_path):
    path = write_png(tmp_path / "rgb.png", [[(255, 255, 255), (255, 254, 255)], [(0, 0, 0), (255, 255, 255)]])
    assert scenes.composed_image(path)[1].tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("channels", [1, 2])
def test_grey_images_have_three_equal_colours(tmp_path, channels):
    grey = np.array([[0, 51], [102, 255]])
    pixels = grey if channels == 1 else np.dstack([grey, np.full_like(grey, 255)])
    image, _ = scenes.composed_image(write_png(tmp_path / "grey.png", pixels))
    expected = np.array([[-1, -0.6], [-0.2, 1]])
    np.testing.assert_allclose(image, np.dstack([expected] * 3 + [np.ones((2, 2))]), atol=1e-6)


@pytest.mark.parametrize("height, width", [(5, 9), (9, 5), (7, 7)])
def test_the_crop_is_central_and_its_side_even(height, width):
    top, left, side = data_util.square_crop(height, width)
    assert side == min(height, width) // 2 * 2
    for start, length in ((top, height), (left, width)):
        assert start >= 0 and abs(start - (length - start - side)) <= 1


def truncated(path):
    write_png(path, np.random.default_rng(0).integers(256, size=(32, 32, 4)))
    path.write_bytes(path.read_bytes()[:-200])


def spoilt(path):
    write_png(path, np.random.default_rng(0).integers(256, size=(32, 32, 4)))
    content = path.read_bytes()
    path.write_bytes(content[:600] + b"spoilt" + content[606:])


BAD_IMAGES = {
    "truncated": truncated,
    "text": lambda path: path.write_text("no picture"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "spoilt in the middle": spoilt,
    "16-bit": lambda path: iio.imwrite(path, np.full((4, 4), 40_000, dtype=np.uint16)),
    "one pixel": lambda path: write_png(path, np.zeros((1, 1, 3))),
}


@pytest.mark.parametrize("fault", BAD_IMAGES)
def test_an_image_that_cannot_be_used_is_named(tmp_path, fault):
    path = tmp_path / "broken.png"
    BAD_IMAGES[fault](path)
    with pytest.raises(util.InputError, match="broken.png") as error:
        data_util.load_image(path, 8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("blend_alpha", [False, True])
def test_single_pixels_are_composed_as_in_the_whole_image(tmp_path, blend_alpha):
    """Bit for bit, for every alpha, since random rays are composed without the rest of the image."""
    pixels = np.random.default_rng(0).integers(256, size=(32, 32, 4), dtype=np.uint8)
    pixels[..., 3] = np.arange(1024).reshape(32, 32) % 256
    image, covered = scenes.composed_image(write_png(tmp_path / "rgba.png", pixels), blend_alpha=blend_alpha)
    rgba = data_util.decode_image(tmp_path / "rgba.png")
    np.testing.assert_array_equal(rgba, pixels)
    np.testing.assert_array_equal(data_util.find_foreground(rgba), covered)
    for chosen in ([5], np.random.default_rng(1).integers(1024, size=77)):
        composed = data_util.compose(rgba.reshape(-1, 4)[chosen], blend_alpha)
        assert composed.dtype == np.float32
        np.testing.assert_array_equal(composed, image.reshape(-1, 4)[chosen])


def test_a_palette_is_applied(tmp_path):
    colours = Image.fromarray(np.array([[(255, 0, 0), (0, 0, 255)]] * 2, dtype=np.uint8))
    colours.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    assert data_util.decode_image(tmp_path / "palette.png")[0].tolist() == [[255, 0, 0, 255], [0, 0, 255, 255]]


def test_an_image_of_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(np.eye(2, dtype=bool)).save(tmp_path / "bits.png")
    assert data_util.decode_image(tmp_path / "bits.png").tolist()[0] == [[255] * 4, [0, 0, 0, 255]]


def test_the_transparent_colour_of_a_palette_is_transparent(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:6, 2:6] = (200, 30, 60, 255)
    Image.fromarray(pixels).quantize(8, method=Image.Quantize.FASTOCTREE).save(tmp_path / "small.png")
    with Image.open(tmp_path / "small.png") as image:
        assert image.mode == "P"
    np.testing.assert_array_equal(data_util.decode_image(tmp_path / "small.png")[..., 3], pixels[..., 3])


# Label maps


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["seg_40x28", "seg_33x47"])
def test_label_maps_are_those_of_the_published_code(parity, name, side):
    seg_labels = data_util.load_seg_labels(parity.folder / "files" / f"{name}.npy", side)
    assert seg_labels.dtype == np.int64
    np.testing.assert_array_equal(seg_labels, load_published(parity, "seg", name, side))


def test_pixel_center_aligns_label_maps_with_the_averaged_image(tmp_path):
    np.save(tmp_path / "labels.npy", np.arange(16).reshape(4, 4))
    corner = data_util.load_seg_labels(tmp_path / "labels.npy", 2, pixel_center=0.0)
    centre = data_util.load_seg_labels(tmp_path / "labels.npy", 2, pixel_center=0.5)
    assert corner.tolist() == [[0, 2], [8, 10]]
    assert centre.tolist() == [[5, 7], [13, 15]]
    enlarged = data_util.load_seg_labels(tmp_path / "labels.npy", 8, pixel_center=0.5)
    assert (enlarged == np.arange(16).reshape(4, 4).repeat(2, 0).repeat(2, 1)).all()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint32, np.int16, np.int64])
def test_label_maps_of_every_integer_type_can_be_read_with_a_channel_axis_too(tmp_path, dtype):
    np.save(tmp_path / "labels.npy", np.array([[0, 1], [1, 0]], dtype=dtype)[..., None])
    assert data_util.load_seg_labels(tmp_path / "labels.npy", 4).tolist()[0] == [0, 0, 1, 1]


def test_unlabelled_pixels_keep_their_mark(tmp_path):
    np.save(tmp_path / "labels.npy", np.array([[-1, 1], [1, 0]]))
    assert data_util.load_seg_labels(tmp_path / "labels.npy").tolist() == [[-1, 1], [1, 0]]


BAD_LABELS = {
    "floats": lambda path: np.save(path, np.zeros((4, 4))),
    "one row": lambda path: np.save(path, np.zeros(4, dtype=int)),
    "three channels": lambda path: np.save(path, np.zeros((4, 4, 3), dtype=int)),
    "text": lambda path: path.write_text("0 1 2"),
    "empty": lambda path: path.write_bytes(b""),
    "pickle": lambda path: np.save(path, np.array([[{}]])),
    "missing": lambda path: None,
    "one pixel": lambda path: np.save(path, np.zeros((1, 1), dtype=int)),
    "no pixel": lambda path: np.save(path, np.zeros((0, 0), dtype=int)),
    "several arrays": lambda path: np.savez(path.open("wb"), np.zeros((4, 4), dtype=int)),
}


@pytest.mark.parametrize("fault", BAD_LABELS)
def test_a_label_map_that_cannot_be_used_is_named(tmp_path, fault):
    path = tmp_path / "broken.npy"
    BAD_LABELS[fault](path)
    with pytest.raises(util.InputError, match="broken.npy"):
        data_util.load_seg_labels(path)


# Labelled point clouds


def write_cloud(folder, points, labels, labels_name=data_util.CLOUD_LABELS[0]):
    """Write the files of an instance's cloud from texts; None omits a file."""
    (folder / "point_cloud").mkdir(parents=True)
    if points is not None:
        (folder / data_util.CLOUD_POINTS).write_text(points)
    if labels is not None:
        (folder / labels_name).write_text(labels)
    return folder


LINE = " 0 0 1 10 20 30 255\n"  # normal, colour, alpha
POINTS = f"0.5 -1 2e-1{LINE}1 2\t3 {LINE}"


def test_a_labelled_cloud_is_read(tmp_path):
    cloud = data_util.load_labelled_cloud(write_cloud(tmp_path, POINTS, "3\n-1\n"), 4)
    assert cloud.points.dtype == np.float32 and cloud.labels.dtype == np.int64
    np.testing.assert_allclose(cloud.points, [[0.5, -1, 0.2], [1, 2, 3]])
    assert cloud.labels.tolist() == [3, util.UNLABELLED]


@pytest.mark.parametrize("labels", [np.array([3, 0]), np.array([[3], [0]], np.uint8), np.array([3.0, 0.0])])
def test_labels_of_points_may_be_an_array(tmp_path, labels):
    write_cloud(tmp_path, POINTS, None)
    np.save(tmp_path / data_util.CLOUD_LABELS[1], labels)
    assert data_util.load_labelled_cloud(tmp_path, 4).labels.tolist() == [3, 0]


def test_a_cloud_may_have_any_number_of_points_and_bare_coordinates(tmp_path):
    one = write_cloud(tmp_path / "one", "1 2 3\n", "2\n")
    assert data_util.load_labelled_cloud(one, 3).points.tolist() == [[1, 2, 3]]
    many = write_cloud(tmp_path / "many", "1 2 3\n" * 12_345, "2\n" * 12_345)
    assert len(data_util.load_labelled_cloud(many, 3).points) == 12_345


def test_an_instance_without_labels_of_points_has_no_labelled_cloud(tmp_path):
    (tmp_path / "bare").mkdir()
    assert data_util.load_labelled_cloud(tmp_path / "bare", 3) is None
    assert data_util.load_labelled_cloud(write_cloud(tmp_path / "unlabelled", POINTS, None), 3) is None


@pytest.mark.parametrize(
    "points, labels, file, found",
    [
        (None, "0\n0\n", "pts-nor-rgba", "not found"),
        ("", "", "pts-nor-rgba", r"found a table of shape \(0, "),
        ("1 2\n3 4\n", "0\n0\n", "pts-nor-rgba", r"found a table of shape \(2, 2\)"),
        (POINTS.replace("2e-1", "nan"), "0\n0\n", "pts-nor-rgba", "three finite numbers"),
        (POINTS.replace("2e-1", "two"), "0\n0\n", "pts-nor-rgba", "two"),
        (POINTS[:-12], "0\n0\n", "pts-nor-rgba", "number of columns changed"),
        (POINTS, "0\n", "label", r"each of 2 points, found a table of shape \(1, 1\)"),
        (POINTS, "0 0\n", "label", r"each of 2 points, found a table of shape \(1, 2\)"),
        (POINTS, "", "label", r"each of 2 points, found a table of shape \(0, "),
        (POINTS, "0\n4\n", "label", "0 to 3, .* found 4"),
        (POINTS, "0\n-2\n", "label", "0 to 3, .* found -2"),
        (POINTS, "0\n1.5\n", "label", "0 to 3, .* found 1.5"),
        (POINTS, "0\nnan\n", "label", "0 to 3, .* found nan"),
        (POINTS, "seat\nback\n", "label", "seat"),
    ],
)
def test_a_cloud_that_cannot_be_used_is_named_with_what_was_found(tmp_path, points, labels, file, found):
    write_cloud(tmp_path, points, labels)
    expected = rf"point_cloud/sample-points-.*{file}.*{found}.*move .* away"
    with pytest.raises(util.InputError, match=expected) as error:
        data_util.load_labelled_cloud(tmp_path, 4)
    assert "\n" not in str(error.value)


def test_a_single_number_is_no_array_of_labels(tmp_path):
    write_cloud(tmp_path, POINTS, None)
    np.save(tmp_path / data_util.CLOUD_LABELS[1], np.array(2))
    with pytest.raises(util.InputError, match=r"label-10000.npy: .* found a table of shape \(\)"):
        data_util.load_labelled_cloud(tmp_path, 4)


@pytest.mark.parametrize("fault", ["text", "empty", "pickle"])
def test_an_array_of_labels_that_cannot_be_used_is_named(tmp_path, fault):
    write_cloud(tmp_path, POINTS, None)
    BAD_LABELS[fault](tmp_path / data_util.CLOUD_LABELS[1])
    with pytest.raises(util.InputError, match="label-10000.npy"):
        data_util.load_labelled_cloud(tmp_path, 4)


# Intrinsics and poses


def test_intrinsics_of_square_images_are_those_of_the_published_code(parity):
    rows = json.loads((parity.folder / "text_io.json").read_text())["intrinsics"]
    rows = [row for row in rows if "480x640" not in row["file"]]
    assert len(rows) == 15
    for row in rows:
        intrinsics = data_util.load_intrinsics(parity.folder / "files" / row["file"])
        assert intrinsics.poses_are_world2cam == row["world2cam"]
        published = np.array(row["matrix"])[:3, :3]
        np.testing.assert_allclose(intrinsics.matrix(row["sidelength"]), published, rtol=1e-6)


@pytest.mark.parametrize(
    "side, focal, cx, cy", [(None, 525, 239.5, 239.5), (480, 525, 239.5, 239.5), (48, 52.5, 23.95, 23.95)]
)
def test_intrinsics_of_wide_images_follow_the_crop(parity, side, focal, cx, cy):
    """640 - 480 = 160 columns are cropped, 80 of them on the left. The published code does not change cx and cy."""
    intrinsics = data_util.load_intrinsics(parity.folder / "files" / "intrinsics_wide_480x640.txt")
    np.testing.assert_allclose(intrinsics.matrix(side), [[focal, 0, cx], [0, focal, cy], [0, 0, 1]], rtol=1e-6)


def test_the_crop_moves_the_principal_point_as_it_moves_the_pixels(tmp_path):
    """A dot in a tall image is found where the cropped and shrunk camera sees the dot's ray."""
    pixels = np.zeros((40, 24, 3))
    pixels[26:28, 10:12] = 255
    image, _ = scenes.composed_image(write_png(tmp_path / "dot.png", pixels), 12)
    row, column = np.unravel_index(image[..., 0].argmax(), (12, 12))
    intrinsics = data_util.Intrinsics(focal=30, cx=12, cy=20, height=40, width=24)
    before, after = intrinsics.focal, intrinsics.matrix(12)
    assert (column + 0.5 - after[0, 2]) / after[0, 0] == pytest.approx((11 - 12) / before, abs=1e-6)
    assert (row + 0.5 - after[1, 2]) / after[1, 1] == pytest.approx((27 - 20) / before, abs=1e-6)


def test_poses_in_every_layout_are_those_of_the_published_code(parity):
    rows = json.loads((parity.folder / "text_io.json").read_text())["poses"]
    assert len(rows) == 6
    for row in rows:
        pose = scenes.load_pose(parity.folder / "files" / row["file"])
        assert pose.dtype == np.float32
        np.testing.assert_array_equal(pose, np.array(row["matrix"], dtype=np.float32), err_msg=row["file"])


@pytest.mark.parametrize("text", ["1\t0 0  0\n0 1 0 0\n\n0 0 1 5\n0 0 0 1\n\n", "1 0 0 0 0 1 0 0 0 0 1 5 0 0 0 1\n\n"])
def test_tabs_double_blanks_and_empty_lines_in_a_pose_are_accepted(tmp_path, text):
    (tmp_path / "pose.txt").write_text(text)
    expected = np.eye(4)
    expected[2, 3] = 5
    assert (scenes.load_pose(tmp_path / "pose.txt") == expected).all()


def test_world_to_camera_poses_are_inverted(parity):
    path = parity.folder / "files" / "pose_4x4.txt"
    product = scenes.load_pose(path) @ scenes.load_pose(path, is_world2cam=True)
    np.testing.assert_allclose(product, np.eye(4), atol=1e-6)


ROWS = "1 0 0 0\n0 1 0 0\n0 0 1 0\n"
BAD_POSES = {
    "nan": ROWS.replace("0 0 1 0", "0 0 1 nan") + "0 0 0 1",
    "infinite": ROWS.replace("0 0 1 0", "0 0 1 inf") + "0 0 0 1",
    "15 numbers": "1 0 0 0 0 1 0 0 0 0 1 5 0 0 0",
    "three lines": ROWS,
    "words": "one two three four",
    "beyond float32": ROWS.replace("0 0 1 0", "0 0 1 1e39") + "0 0 0 1",
    "no rotation": "0 0 0 0\n" * 3 + "0 0 0 1",
    "empty": "",
}


def test_labels_are_converted_to_the_byte_order_of_this_machine(tmp_path):
    np.save(tmp_path / "labels.npy", np.array([[1, 2], [3, -1]], dtype=">i4"))
    labels = data_util.open_seg_labels(tmp_path / "labels.npy")
    assert labels.dtype.isnative and labels.tolist() == [[1, 2], [3, -1]]


def test_a_class_list_of_a_hundred_million_classes_is_a_mistake(tmp_path):
    (tmp_path / "list.txt").write_text("0 background\n99999999 leg\n")
    with pytest.raises(util.InputError, match="list.txt: class id 99999999 found"):
        data_util.load_class_names(tmp_path / "list.txt")


@pytest.mark.parametrize("fault", BAD_POSES)
def test_a_pose_that_cannot_be_used_is_named(tmp_path, fault):
    (tmp_path / "broken.txt").write_text(BAD_POSES[fault])
    with pytest.raises(util.InputError, match="broken.txt"):
        scenes.load_pose(tmp_path / "broken.txt")


@pytest.mark.parametrize(
    "text",
    [
        "1 0 0 0\n0 1 0 0\n0 0 1 5\n0 0 0 1\n",
        "1\t0 0  0\r\n0 1e0 0 0\n\n0 0 +1. 5e-1\n0 0 0 1",
        "1 0 0 0 0 1 0 0 0 0 1 5 0 0 0 1\n",
        "0.1 -.2 3 4 5 6 7 8 9 10 11 12 13 14 15 1E1",
        ROWS + "0 0 0 1\n7",
    ],
)
def test_many_poses_are_read_as_single_ones(tmp_path, text):
    (tmp_path / "pose.txt").write_bytes(text.encode())
    np.savetxt(tmp_path / "other.txt", 2 * np.eye(4))
    for is_world2cam in (False, True):
        poses = data_util.load_poses([tmp_path / "pose.txt", tmp_path / "other.txt"], is_world2cam)
        assert poses.dtype == np.float32
        for pose, name in zip(poses, ("pose.txt", "other.txt"), strict=True):
            np.testing.assert_allclose(pose, scenes.load_pose(tmp_path / name, is_world2cam), rtol=1e-6)


@pytest.mark.parametrize(
    "text", [*BAD_POSES.values(), "1 2 3 4 5 6 7 8\n" * 2, "1 2 3 4 5 6 7 8 1-2 2 3 4 5 6 7 8", "\ufeff"]
)
def test_among_many_poses_the_one_that_cannot_be_used_is_named(tmp_path, text):
    np.savetxt(tmp_path / "sound.txt", np.eye(4))
    (tmp_path / "broken.txt").write_text(text)
    with pytest.raises(util.InputError, match="broken.txt") as many:
        data_util.load_poses([tmp_path / "sound.txt", tmp_path / "broken.txt"])
    with pytest.raises(util.InputError) as single:
        scenes.load_pose(tmp_path / "broken.txt")
    assert str(many.value) == str(single.value)


def test_a_world_to_camera_pose_that_cannot_be_inverted_is_named(tmp_path):
    (tmp_path / "flat.txt").write_text(ROWS + "0 0 0 0\n")
    assert (scenes.load_pose(tmp_path / "flat.txt")[3] == 0).all()
    with pytest.raises(util.InputError, match="flat.txt: not a pose"):
        scenes.load_pose(tmp_path / "flat.txt", is_world2cam=True)


BAD_INTRINSICS = {
    "size missing": "100 32 32 0.\n0. 0. 0.\n1.\n",
    "size of one number": "100 32 32 0.\n0. 0. 0.\n1.\n64\n",
    "focal length 0": "0 32 32 0.\n0. 0. 0.\n1.\n64 64\n",
    "focal length nan": "nan 32 32 0.\n0. 0. 0.\n1.\n64 64\n",
    "centre nan": "100 nan 32 0.\n0. 0. 0.\n1.\n64 64\n",
    "negative size": "100 32 32 0.\n0. 0. 0.\n1.\n-64 64\n",
    "infinite size": "100 32 32 0.\n0. 0. 0.\n1.\ninf 64\n",
    "words": "focal 32 32 0.\n",
    "a picture": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("fault", BAD_INTRINSICS)
def test_intrinsics_that_cannot_be_used_are_named(tmp_path, fault):
    text = BAD_INTRINSICS[fault]
    (tmp_path / "broken.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(util.InputError, match="broken.txt"):
        data_util.load_intrinsics(tmp_path / "broken.txt")


@pytest.mark.parametrize("reader", [scenes.load_pose, data_util.load_intrinsics, data_util.load_class_names])
def test_a_text_file_that_is_missing_is_named(tmp_path, reader):
    with pytest.raises(util.InputError, match="absent.txt"):
        reader(tmp_path / "absent.txt")


# Class lists and dataset.json


def test_class_names_stand_at_their_ids(tmp_path):
    (tmp_path / "list.txt").write_text("3 chair arm\n0 other\n\n1\tchair_head leaf\n")
    assert data_util.load_class_names(tmp_path / "list.txt") == ["other", "chair_head leaf", "class 2", "chair arm"]


@pytest.mark.parametrize("text", ["", "\n\n", "back 0\n", "0 back\n-1 seat\n", "0.5 back\n", "0 back\n1 seat\n1 leg\n"])
def test_a_class_list_that_cannot_be_used_is_named(tmp_path, text):
    (tmp_path / "broken.txt").write_text(text)
    with pytest.raises(util.InputError, match="broken.txt"):
        data_util.load_class_names(tmp_path / "broken.txt")


def test_without_dataset_json_the_published_rules_hold(tmp_path):
    assert data_util.load_dataset_settings(tmp_path) == data_util.DatasetSettings(0.0, False)


def test_dataset_json_sets_the_half_pixel_rule_and_the_treatment_of_alpha(tmp_path):
    (tmp_path / "dataset.json").write_text('{"pixel_center": 0.5, "blend_alpha": true, "made_by": "me"}')
    assert data_util.load_dataset_settings(tmp_path) == data_util.DatasetSettings(0.5, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[0.5]",
        '{"pixel_center": "middle"}',
        '{"pixel_center": null}',
        '{"pixel_center": NaN}',
        '{"blend_alpha": "false"}',
    ],
)
def test_a_dataset_json_that_cannot_be_used_is_named(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(util.InputError, match="dataset.json"):
        data_util.load_dataset_settings(tmp_path)

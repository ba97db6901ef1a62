"""make_dataset.py convert: posed images to class folders, with masks, labels, lenses; what is refused or left out."""

import json

import imageio.v3 as iio
import numpy as np
import pytest
import scenes
import torch
from PIL import Image

import data_util
import dataio
import geometry
import make_dataset
import util
from datasets.conversion import new_instance, transforms_json
from datasets.storage import headers

SIZE = (20, 28)  # height, width
CLASSES = "0 background\n1 handle\n2 body\n"


def poses_of(num_views, target=(0.0, 0.0, 0.0), distance=3.0):
    """cam2world (V, 4, 4) float64 of cameras all around `target`."""
    target = torch.tensor(target, dtype=torch.float64)
    azimuth = torch.arange(num_views, dtype=torch.float64) * 50
    eyes = geometry.on_sphere(azimuth, 20 + 10 * torch.sin(azimuth), distance)
    return geometry.look_at(target + eyes, target).numpy()


def picture(seed, channels=3, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, channels)).astype(np.uint8)


def write_source(
    folder, names=("a.png", "b.png", "c.png"), poses=None, channels=3, frames=None, file="transforms.json", **facts
):
    """A folder with images/ and transforms.json; frames: {name: entries of its frame beside the pose}."""
    poses = poses_of(len(names)) if poses is None else poses
    entries = []
    for i, (name, pose) in enumerate(zip(names, poses)):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(folder / "images" / name, picture(i, channels))
        matrix = (pose @ transforms_json.OPENGL_FROM_OPENCV).tolist()
        entries.append({"file_path": f"images/{name}", "transform_matrix": matrix, **(frames or {}).get(name, {})})
    (folder / file).write_text(json.dumps({"fl_x": 30.5, "cx": 14.25, "cy": 9.5, **facts, "frames": entries}))
    return folder


def convert(source, out, *flags):
    """Runs the program and returns the class folder."""
    make_dataset.main(["convert", str(source), "--obj_name", "Mug", "--out", str(out), *map(str, flags)])
    return out / "Mug"


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def read_poses(instance):
    return np.stack([np.loadtxt(path) for path in sorted((instance / "pose").iterdir())])


def test_layout_and_numbers(tmp_path, capsys):
    instance = convert(write_source(tmp_path / "mug_01"), tmp_path / "out") / "Mug.train" / "mug_01"
    assert capsys.readouterr().out == f"wrote {instance}: 3 views\n"
    views = ("000000", "000001", "000002")
    assert contents(tmp_path / "out") == sorted(
        [
            "Mug/dataset.json",
            *(f"Mug/Mug.train/mug_01/{name}" for name in ("intrinsics.txt", "source_views.txt")),
            *(f"Mug/Mug.train/mug_01/rgb/{view}.png" for view in views),
            *(f"Mug/Mug.train/mug_01/pose/{view}.txt" for view in views),
        ]
    )
    facts = json.loads((tmp_path / "out" / "Mug" / "dataset.json").read_text())
    assert facts["pixel_center"] == 0.5 and facts["blend_alpha"] is True
    assert data_util.load_intrinsics(instance / "intrinsics.txt") == data_util.Intrinsics(30.5, 14.25, 9.5, 20, 28)
    for i, view in enumerate(views):
        assert np.array_equal(iio.imread(instance / "rgb" / f"{view}.png"), picture(i))
    np.testing.assert_allclose(read_poses(instance), poses_of(3), rtol=0, atol=1e-15)
    assert (instance / "source_views.txt").read_text() == "000000 a.png\n000001 b.png\n000002 c.png\n"


def test_views_are_in_the_order_of_their_names_with_numbers_by_value(tmp_path):
    names = ["r_10.png", "r_2.png", "r_1.png"]
    instance = convert(write_source(tmp_path / "mug", names), tmp_path / "out") / "Mug.train" / "mug"
    assert (instance / "source_views.txt").read_text() == "000000 r_1.png\n000001 r_2.png\n000002 r_10.png\n"
    np.testing.assert_allclose(read_poses(instance), poses_of(3)[::-1], atol=1e-15)
    assert np.array_equal(iio.imread(instance / "rgb" / "000000.png"), picture(2))


def test_what_is_converted_opens_as_a_data_set(tmp_path):
    (tmp_path / "labels").mkdir()
    np.save(tmp_path / "labels" / "b.npy", np.random.default_rng(0).integers(0, 3, SIZE))
    (tmp_path / "classes.txt").write_text(CLASSES)
    folder = convert(
        write_source(tmp_path / "mug", channels=4),
        tmp_path / "out",
        "--labels",
        tmp_path / "labels",
        "--classes",
        tmp_path / "classes.txt",
    )
    split = folder / "Mug.train"
    settings = dataio.dataset_settings(split)
    assert settings == data_util.DatasetSettings(0.5, True)
    dataset = dataio.SceneClassDataset(dataio.index_split(split, with_labels=True), 20, settings, num_classes=3)
    assert len(dataset) == 3 and dataset[1]["rgb"].shape == (400, 4)
    np.testing.assert_allclose(dataset[1]["cam2world"], poses_of(3)[1], atol=1e-6)
    assert set(dataset[1]["seg_labels"]) == {0, 1, 2} and set(dataset[0]["seg_labels"]) == {util.UNLABELLED}


def test_a_point_lands_on_the_same_pixel(tmp_path):
    """The pixel by hand, with OpenGL's camera; then from the files that were written, with ours."""
    cam2world = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1.0]])  # at z = 4, looks at the origin
    source = write_source(tmp_path / "mug", ["a.png"], [cam2world @ transforms_json.OPENGL_FROM_OPENCV])
    u, v = 30.5 * 0.2 / 4 + 14.25, 30.5 * -0.4 / 4 + 9.5  # of (0.2, 0.4, 0): right of the centre, and above it
    instance = dataio.index_split(convert(source, tmp_path / "out") / "Mug.train")[0]
    camera = instance.intrinsics
    intrinsics = torch.tensor([[camera.focal, 0, camera.cx], [0, camera.focal, camera.cy], [0, 0, 1]])
    in_camera = geometry.world_to_camera(torch.tensor([[0.2, 0.4, 0.0]]), torch.from_numpy(instance.poses[0]))
    np.testing.assert_allclose(geometry.project(in_camera, intrinsics)[0], [u, v], atol=1e-5)


def test_a_distorted_dot_lands_where_our_camera_projects_its_point(tmp_path, capsys):
    k1, k2, focal, height, width = -0.35, 0.06, 60.0, 60, 80
    (cam2world,), point = poses_of(1), np.array([1.2, 0.1, -0.6])
    x, y, z = (np.linalg.inv(cam2world) @ [*point, 1])[:3]
    r2 = (x**2 + y**2) / z**2
    seen = focal * np.array([x, y]) / z * (1 + k1 * r2 + k2 * r2**2) + [width / 2, height / 2]
    rows, columns = np.mgrid[:height, :width] + 0.5
    dot = 255 * np.exp(-((columns - seen[0]) ** 2 + (rows - seen[1]) ** 2) / 8)
    source = write_source(tmp_path / "mug", ["a.png"], [cam2world], fl_x=focal, cx=None, cy=None, k1=k1, k2=k2)
    iio.imwrite(source / "images" / "a.png", np.dstack([dot.astype(np.uint8)] * 3))

    instance = dataio.index_split(convert(source, tmp_path / "out") / "Mug.train")[0]
    assert "mug: 1 of 1 views are resampled to one pinhole camera, f 60.00" in capsys.readouterr().out
    camera, image = instance.intrinsics, iio.imread(scenes.paths_of(instance, "rgb")[0])[..., 0].astype(float)
    found = np.array([(columns * image).sum(), (rows * image).sum()]) / image.sum()
    intrinsics = torch.tensor([[camera.focal, 0, camera.cx], [0, camera.focal, camera.cy], [0, 0, 1]]).double()
    in_camera = geometry.world_to_camera(torch.tensor(point)[None], torch.from_numpy(instance.poses[0]).double())
    expected = geometry.project(in_camera, intrinsics)[0].numpy()
    assert np.linalg.norm(seen - expected) > 1 and np.linalg.norm(found - expected) < 0.3


def test_views_by_several_cameras_get_one(tmp_path):
    source = write_source(tmp_path / "mug", frames={"b.png": {"fl_x": 40, "cx": 15}})
    (tmp_path / "labels").mkdir()
    np.save(tmp_path / "labels" / "b.npy", np.ones(SIZE, int))
    (tmp_path / "classes.txt").write_text(CLASSES)
    flags = ("--labels", tmp_path / "labels", "--classes", tmp_path / "classes.txt")
    instance = convert(source, tmp_path / "out", *flags) / "Mug.train" / "mug"
    assert data_util.load_intrinsics(instance / "intrinsics.txt").focal == 30.5
    images = [iio.imread(instance / "rgb" / f"{i:06d}.png") for i in range(3)]
    assert np.array_equal(images[0], picture(0)) and np.array_equal(images[2], picture(2))
    assert images[1].shape == (*SIZE, 4) and images[1][10, 14, 3] == 255 and images[1][0, 0, 3] == 0
    seg_labels = np.load(instance / "seg" / "000001.npy")
    assert seg_labels[10, 14] == 1 and seg_labels[0, 0] == util.UNLABELLED
    assert (seg_labels[images[1][..., 3] == 255] == 1).all() and (seg_labels[images[1][..., 3] == 0] == util.UNLABELLED).all()


def test_an_image_keeps_its_alpha_and_a_mask_becomes_alpha(tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    mask = picture(7, 1)[..., 0] > 127
    for name, values in (("a.png", 255 * mask), ("b.png", mask), ("c.jpg.png", 255 * mask)):
        iio.imwrite(masks / name, values.astype(np.uint8))
    names = ["a.png", "b.png", "c.jpg"]
    instance = convert(write_source(tmp_path / "mug", names), tmp_path / "out", "--masks", masks) / "Mug.train" / "mug"
    for i in range(3):
        image = iio.imread(instance / "rgb" / f"{i:06d}.png")
        assert np.array_equal(image[..., 3], 255 * mask)
    assert np.array_equal(iio.imread(instance / "rgb" / "000001.png")[..., :3], picture(1))

    source = write_source(tmp_path / "clear", names[:2], channels=4)
    plain = convert(source, tmp_path / "plain") / "Mug.train" / "clear"
    assert np.array_equal(iio.imread(plain / "rgb" / "000000.png"), picture(0, 4))
    cut = convert(source, tmp_path / "cut", "--masks", masks) / "Mug.train" / "clear"
    assert np.array_equal(iio.imread(cut / "rgb" / "000000.png")[..., 3], np.where(mask, picture(0, 4)[..., 3], 0))


def test_masks_of_other_kinds(tmp_path):
    """A JPEG, whose black is not quite black; a cut-out with a transparent background; an opaque RGBA picture."""
    masks, mask = tmp_path / "masks", np.zeros(SIZE, bool)
    masks.mkdir()
    mask[:, 8:24] = True
    black_and_white = np.dstack([255 * mask] * 3).astype(np.uint8)
    noisy = np.where(black_and_white > 0, 250, 9).astype(np.uint8)
    iio.imwrite(masks / "a.jpg", noisy, quality=95)
    iio.imwrite(masks / "b.png", np.dstack([picture(5), 200 * mask]).astype(np.uint8))
    iio.imwrite(masks / "c.png", np.dstack([black_and_white, np.full(SIZE, 255)]).astype(np.uint8))
    instance = convert(write_source(tmp_path / "mug"), tmp_path / "out", "--masks", masks) / "Mug.train" / "mug"
    for i in range(3):
        assert np.array_equal(iio.imread(instance / "rgb" / f"{i:06d}.png")[..., 3] > 0, mask)


def test_jpeg_grey_and_palette_images_become_8_bit_rgb(tmp_path):
    source = write_source(tmp_path / "mug", ["a.jpg", "b.png", "c.png"])
    Image.fromarray(picture(1)[..., 0]).save(source / "images" / "b.png")
    palette = Image.fromarray(picture(2)).quantize(16)
    palette.save(source / "images" / "c.png")
    instance = convert(source, tmp_path / "out") / "Mug.train" / "mug"
    jpeg = iio.imread(source / "images" / "a.jpg")
    for view, expected in (
        ("000000", jpeg),
        ("000001", np.dstack([picture(1)[..., 0]] * 3)),
        ("000002", np.array(palette.convert("RGB"))),
    ):
        assert np.array_equal(iio.imread(instance / "rgb" / f"{view}.png"), expected)
    headers.check_png(instance / "rgb" / "000000.png")


def test_label_maps_of_every_kind(tmp_path):
    labels, ids = tmp_path / "labels", np.random.default_rng(3).integers(0, 3, SIZE).astype(np.uint8)
    labels.mkdir()
    np.save(labels / "a.npy", ids.astype(np.int64) - 1)
    Image.fromarray(ids).save(labels / "b.png")
    palette = Image.fromarray(ids)
    palette.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0])
    palette.save(labels / "c.png")
    (tmp_path / "classes.txt").write_text(CLASSES)
    names = ["a.png", "b.png", "c.png", "d.png"]
    source = write_source(tmp_path / "mug", names)
    flags = ("--labels", labels, "--classes", tmp_path / "classes.txt", "--unlabelled", 2)
    folder = convert(source, tmp_path / "out", *flags)
    seg = [np.load(folder / "Mug.train" / "mug" / "seg" / f"{i:06d}.npy") for i in range(4)]
    merged = np.where(ids == 2, -1, ids.astype(int))
    for found, expected in zip(seg, (ids.astype(int) - 1, merged, merged, np.full(SIZE, -1))):
        assert np.array_equal(found, expected)
    assert (folder / "Mug-level-1.txt").read_text() == CLASSES


def test_labels_that_belong_to_no_view_are_named(tmp_path, capsys):
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text(CLASSES)
    for name in ("a", "typo"):
        np.save(tmp_path / "labels" / f"{name}.npy", np.ones(SIZE, int))
    source = write_source(tmp_path / "mug")
    convert(source, tmp_path / "out", "--labels", tmp_path / "labels", "--classes", tmp_path / "classes.txt")
    assert "1 label maps belong to no converted view: typo.npy" in capsys.readouterr().out


def test_the_splits_of_a_nerf_scene(tmp_path):
    for i, split in enumerate(("train", "val", "test")):
        write_source(tmp_path / "lego", [f"{split}/r_{j}.png" for j in range(i + 1)], file=f"transforms_{split}.json")
    for path in (tmp_path / "lego").glob("*.json"):  # as published: without the extension
        path.write_text(path.read_text().replace(".png", "").replace('"images/', '"./images/'))
    folder = convert(tmp_path / "lego", tmp_path / "out")
    for i, split in enumerate(("train", "val", "test")):
        assert len(dataio.index_split(folder / f"Mug.{split}")[0].views) == i + 1
    assert (folder / "Mug.val" / "lego" / "source_views.txt").read_text() == "000000 val/r_0.png\n000001 val/r_1.png\n"
    only = convert(tmp_path / "lego", tmp_path / "only", "--split", "test")
    assert sorted(path.name for path in only.iterdir()) == ["Mug.test", "dataset.json"]
    named = convert(tmp_path / "lego" / "transforms_val.json", tmp_path / "named", "--split", "train_val", "--name", "x")
    assert len(dataio.index_split(named / "Mug.train_val")[0].views) == 2 and (named / "Mug.train_val" / "x").is_dir()


def test_a_folder_of_sources_is_an_instance_each_and_more_can_be_added(tmp_path, capsys):
    for name in ("mug_a", "mug_b"):
        write_source(tmp_path / "mugs" / name)
        (tmp_path / "masks" / name).mkdir(parents=True)
        for letter in "abc":
            iio.imwrite(tmp_path / "masks" / name / f"{letter}.png", np.full(SIZE, 255 * (name == "mug_a"), np.uint8))
    (tmp_path / "mugs" / "notes").mkdir()
    folder = convert(tmp_path / "mugs", tmp_path / "out", "--masks", tmp_path / "masks")
    written = capsys.readouterr().out
    assert "1 folders have no transforms.json and no COLMAP model: notes" in written
    assert f"wrote {folder}: 2 instances, 6 views\n" in written
    alpha = {name: iio.imread(folder / "Mug.train" / name / "rgb" / "000000.png")[..., 3] for name in ("mug_a", "mug_b")}
    assert (alpha["mug_a"] == 255).all() and not alpha["mug_b"].any()
    convert(write_source(tmp_path / "mug_c"), tmp_path / "out", "--split", "test")
    assert [i.name for i in dataio.index_split(folder / "Mug.test")] == ["mug_c"]
    assert len(dataio.index_split(folder / "Mug.train")) == 2


def test_recentre_moves_what_is_looked_at_and_keeps_the_picture(tmp_path):
    target, poses = np.array([5.0, -2.0, 1.0]), poses_of(5, target=(5.0, -2.0, 1.0), distance=7.0)
    source = write_source(tmp_path / "mug", [f"{i}.png" for i in range(5)], poses)
    instance = convert(source, tmp_path / "out", "--recentre", "--camera_distance", 1.5) / "Mug.train" / "mug"
    moved = read_poses(instance)
    np.testing.assert_allclose(np.linalg.norm(moved[:, :3, 3], axis=1), 1.5, atol=1e-9)
    np.testing.assert_allclose(moved[:, :3, 3], (poses[:, :3, 3] - target) * 1.5 / 7, atol=1e-9)
    assert np.array_equal(moved[:, :3, :3], poses[:, :3, :3])
    assert (instance / "source_views.txt").read_text().startswith("# the point ")


@pytest.mark.parametrize("poses", [poses_of(1), np.stack([np.eye(4)] * 3), poses_of(4) @ np.diag([-1.0, 1, -1, 1])])
def test_recentre_needs_cameras_that_look_at_one_point(poses):
    with pytest.raises(util.InputError, match="do not look at one point"):
        new_instance.recentring(poses, 1.0, "mug")


def colmap(folder, target, form="colmap-text"):
    pytest.importorskip("pycolmap")
    make_dataset.main(["convert", str(folder), "--to", form, "--out", str(target)])
    return target


def test_a_colmap_model_is_an_instance(tmp_path):
    first = convert(write_source(tmp_path / "mug"), tmp_path / "out") / "Mug.train" / "mug"
    source = colmap(first, tmp_path / "as_colmap")
    for form in (source, source / "sparse" / "0"):
        folder = convert(form, tmp_path / form.name) / "Mug.train" / "as_colmap"
        np.testing.assert_allclose(read_poses(folder), poses_of(3), atol=1e-12)
        assert (folder / "source_views.txt").read_bytes() == (first / "source_views.txt").read_bytes()
        assert data_util.load_intrinsics(folder / "intrinsics.txt") == data_util.load_intrinsics(first / "intrinsics.txt")


def break_image(source):
    path = source / "images" / "b.png"
    path.write_bytes(path.read_bytes()[:-200])


def test_broken_views_are_left_out_named_and_counted(tmp_path, capsys, refuses):
    source = write_source(tmp_path / "mug", ["a.png", "b.png", "c.png", "d.png"], frames={"c.png": {"w": 99}})
    break_image(source)
    (source / "images" / "d.png").unlink()
    arguments = ["convert", str(source), "--obj_name", "Mug", "--out", str(tmp_path / "out")]
    refuses(make_dataset.main, arguments, "images/c.png: has 28 x 20 pixels")
    assert not (tmp_path / "out").exists()
    make_dataset.main([*arguments, "--skip_broken"])
    written = capsys.readouterr().out.splitlines()
    instance = tmp_path / "out" / "Mug" / "Mug.train" / "mug"
    assert written[-1] == f"wrote {instance}: 1 views; 3 skipped: images/c.png, images/d.png, b.png"
    assert sum(line.startswith("skipped ") for line in written) == 3
    assert contents(instance) == ["intrinsics.txt", "pose/000000.txt", "rgb/000000.png", "source_views.txt"]


def test_a_broken_picture_stops_the_conversion_and_leaves_nothing(tmp_path, refuses):
    break_image(write_source(tmp_path / "mug"))
    arguments = ["convert", str(tmp_path / "mug"), "--obj_name", "Mug", "--out", str(tmp_path / "out")]
    refuses(make_dataset.main, arguments, "b.png: cannot be read as an image")
    assert not (tmp_path / "out").exists()


def test_a_broken_instance_among_others_is_left_out(tmp_path, capsys):
    for name in ("mug_a", "mug_b", "mug_c"):
        write_source(tmp_path / "mugs" / name, ["a.png", "b.png"])
    (tmp_path / "mugs" / "mug_a" / "transforms.json").write_text("{")
    for letter in "ab":
        (tmp_path / "mugs" / "mug_b" / "images" / f"{letter}.png").write_bytes(b"no image")
    break_image(tmp_path / "mugs" / "mug_c")
    folder = convert(tmp_path / "mugs", tmp_path / "out", "--skip_broken")
    assert [path.name for path in (folder / "Mug.train").iterdir()] == ["mug_c"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        f"wrote {folder / 'Mug.train' / 'mug_c'}: 1 views; 5 skipped: mug_a, mug_b/images/a.png, "
        "mug_b/images/b.png, mug_b, mug_c/b.png"
    )


def test_nothing_usable_is_refused_with_skip_broken_too(tmp_path, refuses):
    source = write_source(tmp_path / "mug", ["a.png"], frames={"a.png": {"h": 1}})
    arguments = ["convert", str(source), "--obj_name", "Mug", "--out", str(tmp_path / "out"), "--skip_broken"]
    refuses(make_dataset.main, arguments, "nothing could be converted")
    assert not (tmp_path / "out").exists()


def refused(refuses, tmp_path, reason, *flags, source=None):
    source = source or write_source(tmp_path / "mug")
    out = tmp_path / "out"
    refuses(make_dataset.main, ["convert", str(source), "--obj_name", "Mug", "--out", str(out), *map(str, flags)], reason)


def test_masks_and_labels_that_do_not_fit_are_refused(tmp_path, refuses):
    labels, classes = tmp_path / "labels", tmp_path / "classes.txt"
    labels.mkdir()
    classes.write_text(CLASSES)
    refused(refuses, tmp_path, "has no mask named a", "--masks", labels)
    refused(refuses, tmp_path, "no label map is named as a view", "--labels", labels, "--classes", classes)
    iio.imwrite(labels / "a.png", np.full((20, 27), 1, np.uint8))
    refused(refuses, tmp_path, "a.png: has 27 x 20 pixels", "--masks", labels)
    refused(refuses, tmp_path, "a.png: has 27 x 20 pixels", "--labels", labels, "--classes", classes)
    refused(refuses, tmp_path, "--labels needs --classes", "--labels", labels)
    beyond = "a.png: holds the label 3, but the class list goes from 0 to 2"
    for values, reason in ((picture(0), "expected one channel"), (np.full(SIZE, 3, np.uint8), beyond)):
        iio.imwrite(labels / "a.png", values)
        refused(refuses, tmp_path, reason, "--labels", labels, "--classes", classes)
    assert not (tmp_path / "out").exists()


def test_deep_images_are_refused(tmp_path, refuses):
    source = write_source(tmp_path / "mug")
    Image.fromarray(np.zeros(SIZE, np.uint16)).save(source / "images" / "b.png")
    refused(refuses, tmp_path, "8 bits a channel", source=source)


def test_wrong_sources_and_flags_are_refused(tmp_path, refuses):
    (tmp_path / "empty").mkdir()
    refused(refuses, tmp_path, "no transforms.json and no COLMAP model", source=tmp_path / "empty")
    refused(refuses, tmp_path, "--masks nowhere: no such folder", "--masks", "nowhere")
    refused(refuses, tmp_path, "no such folder or .json file", source=tmp_path / "nowhere")
    refused(refuses, tmp_path, "--obj_name has no effect with --to", "--to", "transforms")
    refuses(make_dataset.main, ["convert", str(tmp_path), "--out", str(tmp_path / "out")], "--obj_name is missing")
    write_source(tmp_path / "lego", file="transforms_train.json")
    refused(refuses, tmp_path, "--split val", "--split", "val", source=tmp_path / "lego")
    for name in "ab":
        write_source(tmp_path / "two" / name)
    refused(refuses, tmp_path, "--name x", "--name", "x", source=tmp_path / "two")


def test_an_existing_instance_is_replaced_only_when_asked(tmp_path, refuses):
    folder = convert(write_source(tmp_path / "mug"), tmp_path / "out")
    source = write_source(tmp_path / "other", ["a.png"])
    refused(refuses, tmp_path, "pass --overwrite", "--name", "mug", source=source)
    convert(source, tmp_path / "out", "--name", "mug", "--overwrite")
    assert len(dataio.index_split(folder / "Mug.train")[0].views) == 1


def test_a_source_is_never_overwritten(tmp_path, refuses):
    source = write_source(tmp_path / "out" / "Mug" / "Mug.train" / "mug")
    refused(refuses, tmp_path, "choose another --out", "--overwrite", source=source)
    assert (source / "transforms.json").exists()


def test_other_settings_and_other_classes_of_the_class_folder_are_refused(tmp_path, refuses):
    (tmp_path / "out" / "Mug").mkdir(parents=True)
    (tmp_path / "out" / "Mug" / "dataset.json").write_text('{"pixel_center": 0}')
    refused(refuses, tmp_path, "pixel_center 0 and blend_alpha false")
    (tmp_path / "out" / "Mug" / "dataset.json").unlink()
    (tmp_path / "out" / "Mug" / "Mug-level-1.txt").write_text(CLASSES)
    (tmp_path / "classes.txt").write_text(CLASSES + "3 lid\n")
    refused(refuses, tmp_path, "differs from the class list", "--classes", tmp_path / "classes.txt")
    convert(tmp_path / "mug", tmp_path / "out")

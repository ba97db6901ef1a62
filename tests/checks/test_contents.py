import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import scenes

import checkpoints
import data_util
import dataio
import train
from datasets.checks import camera_checks, contents, split_folders
from datasets.storage import split_index

OPENGL = [1, -1, -1, 1]
NUM_CLASSES = 3


@pytest.fixture
def ball(own_split):
    return own_split / "ball_a"


def check(folder, **options):
    return contents.check_folder(folder, **({"num_classes": NUM_CLASSES} | options))


def change_pose(path, change):
    np.savetxt(path, change(np.loadtxt(path)))


def test_a_sound_instance_is_counted_and_has_no_fault(ball):
    report = check(ball)
    assert report.faults == [] and report.num_blank == 0
    assert (report.num_images, report.num_label_maps, report.num_views, report.sides) == (4, 4, 4, {(16, 16)})
    labels = np.stack([np.load(path) for path in sorted((ball / "seg").iterdir())])
    assert report.pixels == {i: (labels == i).sum() for i in range(3)}
    indexed = dataio.index_split(ball.parent)[0]
    assert np.array_equal(report.poses, indexed.poses) and report.views == indexed.views
    assert camera_checks.faults_of([report]) == camera_checks.faults_of([indexed]) == []


def spoil_image(ball):
    path = ball / "rgb" / "000001.png"
    path.write_bytes(path.read_bytes()[:-20])


def spoil_pixels(ball):
    """Right at both ends, so that only decoding tells."""
    path = ball / "rgb" / "000001.png"
    content = path.read_bytes()
    at = content.index(b"IDAT") + 4
    path.write_bytes(content[:at] + bytes(len(content) - at - 12) + content[-12:])


def write_pose(text):
    return lambda ball: (ball / "pose" / "000001.txt").write_text(text)


def save_labels(labels):
    return lambda ball: np.save(ball / "seg" / "000001.npy", labels)


def save_image(image):
    return lambda ball: iio.imwrite(ball / "rgb" / "000001.png", image)


def rewrite_intrinsics(text):
    return lambda ball: (ball / "intrinsics.txt").write_text(text)


FAULTS = [  # what is spoilt, kind, file, part of the sentence
    (spoil_image, "unreadable image", "rgb/000001.png", "cut short"),
    (spoil_pixels, "unreadable image", "rgb/000001.png", "cannot be read as an image"),
    (lambda b: (b / "rgb" / "000001.png").write_bytes(b""), "unreadable image", "rgb/000001.png", "not a PNG"),
    (save_image(np.zeros((1, 1), np.uint8)), "unreadable image", "rgb/000001.png", "1 x 1 pixels; expected 2 x 2"),
    (save_labels(np.zeros((1, 1), int)), "unreadable label map", "seg/000001.npy", "1 x 1 pixels"),
    (save_labels(np.zeros((0, 0), int)), "unreadable label map", "seg/000001.npy", "0 x 0 pixels"),
    (lambda b: shutil.rmtree(b / "rgb") or (b / "rgb").write_text(""), "unreadable folder", "rgb", "Not a directory"),
    (lambda b: shutil.rmtree(b / "rgb") or (b / "rgb").symlink_to("gone"), "unreadable folder", "rgb", "No such file"),
    (lambda b: shutil.rmtree(b / "seg") or (b / "seg").write_text(""), "unreadable folder", "seg", "Not a directory"),
    (save_image(np.zeros((16, 16), np.uint16)), "unreadable image", "rgb/000001.png", "expected an 8-bit"),
    (
        lambda b: save_image(np.zeros((16, 24, 3), np.uint8))(b) or save_labels(np.zeros((16, 24), int))(b),
        "image size",
        "rgb/000001.png",
        "24 x 16 pixels, but intrinsics.txt is for 16 x 16",
    ),
    (
        lambda b: (b / "rgb" / "000001.png").unlink(),
        "unequal counts",
        "",
        "3 images, 4 poses, 4 label maps; no images of 000001",
    ),
    (
        lambda b: (b / "pose" / "000001.txt").unlink(),
        "unequal counts",
        "",
        "4 images, 3 poses, 4 label maps; no poses of 000001",
    ),
    (lambda b: (b / "seg" / "000001.npy").unlink(), "unequal counts", "", "3 label maps; no label maps of 000001"),
    (lambda b: (b / "seg" / "000001.npy").rename(b / "seg" / "x.npy"), "unequal counts", "", "no images of x"),
    (lambda b: shutil.rmtree(b / "rgb") or shutil.rmtree(b / "seg"), "no images", "", "no images; expected"),
    (lambda b: (b / "intrinsics.txt").unlink(), "intrinsics", "intrinsics.txt", "cannot be read"),
    (rewrite_intrinsics("1 2 3\n"), "intrinsics", "intrinsics.txt", "expected four or five lines"),
    (write_pose("1 2 3"), "unreadable pose", "pose/000001.txt", "expected four lines of four numbers"),
    (write_pose("nan " * 16), "unreadable pose", "pose/000001.txt", "finite"),
    (
        save_labels(np.full((16, 16), 7)),
        "labels outside the class list",
        "seg/000001.npy",
        "from 7 to 7, but the class list ends at 2",
    ),
    (save_labels(np.full((16, 16), -2)), "labels outside the class list", "seg/000001.npy", "from -2 to -2"),
    (save_labels(np.zeros((8, 16), int)), "label map size", "seg/000001.npy", "16 x 8 pixels, its image 16 x 16"),
    (save_labels(np.zeros((16, 16))), "unreadable label map", "seg/000001.npy", "integer class ids"),
    (lambda b: (b / "seg" / "000001.npy").write_bytes(b"no"), "unreadable label map", "seg/000001.npy", "cannot be read"),
    (
        lambda b: (b / "params").mkdir() or (b / "params" / "000000.txt").write_text("1 2"),
        "unequal counts",
        "",
        "1 latent vectors; no latent vectors of 000001, 000002, 000003",
    ),
    (
        lambda b: (b / "point_cloud").mkdir() or (b / data_util.CLOUD_LABELS[0]).write_text("1\n"),
        "point cloud",
        data_util.CLOUD_POINTS,
        "cannot be read",
    ),
]


@pytest.mark.parametrize("spoil, kind, path, sentence", FAULTS, ids=[f"{i} {fault[1]}" for i, fault in enumerate(FAULTS)])
def test_every_fault_is_told_with_its_file_and_nothing_else_is(ball, spoil, kind, path, sentence):
    spoil(ball)
    report = check(ball)
    assert [fault.kind for fault in report.faults] == [kind]
    assert report.faults[0].path == ball / path
    assert sentence in report.faults[0].sentence
    assert len(report.poses) >= 3


def test_several_broken_files_are_all_told(ball):
    spoil_image(ball)
    write_pose("?")(ball)
    save_labels(np.full((16, 16), 9))(ball)
    kinds = [fault.kind for fault in check(ball).faults]
    assert kinds == ["unreadable pose", "unreadable image", "labels outside the class list"]


def test_without_decoding_truncated_files_are_found_and_pixels_are_not_read(ball, monkeypatch):
    spoil_image(ball)
    save_labels(np.full((16, 16), 9))(ball)
    report = check(ball, decode=False)
    assert [fault.kind for fault in report.faults] == ["unreadable image"]
    assert report.sides == {(16, 16)} and not report.pixels


def test_images_of_another_side_in_the_same_shape_are_sound(ball):
    """The stages scale the intrinsics to the side of their images."""
    rewrite_intrinsics("76.8 32 32 0.\n0. 0. 0.\n1.\n64 64\n")(ball)
    assert check(ball).faults == []


def test_sizes_that_differ_by_rounding_are_sound(ball):
    shutil.rmtree(ball / "seg")
    rewrite_intrinsics("76.8 32 21 0.\n0. 0. 0.\n1.\n43 64\n")(ball)
    for path in (ball / "rgb").iterdir():
        iio.imwrite(path, np.zeros((21, 32, 3), np.uint8))
    assert check(ball).faults == []


def test_without_label_maps_or_a_class_list_nothing_is_wrong(ball):
    save_labels(np.full((16, 16), 9))(ball)
    assert check(ball, num_classes=None).faults == []
    shutil.rmtree(ball / "seg")
    assert check(ball).faults == []


def test_label_maps_without_images_are_sound(ball):
    """Codes are fitted to label maps alone."""
    shutil.rmtree(ball / "rgb")
    report = check(ball)
    assert report.faults == [] and report.num_views == 4 and report.sides == {(16, 16)}


def test_files_of_another_format_are_told(ball):
    for path in (ball / "rgb").iterdir():
        path.rename(path.with_suffix(".jpg"))
    shutil.rmtree(ball / "seg")
    (fault,) = check(ball).faults
    assert "found 4 .jpg files" in fault.sentence


def test_hidden_files_are_no_views(ball):
    """As archives made on macOS have them: ._000000.png."""
    for kind, (_, suffix) in split_index.FILES.items():
        (ball / kind).mkdir(exist_ok=True)
        (ball / kind / f"._000000{suffix}").write_bytes(b"\0\5\26\7")
    (ball / "._rgb").write_bytes(b"")
    report = check(ball)
    assert report.faults == [] and (report.num_images, report.num_label_maps, len(report.views)) == (4, 4, 4)
    shutil.rmtree(ball / "seg")
    for path in (ball / "rgb").glob("0*.png"):
        path.unlink()
    (fault,) = check(ball).faults
    assert fault.kind == "no images" and "found" not in fault.sentence


def test_an_instance_without_images_is_a_fault_where_others_have_some(ball, own_split):
    reports = [check(own_split / name) for name in ("ball_a", "ball_b")]
    contents.check_for_images(reports)
    assert [report.faults for report in reports] == [[], []]
    shutil.rmtree(ball / "rgb")
    reports[0] = check(ball)
    contents.check_for_images(reports[:1])
    assert reports[0].faults == []
    contents.check_for_images(reports)
    assert [(fault.kind, fault.path) for fault in reports[0].faults] == [("no images", ball)] and not reports[1].faults
    (ball / "rgb").write_text("")
    reports[0] = check(ball)
    contents.check_for_images(reports)
    assert [fault.kind for fault in reports[0].faults] == ["unreadable folder"]


@pytest.mark.parametrize("can_be_listed", [False, True])
@pytest.mark.parametrize("path", [".", "rgb", "pose", "point_cloud"])
def test_a_folder_that_may_not_be_read_is_one_fault(ball, deny, path, can_be_listed):
    (ball / "point_cloud").mkdir()
    deny(ball / path, can_be_listed)
    (fault,) = check(ball).faults
    assert fault.kind == ("point cloud" if path == "point_cloud" else "unreadable folder")
    assert fault.path.is_relative_to(ball / path) and "Permission denied" in fault.sentence
    assert split_folders.find_splits(ball.parent) == [ball.parent]


def test_a_reader_that_meets_a_closed_door_becomes_a_fault(ball):
    def read():
        raise PermissionError(13, "Permission denied", str(ball / "x"))

    report = check(ball)
    assert report.attempt("point cloud", read) is None
    assert report.faults == [contents.Fault("point cloud", ball / "x", "cannot be read (Permission denied)")]


def test_an_empty_folder_is_one_fault(own_split):
    (own_split / "nothing" / "rgb").mkdir(parents=True)
    assert [fault.kind for fault in check(own_split / "nothing").faults] == ["empty instance"]


def test_one_pose_for_all_views_is_a_fault_and_a_closed_circle_is_not(ball):
    first = (ball / "pose" / "000000.txt").read_text()
    (ball / "pose" / "000003.txt").write_text(first)
    assert check(ball).faults == []
    for path in (ball / "pose").iterdir():
        path.write_text(first)
    assert [fault.kind for fault in check(ball).faults] == ["equal poses"]


@pytest.mark.parametrize(
    "image, is_blank",
    [
        (np.zeros((16, 16, 4), np.uint8), True),
        (np.full((16, 16, 3), 255, np.uint8), True),
        (np.full((16, 16), 255, np.uint8), True),
        (np.zeros((16, 16), np.uint8), False),
        (np.zeros((16, 16, 3), np.uint8), False),
        (np.eye(16, dtype=np.uint8)[..., None].repeat(4, axis=-1), False),
    ],
)
def test_images_that_show_nothing_are_counted(ball, image, is_blank):
    save_image(image)(ball)
    report = check(ball)
    assert report.faults == [] and report.num_blank == is_blank


# The training stages


@pytest.fixture
def opengl_split(own_split):
    for path in own_split.glob("*/pose/*.txt"):
        change_pose(path, lambda pose: pose * OPENGL)
    return own_split


def test_training_is_refused_where_the_cameras_are_wrong(opengl_split, refuses, tmp_path):
    options = scenes.train_options(opengl_split, tmp_path, "run", class_weight=0)
    refuses(train.main, options, "the poses look like OpenGL axes")
    refuses(train.main, options, "(1 further faults of cameras)")
    refuses(train.main, options, f"run check_dataset.py {opengl_split} to see all")
    assert not (tmp_path / "run").exists()


def test_training_goes_on_where_that_is_asked_for(opengl_split, tmp_path, capsys):
    train.main(scenes.train_options(opengl_split, tmp_path, "run", class_weight=0, no_check=True))
    assert "note: " in capsys.readouterr().out
    assert checkpoints.load(tmp_path / "run")["step"] == 2


def look_beside(split, view="000001"):
    """Turns a camera by 70 degrees about its y axis: the object is in front of it, and far outside its image."""
    turn = np.eye(4)
    turn[:3:2, :3:2] = np.array([[np.cos(1.2), np.sin(1.2)], [-np.sin(1.2), np.cos(1.2)]])
    change_pose(split / "ball_a" / "pose" / f"{view}.txt", lambda pose: pose @ turn)


def test_a_camera_that_looks_beside_the_object_does_not_stop_a_training(own_split, tmp_path, capsys, refuses):
    look_beside(own_split)
    assert [fault.kind for fault in camera_checks.faults_of(dataio.index_split(own_split))] == ["looks beside"]
    train.main(scenes.train_options(own_split, tmp_path, "run", class_weight=0))
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "looks beside" in line]
    assert note.startswith("note: ") and f"check_dataset.py {own_split} lists all" in note and "no_check" not in note
    change_pose(own_split / "ball_b" / "pose" / "000000.txt", lambda pose: pose * 2)
    refuses(train.main, scenes.train_options(own_split, tmp_path, "new", class_weight=0), "the last row is 0 0 0 2")


def test_only_what_a_stage_reads_is_judged(own_split, tmp_path):
    change_pose(own_split / "ball_b" / "pose" / "000000.txt", lambda pose: pose * 2)
    for chosen in (dict(specific_ins="ball_a"), dict(specific_observation_idcs="1,2,3")):
        train.main(scenes.train_options(own_split, tmp_path, "run", class_weight=0, **chosen))


def test_the_validation_split_is_judged_too(ball_split, opengl_split, refuses, tmp_path):
    options = scenes.train_options(ball_split, tmp_path, "run", class_weight=0, val_root=opengl_split)
    refuses(train.main, options, f"run check_dataset.py {opengl_split} to see all")


def test_one_view_of_each_object_can_be_fitted(semantic_run, tmp_path):
    test = scenes.write_split(tmp_path / "Ball" / "Ball.test", names=("ball_x", "ball_y"))
    options = dict(checkpoint_path=semantic_run, overwrite_embeddings=True, specific_observation_idcs=1, class_weight=0)
    train.main(scenes.train_options(test, tmp_path, "run", **options))
    assert checkpoints.load(tmp_path / "run")["step"] == 2


def test_the_quick_form_reads_no_file(ball_split, monkeypatch):
    instances = dataio.index_split(ball_split)
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("a file was opened"))
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("a file was opened"))
    assert camera_checks.faults_of(instances) == []

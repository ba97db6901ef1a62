import numpy as np
import plyfile
import pytest
import torch

import data_util
import util
from evaluation import clouds

VIEWS = tuple(f"{view:06d}" for view in range(4))


def outputs_of(points, rgb=None, classes=None):
    """visual.to_host of a batch of one view: points (R, 3), rgb (R, 3), classes (R,)."""
    points = torch.tensor(points, dtype=torch.float32)[None]
    outputs = {"points": points, "rgb": torch.zeros_like(points) if rgb is None else torch.tensor(rgb)[None]}
    if classes is not None:
        outputs["seg_labels"] = torch.tensor([classes])
    return outputs


def cloud_of(points, classes):
    """A rendered cloud, its colours black."""
    points = torch.tensor(points, dtype=torch.float32).reshape(-1, 3)
    return clouds.Cloud(points, torch.zeros_like(points).to(torch.uint8), torch.tensor(classes, dtype=torch.int64))


def labelled(points, labels):
    return data_util.LabelledCloud(np.array(points, dtype=np.float32), np.array(labels, dtype=np.int64))


# Gathering


def test_background_is_left_out_of_a_cloud_by_class(tmp_path):
    points = torch.arange(12.0).view(4, 3).tolist()
    outputs = outputs_of(points, [[1, 1, 1], [-1, 0.2, 1], [1, 1, 1], [0, 0, 0]], [0, 1, 2, 0])
    clouds.foreground(outputs, 0).write(tmp_path, num_classes=3)
    written = np.loadtxt(tmp_path / "point_cloud_rgb.txt")
    assert written.tolist() == [[3, 4, 5, 0, 153, 255], [6, 7, 8, 255, 255, 255]]
    vertices = plyfile.PlyData.read(tmp_path / "point_cloud_seg.ply")["vertex"]
    assert vertices["label"].tolist() == [1, 2]


def test_without_classes_white_is_left_out_of_a_cloud(tmp_path):
    cloud = clouds.foreground(outputs_of([[0, 1, 2], [3, 4, 5]], [[1, 0.95, 2], [1, 1, 0.0]]), 0)
    assert cloud.points.tolist() == [[3, 4, 5]] and cloud.classes is None
    cloud.write(tmp_path / "new folder", None)
    assert not (tmp_path / "new folder" / "point_cloud_seg.ply").exists()


def test_points_that_are_not_finite_are_left_out():
    outputs = outputs_of([[0, 1, 2], [3, torch.nan, 5], [torch.inf, 7, 8]], classes=[1, 1, 1])
    assert clouds.foreground(outputs, 0).points.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("num_views, gathered", [(1, 1), (4, 4), (10, 10), (31, 10)])
def test_a_cloud_is_of_ten_views_or_of_all_where_there_are_fewer(num_views, gathered):
    """Each view adds one point, whose x is the view's number; points of the last view among them end the cloud."""
    views = tuple(f"{view:06d}" for view in range(num_views))
    collector = clouds.Collector({"ball_a": views})
    outputs = [outputs_of([[i, 0, 0]], classes=[1]) for i in range(num_views)]
    handed_out = [collector.add("ball_a", view, rendered, 0) for view, rendered in zip(views, outputs)]
    assert [cloud is None for cloud in handed_out] == [True] * (num_views - 1) + [False]
    x = handed_out[-1].points[:, 0].tolist()
    assert len(x) == gathered and sorted(set(x)) == x and (x[0], x[-1]) == (0, num_views - 1)


def test_clouds_of_instances_in_one_batch_stay_apart():
    collector = clouds.Collector({"ball_a": VIEWS[:2], "ball_b": VIEWS[:1]})
    outputs = {"points": torch.arange(9.0).view(3, 1, 3), "rgb": torch.zeros(3, 1, 3)}
    names = [("ball_a", VIEWS[0]), ("ball_a", VIEWS[1]), ("ball_b", VIEWS[0])]
    first, a, b = (collector.add(*name, outputs, i) for i, name in enumerate(names))
    assert first is None and a.points.tolist() == [[0, 1, 2], [3, 4, 5]] and b.points.tolist() == [[6, 7, 8]]


def test_instances_that_need_no_cloud_are_not_gathered():
    collector = clouds.Collector({"ball_a": VIEWS})
    assert collector.add("ball_b", VIEWS[0], outputs_of([[0, 0, 0]]), 0) is None and not collector.parts


# Files


def test_point_cloud_comes_back_from_both_files(tmp_path):
    generator = np.random.default_rng(0)
    points = generator.normal(size=(50, 3)).astype(np.float32)
    rgb = generator.integers(0, 256, size=(50, 3), dtype=np.uint8)
    labels = generator.integers(-1, 7, size=50)
    tensors = [torch.from_numpy(array) for array in (points, rgb, labels)]
    clouds.write_point_cloud(tmp_path / "cloud.v1", *tensors)

    ply = plyfile.PlyData.read(tmp_path / "cloud.v1.ply")
    assert (ply.text, ply.byte_order, [element.name for element in ply.elements]) == (False, "<", ["vertex"])
    vertex = ply["vertex"]
    assert np.array_equal(np.stack([vertex[name] for name in ("x", "y", "z")], axis=1), points)
    assert np.array_equal(np.stack([vertex[name] for name in ("red", "green", "blue")], axis=1), rgb)
    assert np.array_equal(vertex["label"], labels)

    lines = (tmp_path / "cloud.v1.txt").read_text().splitlines()
    assert len(lines) == 50 and all(len(line.split(" ")) == 6 for line in lines)
    table = np.array([[float(number) for number in line.split()] for line in lines])
    np.testing.assert_allclose(table[:, :3], points, rtol=1e-6)
    assert np.array_equal(table[:, 3:], rgb)
    assert all(line.split()[3:] == [str(c) for c in color] for line, color in zip(lines, rgb))


def test_ply_header_and_layout_are_what_viewers_expect(tmp_path):
    clouds.write_point_cloud(tmp_path / "one", np.array([[1.0, 2, 3]]), np.array([[4, 5, 6]], np.uint8))
    header, body = (tmp_path / "one.ply").read_bytes().split(b"end_header\n")
    assert header.decode().splitlines() == [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 1",
        *(f"property float {name}" for name in "xyz"),
        *(f"property uchar {name}" for name in ("red", "green", "blue")),
    ]
    assert body == np.array([1, 2, 3], "<f4").tobytes() + bytes([4, 5, 6])


def test_an_empty_point_cloud_is_a_valid_file(tmp_path):
    clouds.write_point_cloud(tmp_path / "empty", torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8))
    assert plyfile.PlyData.read(tmp_path / "empty.ply")["vertex"].count == 0
    assert (tmp_path / "empty.txt").read_text() == ""


def test_point_clouds_with_colours_in_another_range_or_length_are_refused(tmp_path):
    points = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="float32, expected uint8"):
        clouds.write_point_cloud(tmp_path / "cloud", points, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="mismatch"):
        clouds.write_point_cloud(tmp_path / "cloud", points, torch.zeros(5, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="mismatch"):
        clouds.write_point_cloud(tmp_path / "cloud", points, torch.zeros(4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="mismatch"):
        clouds.write_point_cloud(tmp_path / "cloud", points, points.to(torch.uint8), labels=torch.zeros(3))
    assert list(tmp_path.iterdir()) == []


# Part labels in 3-D


def test_each_labelled_point_takes_the_class_of_the_nearest_rendered_one():
    cloud = cloud_of([[0, 0, 0], [1, 0, 0], [9, 9, 9]], [1, 2, 1])
    true = labelled([[0.1, 0, 0], [0.4, 0, 0], [1, 0.2, 0], [0.9, 0, 0.1]], [1, 2, 2, util.UNLABELLED])
    confusion, distance = clouds.compare(cloud, true, num_classes=3)
    expected = torch.zeros(4, 4, dtype=torch.int64)
    expected[1, 1] = expected[2, 1] = expected[2, 2] = 1
    assert confusion.tolist() == expected.tolist()
    assert distance == pytest.approx((0.1 + 0.4 + 0.2 + 0.02**0.5) / 4)


def test_a_cloud_in_other_coordinates_shows_in_the_distance():
    cloud = cloud_of([[0, 0, 0], [1, 0, 0]], [1, 2])
    assert clouds.compare(cloud, labelled([[0, 0, 50], [1, 0, 50]], [1, 2]), 3)[1] == pytest.approx(50)


def test_where_nothing_was_rendered_no_class_is_met_not_even_the_background():
    confusion, distance = clouds.compare(cloud_of([], []), labelled([[0, 0, 0], [1, 1, 1]], [0, 2]), 3)
    assert confusion.diagonal().tolist() == [0, 0, 0, 0] and np.isnan(distance)
    assert confusion[[0, 2], 3].tolist() == [1, 1]


def test_clouds_of_any_size_are_compared():
    rng = np.random.default_rng(0)
    cloud = cloud_of(rng.normal(size=(200, 3)), rng.integers(1, 3, 200))
    for count in (1, 7, 1000):
        true = labelled(rng.normal(size=(count, 3)), rng.integers(1, 3, count))
        assert clouds.compare(cloud, true, 3)[0].sum() == count

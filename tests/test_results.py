import csv
import json
import math
import threading

import imageio.v3 as iio
import numpy as np
import plyfile
import pytest
import torch

import results
import visual

# Point clouds


def test_point_cloud_comes_back_from_both_files(tmp_path):
    generator = np.random.default_rng(0)
    points = generator.normal(size=(50, 3)).astype(np.float32)
    normals = generator.normal(size=(50, 3)).astype(np.float32)
    rgb = generator.integers(0, 256, size=(50, 3), dtype=np.uint8)
    labels = generator.integers(-1, 7, size=50)
    tensors = [torch.from_numpy(array) for array in (points, rgb, labels, normals)]
    results.write_point_cloud(tmp_path / "cloud.v1", *tensors)

    ply = plyfile.PlyData.read(tmp_path / "cloud.v1.ply")
    assert (ply.text, ply.byte_order, [element.name for element in ply.elements]) == (False, "<", ["vertex"])
    vertex = ply["vertex"]
    assert np.array_equal(np.stack([vertex[name] for name in ("x", "y", "z")], axis=1), points)
    assert np.array_equal(np.stack([vertex[name] for name in ("nx", "ny", "nz")], axis=1), normals)
    assert np.array_equal(np.stack([vertex[name] for name in ("red", "green", "blue")], axis=1), rgb)
    assert np.array_equal(vertex["label"], labels)

    lines = (tmp_path / "cloud.v1.txt").read_text().splitlines()
    assert len(lines) == 50 and all(len(line.split(" ")) == 6 for line in lines)
    table = np.array([[float(number) for number in line.split()] for line in lines])
    np.testing.assert_allclose(table[:, :3], points, rtol=1e-6)
    assert np.array_equal(table[:, 3:], rgb)
    assert all(line.split()[3:] == [str(c) for c in color] for line, color in zip(lines, rgb))


def test_ply_header_and_layout_are_what_viewers_expect(tmp_path):
    results.write_point_cloud(tmp_path / "one", np.array([[1.0, 2, 3]]), np.array([[4, 5, 6]], np.uint8))
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
    results.write_point_cloud(tmp_path / "empty", torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8))
    assert plyfile.PlyData.read(tmp_path / "empty.ply")["vertex"].count == 0
    assert (tmp_path / "empty.txt").read_text() == ""


def test_point_clouds_with_colours_in_another_range_or_length_are_refused(tmp_path):
    points = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="float32, expected uint8"):
        results.write_point_cloud(tmp_path / "cloud", points, torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"rgb of shape \(5, 3\), expected \(4, 3\)"):
        results.write_point_cloud(tmp_path / "cloud", points, torch.zeros(5, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"labels of shape \(3,\), expected \(4,\)"):
        results.write_point_cloud(tmp_path / "cloud", points, points.to(torch.uint8), labels=torch.zeros(3))
    assert list(tmp_path.iterdir()) == []


# Pictures


def test_every_queued_picture_is_on_disk_after_the_block(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, size=(40, 6, 9, 3), dtype=np.uint8)
    with results.PictureWriter(num_threads=3, max_waiting=4) as writer:
        buffer = np.empty_like(pictures[0])
        for number, picture in enumerate(pictures):
            buffer[:] = picture  # the writer must not see later changes
            writer.write(tmp_path / f"{number % 2:06d}" / "rgb" / f"{number:06d}.png", buffer)
    for number, picture in enumerate(pictures):
        read = iio.imread(tmp_path / f"{number % 2:06d}" / "rgb" / f"{number:06d}.png")
        assert np.array_equal(read, picture)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 40


def test_label_pictures_keep_their_colours_on_disk(tmp_path):
    picture = visual.label_picture(torch.arange(7).reshape(1, 7), 7)
    results.write_picture(tmp_path / "seg" / "000000.png", picture)
    colors = iio.imread(tmp_path / "seg" / "000000.png")[0] / 255
    np.testing.assert_allclose(colors, visual.class_colors(7), atol=0.5 / 255)


def test_a_picture_that_cannot_be_written_raises(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    picture = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(OSError), results.PictureWriter() as writer:
        writer.write(tmp_path / "file" / "000000.png", picture)


def test_the_callers_error_is_not_hidden_by_a_failed_picture(tmp_path, monkeypatch):
    caller_failed = threading.Event()

    def fail_after_the_caller(path, picture):
        caller_failed.wait(timeout=10)
        raise OSError("disk full")

    monkeypatch.setattr(results, "write_picture", fail_after_the_caller)
    with pytest.raises(KeyError), results.PictureWriter() as writer:
        writer.write(tmp_path / "000000.png", np.zeros((4, 4, 3), np.uint8))
        caller_failed.set()
        raise KeyError("rendering went wrong")


# Scores


@pytest.fixture
def scores():
    """Two instances, three observations; class 2 is never seen.

    IoU of (background, class 1) in each image: (1/2, 1/2), (1, 1), (1, neither seen nor predicted).
    """
    scores = results.Scores()
    scores.add("chair_b", "000000", 20.0, 0.5, torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]]))
    scores.add("chair_b", "000001", torch.tensor(30.0), 0.7, torch.tensor([[6, 0, 0], [0, 4, 0], [0, 0, 0]]))
    scores.add("chair_a", "000007", 10.0, 0.9, np.diag([5, 0, 0]))
    return scores


def test_per_instance_scores_are_of_that_instance_alone(scores):
    first, second = scores.per_instance()
    assert tuple(first) == results.CSV_COLUMNS
    assert (first["instance_num"], first["instance_id"], first["max_classes"]) == (0, "chair_b", 2)
    assert first["miou"] == pytest.approx(0.75) and first["stdiou"] == pytest.approx(0.25)
    assert first["psnr"] == pytest.approx(25) and first["ssim"] == pytest.approx(0.6)
    assert (second["instance_num"], second["instance_id"], second["max_classes"]) == (1, "chair_a", 1)
    assert second["miou"] == 1.0 and second["stdiou"] == 0.0 and second["psnr"] == 10.0


def test_summary_worked_out_by_hand(scores):
    summary = scores.summary(["background", "seat", "arm"])
    assert (summary["num_images"], summary["num_instances"]) == (3, 2)
    assert summary["psnr"] == pytest.approx(20) and summary["psnr_instances"] == pytest.approx(17.5)
    assert summary["ssim"] == pytest.approx(0.7) and summary["ssim_instances"] == pytest.approx(0.75)
    assert summary["miou"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert summary["miou_instances"] == pytest.approx((0.75 + 1) / 2)
    assert summary["miou_no_background"] == pytest.approx(0.75)  # the last image has nothing but background
    # Summed over images: background meets 12 of 13, seat 5 of 6.
    assert summary["part_iou"] == {
        "background": pytest.approx(12 / 13),
        "seat": pytest.approx(5 / 6),
        "arm": pytest.approx(math.nan, nan_ok=True),
    }
    assert summary["category_miou"] == pytest.approx((12 / 13 + 5 / 6) / 2)
    assert summary["category_miou_no_background"] == pytest.approx(5 / 6)
    plain = [value for key, value in summary.items() if key != "part_iou"]
    assert all(type(value) in (int, float) for value in plain)


def test_written_files_hold_the_scores(scores, tmp_path):
    scores.write(tmp_path / "run", ["background", "seat", "arm"])
    with open(tmp_path / "run" / "final_miou.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["instance_num", "instance_id", "miou", "stdiou", "psnr", "ssim", "max_classes"],
        ["0", "chair_b", "0.750000", "0.250000", "25.000000", "0.600000", "2"],
        ["1", "chair_a", "1.000000", "0.000000", "10.000000", "0.900000", "1"],
    ]
    with open(tmp_path / "run" / "observations.csv", newline="") as file:
        observations = list(csv.DictReader(file))
    assert [(row["instance_id"], row["observation"], row["psnr"]) for row in observations] == [
        ("chair_b", "000000", "20.000000"),
        ("chair_b", "000001", "30.000000"),
        ("chair_a", "000007", "10.000000"),
    ]
    read = json.loads((tmp_path / "run" / "results.json").read_text())
    assert read["category_miou"] == pytest.approx((12 / 13 + 5 / 6) / 2) and read["part_iou"]["arm"] is None
    text = (tmp_path / "run" / "results.txt").read_text()
    assert "instances: 2, images: 3" in text
    table = {line[:32].strip(): line[32:].split() for line in text.splitlines()}
    assert table["PSNR (dB)"] == ["20.0000", "17.5000"]
    assert table["seat"] == ["0.8333"] and table["arm"] == ["never", "seen"]


def test_without_label_maps_there_is_no_made_up_miou(tmp_path):
    scores = results.Scores()
    scores.add("car", "000000", 20.0, 0.5)
    scores.write(tmp_path, ["background", "body"])
    assert (tmp_path / "final_miou.csv").read_text().splitlines()[1] == "0,car,,,20.000000,0.500000,"
    summary = scores.summary()
    assert math.isnan(summary["miou"]) and math.isnan(summary["category_miou"]) and summary["part_iou"] == {}
    assert json.loads((tmp_path / "results.json").read_text())["miou"] is None
    assert "mIoU" not in (tmp_path / "results.txt").read_text()


def test_observations_without_labels_do_not_lower_the_miou():
    scores = results.Scores()
    scores.add("chair", "000000", 20.0, 0.5, np.diag([3, 1]))
    scores.add("chair", "000001", 20.0, 0.5)
    scores.add("chair", "000002", 20.0, 0.5, np.zeros((2, 2), np.int64))  # every pixel unlabelled
    assert scores.summary()["miou"] == 1.0 and scores.per_instance()[0]["miou"] == 1.0


def test_a_broken_image_shows_in_the_mean():
    scores = results.Scores()
    scores.add("chair", "000000", 20.0, 0.5)
    scores.add("chair", "000001", math.nan, 0.5)
    assert math.isnan(scores.summary()["psnr"])


def test_a_perfect_image_leaves_valid_json(tmp_path):
    scores = results.Scores()
    scores.add("chair", "000000", math.inf, 1.0)
    scores.write(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["psnr"] is None
    assert "inf" in (tmp_path / "results.txt").read_text()


def test_scoring_an_observation_twice_is_an_error(scores):
    with pytest.raises(ValueError, match="chair_b: observation 000001 has been scored before"):
        scores.add("chair_b", "000001", 1.0, 1.0)


def test_class_names_must_match_the_scored_classes(scores):
    with pytest.raises(ValueError, match="3 classes were scored"):
        scores.summary(["background", "seat"])


def test_no_observations_at_all(tmp_path):
    results.Scores().write(tmp_path)
    assert (tmp_path / "final_miou.csv").read_text().splitlines() == [",".join(results.CSV_COLUMNS)]

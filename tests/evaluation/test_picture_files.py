import threading

import imageio.v3 as iio
import numpy as np
import plyfile
import pytest
import torch

import visual
from evaluation import picture_files

# Point clouds


def test_point_cloud_comes_back_from_both_files(tmp_path):
    generator = np.random.default_rng(0)
    points = generator.normal(size=(50, 3)).astype(np.float32)
    normals = generator.normal(size=(50, 3)).astype(np.float32)
    rgb = generator.integers(0, 256, size=(50, 3), dtype=np.uint8)
    labels = generator.integers(-1, 7, size=50)
    tensors = [torch.from_numpy(array) for array in (points, rgb, labels, normals)]
    picture_files.write_point_cloud(tmp_path / "cloud.v1", *tensors)

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
    picture_files.write_point_cloud(tmp_path / "one", np.array([[1.0, 2, 3]]), np.array([[4, 5, 6]], np.uint8))
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
    picture_files.write_point_cloud(tmp_path / "empty", torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8))
    assert plyfile.PlyData.read(tmp_path / "empty.ply")["vertex"].count == 0
    assert (tmp_path / "empty.txt").read_text() == ""


def test_point_clouds_with_colours_in_another_range_or_length_are_refused(tmp_path):
    points = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="float32, expected uint8"):
        picture_files.write_point_cloud(tmp_path / "cloud", points, torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"rgb of shape \(5, 3\), expected \(4, 3\)"):
        picture_files.write_point_cloud(tmp_path / "cloud", points, torch.zeros(5, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"labels of shape \(3,\), expected \(4,\)"):
        picture_files.write_point_cloud(tmp_path / "cloud", points, points.to(torch.uint8), labels=torch.zeros(3))
    assert list(tmp_path.iterdir()) == []


# Pictures


def test_every_queued_picture_is_on_disk_after_the_block(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, size=(40, 6, 9, 3), dtype=np.uint8)
    with picture_files.PictureWriter(num_threads=3, max_waiting=4) as writer:
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
    picture_files.write_picture(tmp_path / "seg" / "000000.png", picture)
    colors = iio.imread(tmp_path / "seg" / "000000.png")[0] / 255
    np.testing.assert_allclose(colors, visual.class_colors(7), atol=0.5 / 255)


def test_a_picture_that_cannot_be_written_raises(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    picture = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(OSError), picture_files.PictureWriter() as writer:
        writer.write(tmp_path / "file" / "000000.png", picture)


def test_the_callers_error_is_not_hidden_by_a_failed_picture(tmp_path, monkeypatch):
    caller_failed = threading.Event()

    def fail_after_the_caller(path, picture):
        caller_failed.wait(timeout=10)
        raise OSError("disk full")

    monkeypatch.setattr(picture_files, "write_picture", fail_after_the_caller)
    with pytest.raises(KeyError), picture_files.PictureWriter() as writer:
        writer.write(tmp_path / "000000.png", np.zeros((4, 4, 3), np.uint8))
        caller_failed.set()
        raise KeyError("rendering went wrong")

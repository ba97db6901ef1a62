import csv
import json
import math

import numpy as np
import pytest
import skimage.metrics
import torch

import util
import visual
from evaluation import metrics, scoring

CLASSES = ["background", "seat", "arm"]
nan = math.nan


def row(psnr, ssim=0.5):
    """Image scores; those over four channels are 1 dB and 0.1 above the others."""
    return dict(psnr=psnr, ssim=ssim, psnr_rgba=psnr + 1, ssim_rgba=ssim + 0.1)


@pytest.fixture
def scores():
    """Two instances, three observations, a point cloud; "arm" is seen in the point cloud alone.

    IoU of (background, seat) in each image: (1/2, 1/2), (1, 1), (1, neither seen nor predicted).
    """
    scores = scoring.Scores(CLASSES)
    scores.add("chair_b", "000000", row(20.0, 0.5), torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]]))
    scores.add("chair_b", "000001", row(30.0, 0.7), torch.tensor([[6, 0, 0], [0, 4, 0], [0, 0, 0]]))
    scores.add("chair_a", "000007", row(torch.tensor(10.0), 0.9), np.diag([5, 0, 0]))
    scores.add_cloud("chair_b", torch.tensor([[0, 0, 0, 0], [0, 2, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]), 0.25)
    return scores


@pytest.fixture
def two_clouds(scores):
    """One more cloud, of an instance of which nothing was rendered: 4 points of "seat"."""
    confusion = torch.zeros(4, 4, dtype=torch.int64)
    confusion[1, 3] = 4
    scores.add_cloud("chair_a", confusion, nan)
    return scores


# Image scores


@pytest.mark.parametrize("channels", [3, 4])
def test_the_scores_that_count_are_those_of_the_pictures_in_8_bits(channels):
    torch.manual_seed(0)
    target = torch.rand(3, 4, 8, 11) * 2 - 1
    rgb = target[:, :channels] + 0.3 * torch.randn(3, channels, 8, 11)
    for scored, image, truth in zip(scoring.image_scores(rgb, target), rgb, target):
        image, truth = visual.to_uint8(image), visual.to_uint8(truth)
        assert scored["psnr"] == pytest.approx(skimage.metrics.peak_signal_noise_ratio(truth, image), abs=1e-9)
        expected = skimage.metrics.structural_similarity(truth, image, channel_axis=-1)
        assert scored["ssim"] == pytest.approx(expected, abs=1e-9)


def test_the_published_scores_are_taken_of_the_floats_over_four_channels(parity):
    published = parity.load("metrics")
    rgb, target = (util.as_image(torch.from_numpy(published[f"{name}_rgb"])) for name in ("pred", "target"))
    scored = scoring.image_scores(rgb, target)
    np.testing.assert_allclose([x["psnr_rgba"] for x in scored], published["psnr_rgba"], atol=1e-5)
    np.testing.assert_allclose([x["ssim_rgba"] for x in scored], published["ssim_rgba"], atol=1e-5)


def test_three_colours_count_with_a_constant_alpha_which_lifts_psnr_by_a_quarter_of_the_error():
    torch.manual_seed(0)
    target = torch.cat([torch.rand(2, 3, 8, 8), torch.ones(2, 1, 8, 8)], dim=1)
    rgb = torch.rand(2, 3, 8, 8)
    over_three = metrics.psnr(rgb, target[:, :3])
    for scored, psnr in zip(scoring.image_scores(rgb, target), over_three.tolist()):
        assert scored["psnr_rgba"] - psnr == pytest.approx(10 * math.log10(4 / 3), abs=1e-6)


def test_a_rendering_that_is_not_finite_has_no_scores_though_its_picture_has():
    rgb, target = torch.zeros(2, 3, 8, 8), torch.ones(2, 4, 8, 8)
    rgb[1, 0, 3, 3] = nan
    sound, broken = scoring.image_scores(rgb, target)
    assert all(map(math.isfinite, sound.values())) and all(map(math.isnan, broken.values()))


# Per image, per instance, over all


def test_an_image_has_the_iou_of_each_class_that_is_there(scores):
    first, second, third = scores.per_observation()
    assert [x["observation"] for x in (first, second, third)] == ["000000", "000001", "000007"]
    assert first["part_iou"] == pytest.approx({"background": 0.5, "seat": 0.5, "arm": nan}, nan_ok=True)
    assert third["part_iou"] == pytest.approx({"background": 1, "seat": nan, "arm": nan}, nan_ok=True)
    assert (first["psnr"], first["psnr_rgba"], first["ssim"], first["ssim_rgba"]) == (20, 21, 0.5, 0.6)
    assert first["miou"] == first["miou_no_background"] == 0.5 and third["miou"] == 1.0
    assert math.isnan(third["miou_no_background"])


def test_per_instance_scores_are_of_that_instance_alone(scores):
    first, second = scores.per_instance()
    assert tuple(first)[:7] == scoring.PUBLISHED_COLUMNS
    assert (first["instance_num"], first["instance_id"], first["max_classes"]) == (0, "chair_b", 2)
    assert first["miou"] == pytest.approx(0.75) and first["stdiou"] == pytest.approx(0.25)
    assert first["psnr"] == pytest.approx(25) and first["ssim"] == pytest.approx(0.6)
    assert first["psnr_rgba"] == pytest.approx(26) and first["ssim_rgba"] == pytest.approx(0.7)
    assert (first["num_images"], second["num_images"]) == (2, 1)
    assert (second["instance_num"], second["instance_id"], second["max_classes"]) == (1, "chair_a", 1)
    assert second["miou"] == 1.0 and second["stdiou"] == 0.0 and second["psnr"] == 10.0
    assert math.isnan(second["miou_no_background"])


def test_max_classes_are_those_of_one_true_label_map():
    """Two classes in each image's truth, one of them in both; three are predicted."""
    scores = scoring.Scores(CLASSES)
    scores.add("chair", "000000", row(20.0), torch.tensor([[1, 1, 1], [0, 1, 0], [0, 0, 0]]))
    scores.add("chair", "000001", row(20.0), torch.tensor([[1, 1, 1], [0, 0, 0], [0, 0, 1]]))
    assert scores.per_instance()[0]["max_classes"] == 2


def test_the_iou_of_an_instance_is_that_of_its_images_together(scores):
    """Background meets 7 of 8 pixels in the two images of chair_b, seat 5 of 6."""
    first, second = scores.per_instance()
    assert first["part_iou"] == pytest.approx({"background": 7 / 8, "seat": 5 / 6, "arm": nan}, nan_ok=True)
    assert second["part_iou"] == pytest.approx({"background": 1, "seat": nan, "arm": nan}, nan_ok=True)


def test_summary_worked_out_by_hand(scores):
    summary = scores.summary()
    assert (summary["num_images"], summary["num_instances"]) == (3, 2)
    assert summary["psnr"] == pytest.approx(20) and summary["psnr_instances"] == pytest.approx(17.5)
    assert summary["ssim"] == pytest.approx(0.7) and summary["ssim_instances"] == pytest.approx(0.75)
    assert summary["psnr_rgba"] == pytest.approx(21) and summary["psnr_rgba_instances"] == pytest.approx(18.5)
    assert summary["ssim_rgba"] == pytest.approx(0.8) and summary["ssim_rgba_instances"] == pytest.approx(0.85)
    assert summary["miou"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert summary["miou_instances"] == pytest.approx((0.75 + 1) / 2)
    assert summary["miou_no_background"] == pytest.approx(0.75)  # the last image has nothing but background
    assert summary["miou_no_background_instances"] == pytest.approx(0.75)
    # Summed over images: background meets 12 of 13, seat 5 of 6.
    assert summary["part_iou"] == pytest.approx({"background": 12 / 13, "seat": 5 / 6, "arm": nan}, nan_ok=True)
    assert summary["category_miou"] == pytest.approx((12 / 13 + 5 / 6) / 2)
    assert summary["category_miou_no_background"] == pytest.approx(5 / 6)
    assert all(type(value) in (int, float) for key, value in summary.items() if not key.startswith("part_iou"))


# In 3-D


def test_scores_in_3d_are_those_of_the_cloud(scores):
    """Seat meets 2 of 3 points, arm 1 of 2; the cloud has no background."""
    first, second = scores.per_instance()
    assert first["part_iou_3d"] == pytest.approx({"background": nan, "seat": 2 / 3, "arm": 1 / 2}, nan_ok=True)
    assert first["miou_3d"] == pytest.approx(7 / 12) and first["cloud_distance"] == 0.25
    assert math.isnan(second["miou_3d"]) and second["part_iou_3d"] == {}
    summary = scores.summary()
    assert summary["num_clouds"] == 1
    assert summary["miou_3d"] == summary["category_miou_3d"] == pytest.approx(7 / 12)


def test_an_instance_of_which_nothing_was_rendered_scores_0_in_3d(two_clouds):
    """Over both clouds, seat meets 2 of 7 points. Background, in neither of them, does not count."""
    assert two_clouds.per_instance()[1]["miou_3d"] == 0
    summary = two_clouds.summary()
    assert summary["num_clouds"] == 2 and summary["miou_3d"] == pytest.approx(7 / 24)
    assert summary["part_iou_3d"] == pytest.approx({"background": nan, "seat": 2 / 7, "arm": 1 / 2}, nan_ok=True)
    assert summary["category_miou_3d"] == pytest.approx((2 / 7 + 1 / 2) / 2)
    assert summary["cloud_distance"] == 0.25


# Files


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_of_instances_begins_with_the_published_columns(two_clouds, tmp_path):
    two_clouds.write(tmp_path / "run")
    assert (tmp_path / "run" / "final_miou.csv").read_text().splitlines() == [
        "instance_num,instance_id,miou,stdiou,psnr,ssim,max_classes,miou_no_background,psnr_rgba,ssim_rgba,"
        "num_images,iou_background,iou_seat,iou_arm,"
        "miou_3d,cloud_distance,iou_3d_background,iou_3d_seat,iou_3d_arm",
        "0,chair_b,0.750000,0.250000,25.000000,0.600000,2,0.750000,26.000000,0.700000,"
        "2,0.875000,0.833333,,"
        "0.583333,0.250000,,0.666667,0.500000",
        "1,chair_a,1.000000,0.000000,10.000000,0.900000,1,,11.000000,1.000000,1,1.000000,,,0.000000,,,0.000000,",
    ]


def test_the_table_of_images_has_an_empty_field_where_a_class_is_neither_seen_nor_predicted(scores, tmp_path):
    scores.write(tmp_path)
    first, second, third = read_csv(tmp_path / "observations.csv")
    assert list(first) == [
        "instance_id",
        "observation",
        "psnr",
        "ssim",
        "miou",
        "miou_no_background",
        "psnr_rgba",
        "ssim_rgba",
        "iou_background",
        "iou_seat",
        "iou_arm",
    ]
    assert [x["instance_id"] for x in (first, second, third)] == ["chair_b", "chair_b", "chair_a"]
    assert [x["psnr"] for x in (first, second, third)] == ["20.000000", "30.000000", "10.000000"]
    assert [x["iou_seat"] for x in (first, second, third)] == ["0.500000", "1.000000", ""]


def test_results_json_holds_the_summary_the_instances_and_what_was_evaluated(scores, tmp_path):
    scores.write(tmp_path, run={"eval_mode": "srn"})
    read = json.loads((tmp_path / "results.json").read_text())
    assert read["run"] == {"eval_mode": "srn"}
    assert read["category_miou"] == pytest.approx((12 / 13 + 5 / 6) / 2) and read["part_iou"]["arm"] is None
    assert read.keys() == {"run", "instances"} | scores.summary().keys()
    assert [x["instance_id"] for x in read["instances"]] == ["chair_b", "chair_a"]
    assert read["instances"][0]["part_iou"] == {"background": 7 / 8, "seat": pytest.approx(5 / 6), "arm": None}
    assert read["instances"][1]["miou_3d"] is None


def test_the_text_has_both_kinds_of_means_and_both_kinds_of_image_scores(scores, tmp_path):
    scores.write(tmp_path)
    text = (tmp_path / "results.txt").read_text()
    assert "instances: 2, images: 3" in text
    in_2d, in_3d = text.split("IoU in 3-D, points summed over all labelled clouds (1)")
    table = {line[:34].strip(): line[34:].split() for line in in_2d.splitlines()}
    assert table["PSNR (dB)"] == ["20.0000", "17.5000"] and table["SSIM"] == ["0.7000", "0.7500"]
    assert table["PSNR RGBA (dB)"] == ["21.0000", "18.5000"] and table["SSIM RGBA"] == ["0.8000", "0.8500"]
    assert table["seat"] == ["0.8333"] and table["arm"] == ["never", "seen"]
    table = {line[:34].strip(): line[34:].split() for line in in_3d.splitlines()}
    assert table["seat"] == ["0.6667"] and table["arm"] == ["0.5000"] and table["3-D mIoU"] == ["0.5833"]


def test_without_label_maps_there_is_no_made_up_miou(tmp_path):
    scores = scoring.Scores(["background", "body"])
    scores.add("car", "000000", row(20.0))
    scores.write(tmp_path)
    lines = (tmp_path / "final_miou.csv").read_text().splitlines()
    assert lines[1] == "0,car,,,20.000000,0.500000,,,21.000000,0.600000,1" and "iou_body" not in lines[0]
    summary = scores.summary()
    assert math.isnan(summary["miou"]) and math.isnan(summary["category_miou"]) and summary["part_iou"] == {}
    read = json.loads((tmp_path / "results.json").read_text())
    assert read["miou"] is None and read["miou_3d"] is None and read["num_clouds"] == 0
    assert "mIoU" not in (tmp_path / "results.txt").read_text()


def test_observations_without_labels_do_not_lower_the_miou():
    scores = scoring.Scores()
    scores.add("chair", "000000", row(20.0), np.diag([3, 1]))
    scores.add("chair", "000001", row(20.0))
    scores.add("chair", "000002", row(20.0), np.zeros((2, 2), np.int64))  # every pixel unlabelled
    assert scores.summary()["miou"] == 1.0 and scores.per_instance()[0]["miou"] == 1.0


def test_a_broken_image_shows_in_the_mean():
    scores = scoring.Scores()
    scores.add("chair", "000000", row(20.0))
    scores.add("chair", "000001", row(nan))
    assert math.isnan(scores.summary()["psnr"])


def test_a_perfect_image_leaves_valid_json(tmp_path):
    scores = scoring.Scores()
    scores.add("chair", "000000", row(math.inf, 1.0))
    scores.write(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["psnr"] is None
    assert "inf" in (tmp_path / "results.txt").read_text()


def test_scoring_an_observation_twice_is_an_error(scores):
    with pytest.raises(ValueError, match="chair_b: observation 000001 has been scored before"):
        scores.add("chair_b", "000001", row(1.0))


def test_class_names_must_match_the_scored_classes():
    with pytest.raises(ValueError, match="3 classes are scored"):
        scoring.Scores(["background", "seat"]).add("chair", "000000", row(1.0), np.eye(3))


def test_classes_of_one_name_stay_apart():
    scores = scoring.Scores(["background", "leg", "leg"])
    scores.add("chair", "000000", row(1.0), np.array([[2, 0, 0], [0, 1, 1], [0, 0, 1]]))
    assert scores.summary()["part_iou"] == {"background 0": 1, "leg 1": 0.5, "leg 2": 0.5}


def test_no_observations_at_all(tmp_path):
    scoring.Scores().write(tmp_path)
    header = ",".join(scoring.PUBLISHED_COLUMNS) + ",miou_no_background,psnr_rgba,ssim_rgba,num_images"
    assert (tmp_path / "final_miou.csv").read_text().splitlines() == [header]

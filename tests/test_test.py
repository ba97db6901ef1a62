import csv
import json
import shutil

import imageio.v3 as iio
import numpy as np
import plyfile
import pytest
import scenes
import skimage.metrics
import torch

import checkpoints
import data_util
import published
import srns
import test
import train
import util
import visual
from evaluation import metrics, score_names, scoring
from rendering import renderer

CLASSES = ["background", "upper half", "lower half"]  # of scenes.CLASS_LIST
VIEWS = [f"{view:06d}" for view in range(4)]


@pytest.fixture(scope="module")
def other_views(tmp_path_factory):
    """A split of the objects of `semantic_run` in other views."""
    root = tmp_path_factory.mktemp("other_views") / "Ball" / "Ball.train_test"
    return scenes.write_split(root, first_view=30)


@pytest.fixture(scope="module")
def evaluation(other_views, semantic_run, tmp_path_factory):
    """The folder of an evaluation with all outputs."""
    logs = tmp_path_factory.mktemp("evaluation")
    test.main(scenes.test_options(other_views, logs, "all", semantic_run, point_cloud=True, batch_size=3, input_idcs=2))
    return logs / "all"


def observations(folder):
    with open(folder / "observations.csv", newline="") as file:
        return {(row["instance_id"], row["observation"]): row for row in csv.DictReader(file)}


def instances(folder):
    with open(folder / "final_miou.csv", newline="") as file:
        return {row["instance_id"]: row for row in csv.DictReader(file)}


def summary_of(folder):
    return json.loads((folder / "results.json").read_text())


def picture(folder, kind, name):
    """A written image of an observation (instance name, view name)."""
    number = ["ball_a", "ball_b"].index(name[0])
    return iio.imread(folder / f"{number:06d}" / kind / f"{name[1]}.png")


def evaluate(split, checkpoint, logs, log_dir, **options):
    test.main(scenes.test_options(split, logs, log_dir, checkpoint, **options))
    return logs / log_dir


@pytest.fixture
def refused(refuses, tmp_path):
    """Asserts that test.main refuses the arguments, and has written no results."""

    def call(arguments, reason):
        refuses(test.main, arguments, reason)
        assert not list(tmp_path.rglob("results.*"))

    return call


# Scores


def test_every_image_that_was_not_given_is_scored_once(evaluation):
    expected = [(name, view) for name in ("ball_a", "ball_b") for view in VIEWS if view != "000002"]
    assert list(observations(evaluation)) == expected
    assert (summary_of(evaluation)["num_images"], summary_of(evaluation)["num_instances"]) == (6, 2)


def test_psnr_and_ssim_can_be_recomputed_from_the_written_pictures(evaluation):
    for name, row in observations(evaluation).items():
        rgb, truth = (picture(evaluation, kind, name) for kind in ("rgb", "rgb_gt"))
        psnr = skimage.metrics.peak_signal_noise_ratio(truth, rgb)
        ssim = skimage.metrics.structural_similarity(truth, rgb, channel_axis=-1)
        assert float(row["psnr"]) == pytest.approx(psnr, abs=1e-6)
        assert float(row["ssim"]) == pytest.approx(ssim, abs=1e-6)


def test_scores_and_pictures_are_those_of_each_image(evaluation, other_views, semantic_run):
    """Recomputed here, image by image, with all rays at once and without point clouds."""
    model = checkpoints.load_srn(checkpoints.load(semantic_run)).eval()
    options = test.read_options(scenes.test_options(other_views, "unused", "unused", semantic_run))
    dataset, _ = test.open_data(options, checkpoints.open_srn(semantic_run))
    rows = observations(evaluation)
    for index, batch in enumerate(torch.utils.data.DataLoader(dataset)):
        name = dataset.name_of(index)
        if name not in rows:
            continue
        with torch.no_grad():
            outputs = model(batch)
        rgb, target = (util.as_image(x["rgb"]) for x in (outputs, batch))
        confusion = metrics.confusion_matrix(outputs["seg_logits"].argmax(-1), batch["seg_labels"], 3)[0]
        expected = scoring.image_scores(rgb, target)[0] | {
            "miou": metrics.mean_iou(confusion).item(),
            "miou_no_background": metrics.mean_iou(confusion, with_background=False).item(),
        }
        for score, value in expected.items():
            tolerance = 1e-4 if score not in ("psnr", "ssim") else 2e-3  # where a level of 255 may tip over
            assert float(rows[name][score]) == pytest.approx(value, abs=tolerance), (name, score)
        for class_name, iou in zip(CLASSES, metrics.iou_per_class(confusion).tolist()):
            assert float(rows[name][f"iou_{class_name}"] or "nan") == pytest.approx(iou, abs=1e-4, nan_ok=True)
        np.testing.assert_allclose(picture(evaluation, "rgb", name), visual.to_uint8(rgb[0]), rtol=0, atol=1)


def test_the_row_of_an_instance_is_the_mean_of_its_own_images(evaluation):
    """With batches of 3 and instances of 4 views, both instances have images in the second batch."""
    for instance, row in instances(evaluation).items():
        own = [x for name, x in observations(evaluation).items() if name[0] == instance]
        assert row["num_images"] == str(len(own)) == "3"
        for score in ("psnr", "ssim", "psnr_rgba", "ssim_rgba", "miou", "miou_no_background"):
            assert float(row[score]) == pytest.approx(np.mean([float(x[score]) for x in own]), abs=2e-6), score
        assert row["max_classes"] == "3"
    assert instances(evaluation)["ball_a"]["psnr"] != instances(evaluation)["ball_b"]["psnr"]


def test_the_printed_mean_is_the_mean_over_all_images(other_views, semantic_run, tmp_path, capsys):
    folder = evaluate(other_views, semantic_run, tmp_path, "test", save_out_first_n=0, batch_size=3)
    text = (folder / "results.txt").read_text()
    assert text in capsys.readouterr().out
    table = {line[:34].strip(): line[34:].split() for line in text.splitlines()}
    for score in ("psnr", "ssim", "psnr_rgba", "ssim_rgba"):
        values = [float(row[score]) for row in observations(folder).values()]
        assert len(set(values)) == 8 and summary_of(folder)[score] == pytest.approx(np.mean(values), abs=1e-6)
        assert float(table[score_names.TITLES[score]][0]) == pytest.approx(np.mean(values), abs=1e-4)


@pytest.mark.parametrize("options", [dict(batch_size=1), dict(batch_size=32), dict(preload=True), dict(num_workers=1)])
def test_scores_depend_neither_on_batches_nor_on_point_clouds(evaluation, other_views, semantic_run, tmp_path, options):
    """`evaluation` has batches of 3 and point clouds; both change the published scores."""
    folder = evaluate(other_views, semantic_run, tmp_path, "again", input_idcs=2, save_out_first_n=0, **options)
    for rows_of in (observations, instances):
        reference, again = rows_of(evaluation), rows_of(folder)
        assert list(reference) == list(again)
        for name, row in reference.items():
            assert list(row) == list(again[name])
            for score in list(row)[2:]:  # after the names
                tolerance = 2e-3 if score in ("psnr", "ssim") else 2e-5  # where a level of 255 may tip over
                one, other = (float(rows[name][score] or "nan") for rows in (reference, again))
                assert other == pytest.approx(one, abs=tolerance, nan_ok=True), (name, score)
    assert summary_of(folder)["run"]["views_digest"] == summary_of(evaluation)["run"]["views_digest"]


def test_scores_do_not_depend_on_how_many_rays_are_rendered_at_once(
    evaluation, other_views, semantic_run, tmp_path, monkeypatch
):
    monkeypatch.setitem(renderer.RAYS_PER_BLOCK, "cpu", 200)
    folder = evaluate(other_views, semantic_run, tmp_path, "again", input_idcs=2, save_out_first_n=0, batch_size=2)
    for name, row in observations(evaluation).items():
        assert float(observations(folder)[name]["psnr_rgba"]) == pytest.approx(float(row["psnr_rgba"]), abs=2e-5)


def test_views_that_the_codes_were_fitted_to_are_not_scored(ball_split, semantic_run, tmp_path):
    new = scenes.write_split(tmp_path / "Ball" / "Ball.test", names=("ball_x", "ball_y"))
    fitting = dict(checkpoint_path=semantic_run, overwrite_embeddings=True, class_weight=0, specific_observation_idcs="0,3")
    train.main(scenes.train_options(new, tmp_path, "fitted", **fitting))
    folder = evaluate(new, tmp_path / "fitted", tmp_path, "test")
    assert list(observations(folder)) == [(name, view) for name in ("ball_x", "ball_y") for view in ("000001", "000002")]
    assert [path.name for path in sorted((folder / "000000" / "input").iterdir())] == ["000000.png", "000003.png"]
    everything = evaluate(new, tmp_path / "fitted", tmp_path, "everything", score_input_views=True)
    assert len(observations(everything)) == 8
    one = evaluate(new, tmp_path / "fitted", tmp_path, "one", specific_ins="ball_y", save_out_first_n=0)
    assert [summary_of(x)["run"]["num_given_views"] for x in (folder, everything, one)] == [4, 4, 2]


def test_the_same_view_of_another_split_is_another_image(other_views, semantic_run, tmp_path):
    """The model was trained on all four view names, but those of Ball.train."""
    folder = evaluate(other_views, semantic_run, tmp_path, "test", save_out_first_n=0)
    assert len(observations(folder)) == 8


def test_each_object_is_rendered_with_the_code_of_its_name(other_views, semantic_run, tmp_path):
    """Scores do not change with the order of the codes or an additional one."""
    checkpoint = torch.load(checkpoints.find(semantic_run), weights_only=True)
    codes = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    checkpoint["model"]["latent_codes.weight"] = codes
    checkpoints.save(tmp_path / "straight.pth", checkpoint)
    checkpoint["model"]["latent_codes.weight"] = torch.stack([codes[1], torch.zeros(8), codes[0]])
    checkpoint["sizes"]["num_instances"] = 3
    checkpoint["instances"] = ["ball_b", "ball_0", "ball_a"]
    checkpoints.save(tmp_path / "crossed.pth", checkpoint)
    straight, crossed = (
        observations(evaluate(other_views, tmp_path / f"{name}.pth", tmp_path, name, save_out_first_n=0))
        for name in ("straight", "crossed")
    )
    assert straight == crossed
    assert straight["ball_a", "000000"]["psnr"] != straight["ball_b", "000000"]["psnr"]


def test_without_a_class_list_only_images_are_scored(other_views, semantic_run, tmp_path):
    folder = evaluate(other_views, semantic_run, tmp_path, "test", obj_name=None)
    assert {row["miou"] for row in observations(folder).values()} == {""}
    assert (folder / "000000" / "seg").is_dir() and not (folder / "000000" / "seg_gt").exists()


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_head_takes_the_place_of_the_unet(evaluation, ball_split, other_views, semantic_run, tmp_path, kind):
    training = dict(checkpoint_path=semantic_run, model_type=kind, max_steps_per_img_sidelength=20, lr=1e-2)
    train.main(scenes.train_options(ball_split, tmp_path, "head", **training))
    folder = evaluate(other_views, semantic_run, tmp_path, "test", eval_mode=kind, linear_path=tmp_path / "head")
    by_unet, by_head = observations(evaluation), observations(folder)
    name = "ball_a", "000000"
    assert by_head[name]["psnr"] == by_unet[name]["psnr"]
    assert float(by_head[name]["miou"]) != float(by_unet[name]["miou"])


# Files


def test_every_view_has_its_pictures(evaluation):
    for instance in ("000000", "000001"):
        for kind in ("normals", "rgb", "rgb_gt", "seg", "seg_gt", "comparison"):
            paths = sorted((evaluation / instance / kind).iterdir())
            assert [path.stem for path in paths] == VIEWS
            height, width = iio.imread(paths[0]).shape[:2]
            assert height == 16 and (width == 16 or kind == "comparison")
        assert [path.name for path in (evaluation / instance / "input").iterdir()] == ["000002.png"]


def test_the_pictures_of_the_truth_are_the_files_over_white(evaluation, other_views):
    rgba = iio.imread(other_views / "ball_b" / "rgb" / "000001.png")
    written = iio.imread(evaluation / "000001" / "rgb_gt" / "000001.png")
    expected = np.where(rgba[..., 3:] > 0, rgba[..., :3], 255)
    assert (written == expected).all()
    seg_labels = np.load(other_views / "ball_b" / "seg" / "000001.npy")
    palette = np.rint(visual.class_colors(3) * 255)
    assert (iio.imread(evaluation / "000001" / "seg_gt" / "000001.png") == palette[seg_labels]).all()


def test_the_pictures_of_a_comparison_are_the_written_ones(evaluation):
    comparison = picture(evaluation, "comparison", ("ball_b", "000001"))
    for place, kind in enumerate(("normals", "rgb", "rgb_gt", "seg", "seg_gt")):
        part = comparison[:, 18 * place : 18 * place + 16]  # 2 white columns between
        assert (part == picture(evaluation, kind, ("ball_b", "000001"))).all(), kind


def test_results_json_says_what_was_evaluated(evaluation, other_views, semantic_run, tmp_path):
    run = summary_of(evaluation)["run"]
    digest = run.pop("views_digest")
    assert run == {
        "checkpoint": str(checkpoints.find(semantic_run).resolve()),
        "head": None,
        "eval_mode": "srn",
        "data_root": str(other_views.resolve()),
        "img_sidelength": 16,
        "num_scored_views": 6,
        "num_given_views": 2,
        "score_input_views": False,
    }
    folder = evaluate(other_views, semantic_run, tmp_path, "as many other views", input_idcs=1, save_out_first_n=0)
    again = summary_of(folder)["run"]
    assert again["num_scored_views"] == 6 and again["views_digest"] != digest


def test_scored_input_views_still_count_as_given(other_views, semantic_run, tmp_path):
    options = dict(input_idcs="0,2", score_input_views=True, save_out_first_n=0)
    run = summary_of(evaluate(other_views, semantic_run, tmp_path, "test", **options))["run"]
    assert (run["num_scored_views"], run["num_given_views"], run["score_input_views"]) == (8, 4, True)


def test_the_tables_and_the_contact_sheet_exist(evaluation):
    for name in ("final_miou.csv", "observations.csv", "results.txt", "results.json", "params.txt", "contact_sheet.png"):
        assert (evaluation / name).stat().st_size > 0, name
    with open(evaluation / "final_miou.csv", newline="") as file:
        assert [row["instance_id"] for row in csv.DictReader(file)] == ["ball_a", "ball_b"]
    assert list(summary_of(evaluation)["part_iou"]) == CLASSES
    assert not list(evaluation.rglob(".*"))  # no temporary files


def test_point_clouds_hold_each_surface_point_once_without_the_background(evaluation, other_views, semantic_run):
    model = checkpoints.load_srn(checkpoints.load(semantic_run)).eval()
    options = test.read_options(scenes.test_options(other_views, "unused", "unused", semantic_run))
    dataset, _ = test.open_data(options, checkpoints.open_srn(semantic_run))
    batch = torch.utils.data.default_collate([dataset[i] for i in range(4)])  # ball_a
    outputs = renderer.render(model, batch)
    solid = outputs["seg_logits"].argmax(-1) > 0
    for kind in ("rgb", "seg"):
        cloud = plyfile.PlyData.read(evaluation / "000000" / f"point_cloud_{kind}.ply")["vertex"]
        points = np.stack([cloud[axis] for axis in "xyz"], axis=-1)
        np.testing.assert_allclose(points, outputs["points"][solid], atol=1e-5)
        assert len(np.loadtxt(evaluation / "000000" / f"point_cloud_{kind}.txt").reshape(-1, 6)) == len(points)
    assert cloud["label"].tolist() == outputs["seg_logits"].argmax(-1)[solid].tolist()


@pytest.mark.parametrize("first_n, folders", [(0, []), (1, ["000000"])])
def test_pictures_and_clouds_of_the_first_instances_only(other_views, semantic_run, tmp_path, first_n, folders):
    folder = evaluate(other_views, semantic_run, tmp_path, "test", save_out_first_n=first_n, point_cloud=True)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == folders
    assert len(list(folder.glob("*/point_cloud_rgb.ply"))) == len(folders)
    assert len(observations(folder)) == 8 and (folder / "contact_sheet.png").exists()


@pytest.mark.parametrize("obj_name", [None, "Ball"], ids=["no class list", "a class list"])
def test_a_vanilla_srn_is_rendered_without_classes(obj_name, ball_split, other_views, tmp_path):
    train.main(scenes.train_options(ball_split, tmp_path, "vanilla", class_weight=0, rays_per_image=8))
    options = dict(point_cloud=True, img_sidelength=12, obj_name=obj_name)
    folder = evaluate(other_views, tmp_path / "vanilla", tmp_path, "test", **options)
    assert not (folder / "000000" / "seg").exists() and not (folder / "000000" / "point_cloud_seg.ply").exists()
    assert (folder / "000000" / "point_cloud_rgb.ply").exists()
    assert iio.imread(folder / "000000" / "rgb" / "000000.png").shape == (12, 12, 3)
    assert summary_of(folder)["miou"] is None and "iou_upper half" not in observations(folder)["ball_a", "000000"]


def test_chosen_views_and_instances_keep_their_names(other_views, semantic_run, tmp_path):
    folder = evaluate(other_views, semantic_run, tmp_path, "test", specific_ins="ball_b", specific_observation_idcs="3,1")
    assert list(observations(folder)) == [("ball_b", "000003"), ("ball_b", "000001")]
    assert sorted(path.name for path in (folder / "000000" / "rgb").iterdir()) == ["000001.png", "000003.png"]


def test_a_view_that_is_named_twice_is_scored_once(other_views, semantic_run, tmp_path):
    folder = evaluate(other_views, semantic_run, tmp_path, "test", specific_observation_idcs="1,1", save_out_first_n=0)
    assert list(observations(folder)) == [("ball_a", "000001"), ("ball_b", "000001")]


def test_data_settings_that_differ_from_training_are_noted(other_views, semantic_run, tmp_path, capsys):
    for name, blend in (("same", None), ("other", True)):
        evaluate(other_views, semantic_run, tmp_path, name, blend_alpha=blend, save_out_first_n=0)
        assert ("note: the data have" in capsys.readouterr().out) == (name == "other")


# Parts in 3-D


def write_cloud(folder, points, labels):
    """The labelled point cloud of an instance folder."""
    (folder / "point_cloud").mkdir()
    others = np.zeros((len(points), 7))  # normal, colour, alpha
    np.savetxt(folder / data_util.CLOUD_POINTS, np.concatenate([points, others], axis=1))
    np.savetxt(folder / data_util.CLOUD_LABELS[0], labels, fmt="%d")


@pytest.fixture(scope="module")
def clouded(other_views, evaluation, tmp_path_factory):
    """`other_views` with a cloud for ball_a: its rendered points in class 1, a quarter of them labelled 2."""
    root = tmp_path_factory.mktemp("clouded") / "Ball"
    shutil.copytree(other_views.parent, root)
    points = np.loadtxt(evaluation / "000000" / "point_cloud_seg.txt")[::5, :3]
    write_cloud(root / other_views.name / "ball_a", points, np.arange(len(points)) % 4 // 3 + 1)
    return root / other_views.name


@pytest.mark.parametrize("point_cloud", [None, True])
def test_parts_are_scored_in_3d_with_and_without_written_clouds(clouded, semantic_run, tmp_path, point_cloud):
    options = dict(point_cloud=point_cloud, save_out_first_n=0, batch_size=3)
    folder = evaluate(clouded, semantic_run, tmp_path, "test", **options)
    assert not list(folder.rglob("point_cloud*"))
    rows = instances(folder)
    assert float(rows["ball_a"]["iou_3d_upper half"]) == pytest.approx(0.75, abs=0.01)
    assert float(rows["ball_a"]["iou_3d_lower half"]) == 0 and rows["ball_a"]["iou_3d_background"] == ""
    assert float(rows["ball_a"]["miou_3d"]) == pytest.approx(0.375, abs=0.005)
    assert float(rows["ball_a"]["cloud_distance"]) < 1e-5
    assert rows["ball_b"]["miou_3d"] == rows["ball_b"]["cloud_distance"] == ""
    summary = summary_of(folder)
    assert summary["num_clouds"] == 1 and summary["miou_3d"] == pytest.approx(0.375, abs=0.005)
    assert summary["instances"][1]["part_iou_3d"] == {}


def test_an_instance_rendered_as_nothing_but_background_scores_0_in_3d(clouded, semantic_run, tmp_path):
    checkpoint = torch.load(checkpoints.find(semantic_run), weights_only=True)
    (bias,) = [key for key in checkpoint["model"] if "class_generator.out_layer" in key and key.endswith("bias")]
    checkpoint["model"][bias] = torch.tensor([1e6, 0, 0])
    checkpoints.save(tmp_path / "background.pth", checkpoint)
    folder = evaluate(clouded, tmp_path / "background.pth", tmp_path, "test", point_cloud=True)
    row = instances(folder)["ball_a"]
    assert float(row["miou_3d"]) == 0 and row["cloud_distance"] == "" and row["iou_3d_background"] == ""
    assert (folder / "000000" / "point_cloud_rgb.txt").read_text() == ""


def test_clouds_are_read_only_if_parts_are_scored(ball_split, other_views, semantic_run, tmp_path):
    shutil.copytree(other_views.parent, tmp_path / "Ball")
    split = tmp_path / "Ball" / other_views.name
    write_cloud(split / "ball_a", np.zeros((3, 3)), [1, 2, 9])  # there is no class 9
    train.main(scenes.train_options(ball_split, tmp_path, "vanilla", class_weight=0, rays_per_image=8))
    for name, checkpoint, obj_name in (("a", semantic_run, None), ("b", tmp_path / "vanilla", "Ball")):
        folder = evaluate(split, checkpoint, tmp_path, name, obj_name=obj_name, save_out_first_n=0)
        assert summary_of(folder)["num_clouds"] == 0


# Refused


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(checkpoint_path="nowhere.pth"), "nowhere.pth: no such checkpoint"),
        (dict(checkpoint_path=None), "--checkpoint_path"),
        (dict(eval_mode="linear"), "--eval_mode linear: expected --linear_path and no other head"),
        (dict(linear_path="head.pth"), "--eval_mode srn: expected no --linear_path"),
        (dict(eval_mode="unet"), "--eval_mode unet: expected --unet_path and no other head"),
        (dict(obj_name="Bell"), "Bell-level-1.txt: cannot be read as a class list ("),
        (dict(specific_observation_idcs=4), "has 4 views, 0 to 3; there is no 4"),
        (dict(input_idcs=9), "there is no 9"),
        (dict(img_sidelength=0), "at least 7"),
        (dict(img_sidelength=24), "16"),
        (dict(img_sidelength=4), "--img_sidelength"),
        (dict(max_num_observations=0), "--max_num_observations"),
        (dict(max_num_instances=0), "--max_num_instances"),
        (dict(device="gpu"), "gpu"),
    ],
)
def test_options_that_cannot_work_are_refused(refused, other_views, semantic_run, tmp_path, options, reason):
    refused(scenes.test_options(other_views, tmp_path, "test", **({"checkpoint": semantic_run} | options)), reason)


def test_if_every_view_was_given_all_are_shown_and_none_scored(ball_split, semantic_run, tmp_path, capsys):
    folder = evaluate(ball_split, semantic_run, tmp_path, "test")
    assert "so none is scored" in capsys.readouterr().out
    assert observations(folder) == {} and (folder / "contact_sheet.png").exists()
    assert len(list((folder / "000001" / "rgb").iterdir())) == len(list((folder / "000001" / "input").iterdir())) == 4
    assert json.loads((folder / "results.json").read_text())["psnr"] is None
    assert (folder / "results.txt").read_text() == "No view was scored: all are input views.\n"


def test_given_views_that_are_scored_are_still_shown_as_given(ball_split, semantic_run, tmp_path):
    folder = evaluate(ball_split, semantic_run, tmp_path, "test", score_input_views=True)
    assert len(observations(folder)) == 8 and len(list((folder / "000000" / "input").iterdir())) == 4


def test_without_label_maps_parts_are_shown_and_images_scored(other_views, semantic_run, tmp_path, capsys):
    """For example for a user's own unseen objects."""
    shutil.copytree(other_views.parent, tmp_path / "Ball")
    for path in (tmp_path / "Ball").glob("Ball.*/*/seg"):
        shutil.rmtree(path)
    folder = evaluate(tmp_path / "Ball" / other_views.name, semantic_run, tmp_path, "test", point_cloud=True)
    assert "has no label maps" in capsys.readouterr().out
    assert {row["miou"] for row in observations(folder).values()} == {""}
    assert (folder / "000000" / "seg").is_dir() and not (folder / "000000" / "seg_gt").exists()


def test_rows_of_the_table_have_the_numbers_of_their_folders(ball_split, semantic_run, tmp_path):
    """All views of ball_a were given, so the only row is that of ball_b, in folder 000001."""
    new = scenes.write_split(tmp_path / "Ball" / "Ball.train", names=("ball_a",))
    scenes.write_split(tmp_path / "more" / "Ball.train", names=("ball_b",), num_views=5)
    (tmp_path / "more" / "Ball.train" / "ball_b").rename(new / "ball_b")
    folder = evaluate(new, semantic_run, tmp_path, "test")
    with open(folder / "final_miou.csv", newline="") as file:
        assert [(row["instance_num"], row["instance_id"]) for row in csv.DictReader(file)] == [("1", "ball_b")]


def test_objects_without_codes_are_named(refused, semantic_run, tmp_path):
    new = scenes.write_split(tmp_path / "Ball" / "Ball.test", names=("ball_a", "ball_x"))
    refused(scenes.test_options(new, tmp_path, "test", semantic_run), "holds no latent code for 1 of the 2 instances")


def test_another_class_list_than_the_models_is_named(refused, other_views, semantic_run, tmp_path):
    shutil.copytree(other_views.parent, tmp_path / "Ball")
    with open(tmp_path / "Ball" / "Ball-level-1.txt", "a") as file:
        file.write("3 handle\n")
    split = tmp_path / "Ball" / other_views.name
    refused(scenes.test_options(split, tmp_path, "test", semantic_run), "lists 4 classes, expected 3 as in the model")


def test_srn_and_head_in_the_wrong_order_are_named(refused, ball_split, other_views, semantic_run, tmp_path):
    options = dict(checkpoint_path=semantic_run, model_type="linear", rays_per_image=8)
    train.main(scenes.train_options(ball_split, tmp_path, "head", **options))
    arguments = scenes.test_options(other_views, tmp_path, "test", tmp_path / "head")
    refused(arguments, "holds a segmentation head, not an SRN")
    arguments = scenes.test_options(other_views, tmp_path, "test", semantic_run, eval_mode="linear", linear_path=semantic_run)
    refused(arguments, "holds an SRN, not a segmentation head")


def test_a_cloud_with_a_class_that_is_not_in_the_list_is_named(refused, other_views, semantic_run, tmp_path):
    shutil.copytree(other_views.parent, tmp_path / "Ball")
    split = tmp_path / "Ball" / other_views.name
    write_cloud(split / "ball_b", np.zeros((3, 3)), [1, 2, 3])
    reason = "label-10000.txt: expected class ids from 0 to 2, or -1 for unlabelled, found 3"
    refused(scenes.test_options(split, tmp_path, "test", semantic_run), reason)


def test_a_config_with_every_published_flag_is_understood(tmp_path):
    (tmp_path / "config.yml").write_text("""
img_sidelength: 128
data_root: /data/Chair/Chair.test
obj_name: Chair
eval_mode: linear
checkpoint_path: srn.pth
linear_path: head.pth
unet_path: null
point_cloud: True
reverse: False
input_idcs: 65
specific_observation_idcs: null
max_num_instances: -1
save_out_first_n: 250
batch_size: 32
num_instances: 2048
logging_root: ./logs
log_dir: out
preload: False
has_params: False
fit_single_srn: False
use_unet_renderer: False
freeze_networks: True
tracing_steps: 10
embedding_size: 256
""")
    options = test.read_options(["-c", str(tmp_path / "config.yml")])
    assert (options.eval_mode, options.linear_path, options.unet_path) == ("linear", "head.pth", None)
    assert options.input_idcs == [65]
    assert options.num_instances == 2048 and options.point_cloud and not options.reverse


def test_published_flags_that_change_nothing_are_accepted_but_not_shown():
    given = scenes.test_options("split", "logs", "out", "srn.pth", seed=3, freeze_networks=True)
    options = test.read_options(given)
    assert options.seed == 3 and options.freeze_networks
    text = test.build_parser().format_help()
    assert "--seed" not in text and "--freeze_networks" not in text and "--eval_mode" in text


# Variants


def test_the_unet_baseline_segments_the_rendered_image(ball_split, other_views, semantic_run, tmp_path, monkeypatch):
    monkeypatch.setattr(srns.UNetBaseline, "SIZES", dict(num_down=2, base_channels=4, max_channels=8, dropout=0.2))
    training = dict(checkpoint_path=semantic_run, model_type="unet", max_steps_per_img_sidelength=3)
    train.main(scenes.train_options(ball_split, tmp_path, "unet", **training))
    options = dict(eval_mode="unet", unet_path=tmp_path / "unet", point_cloud=True)
    folder = evaluate(other_views, semantic_run, tmp_path, "test", **options)
    model = checkpoints.load_srn(checkpoints.load(semantic_run)).eval()
    head = checkpoints.load_head(checkpoints.load(tmp_path / "unet"), model).eval()
    options = test.read_options(scenes.test_options(other_views, "x", "y", semantic_run))
    dataset, _ = test.open_data(options, checkpoints.open_srn(semantic_run))
    outputs = renderer.render(model, next(iter(torch.utils.data.DataLoader(dataset))))
    expected = visual.label_colors(head(outputs["rgb"])[0].argmax(-1).view(16, 16), 3)
    assert np.array_equal(iio.imread(folder / "000000" / "seg" / "000000.png"), expected)
    assert (folder / "000000" / "point_cloud_seg.ply").exists()


def test_a_head_of_another_kind_is_named(refused, ball_split, other_views, semantic_run, tmp_path):
    training = dict(checkpoint_path=semantic_run, model_type="mlp", rays_per_image=8)
    train.main(scenes.train_options(ball_split, tmp_path, "head", **training))
    options = dict(eval_mode="linear", linear_path=tmp_path / "head")
    refused(scenes.test_options(other_views, tmp_path, "test", semantic_run, **options), "give --eval_mode mlp")


def test_codes_fitted_to_label_maps_are_shown_with_the_map_they_were_given(semantic_run, tmp_path):
    new = scenes.write_split(tmp_path / "Ball" / "Ball.test", names=("ball_x",))
    fitting = dict(checkpoint_path=semantic_run, overwrite_embeddings=True, l1_weight=0, specific_observation_idcs=1)
    train.main(scenes.train_options(new, tmp_path, "fitted", **fitting))
    folder = evaluate(new, tmp_path / "fitted", tmp_path, "test")
    given, labels, image = ((folder / "000000" / kind / "000001.png").read_bytes() for kind in ("input", "seg_gt", "rgb_gt"))
    assert given == labels != image
    assert ("ball_x", "000001") not in observations(folder)


def test_reverse_without_a_given_view_is_refused(refused, other_views, semantic_run, tmp_path):
    refused(scenes.test_options(other_views, tmp_path, "test", semantic_run, reverse=True), "--input_idcs")


def test_reverse_shows_the_label_map_as_input_if_the_checkpoint_does_not(refused, other_views, semantic_run, tmp_path):
    folder = evaluate(other_views, semantic_run, tmp_path, "test", input_idcs=1, reverse=True)
    pictures = [(folder / "000000" / kind / "000001.png").read_bytes() for kind in ("input", "seg_gt")]
    assert pictures[0] == pictures[1]


def test_reverse_without_classes_is_refused(refused, other_views, semantic_run, tmp_path):
    refused(scenes.test_options(other_views, tmp_path, "test", semantic_run, reverse=True, obj_name=None), "--reverse")


def test_a_single_srn_renders_its_own_object_only(refused, ball_split, other_views, tmp_path):
    training = dict(fit_single_srn=True, specific_ins="ball_b", class_weight=0)
    train.main(scenes.train_options(ball_split, tmp_path, "single", **training))
    arguments = scenes.test_options(other_views, tmp_path, "test", tmp_path / "single", obj_name=None)
    refused(arguments, "holds one object only, ball_b")
    options = dict(specific_ins="ball_b", fit_single_srn=True, obj_name=None)
    folder = evaluate(other_views, tmp_path / "single", tmp_path, "test", **options)
    assert len(observations(folder)) == 4


def test_codes_that_come_with_the_data_are_rendered(other_views, ball_split, tmp_path):
    for split in (ball_split, other_views):
        shutil.copytree(split.parent, tmp_path / "Ball", dirs_exist_ok=True)
    for folder in (tmp_path / "Ball").glob("Ball.*/*"):
        (folder / "params").mkdir()
        for view in VIEWS:
            (folder / "params" / f"{view}.txt").write_text("1 2 3" if folder.name == "ball_a" else "-1 0 1")
    split = tmp_path / "Ball" / "Ball.train"
    train.main(scenes.train_options(split, tmp_path, "run", has_params=True, class_weight=0, embedding_size=None))
    scores = []
    for vector in ("1 2 3", "30 20 10"):
        for path in (tmp_path / "Ball" / "Ball.train_test").glob("*/params/*"):
            path.write_text(vector)
        options = dict(has_params=True, obj_name=None)
        folder = evaluate(tmp_path / "Ball" / "Ball.train_test", tmp_path / "run", tmp_path, "test", **options)
        scores.append(observations(folder)["ball_a", "000000"]["psnr"])
    assert scores[0] != scores[1]


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(num_instances=5), "holds 2 latent codes, but --num_instances is 5"),
        (dict(fit_single_srn=True), "was trained with fit_single_srn False"),
        (dict(use_unet_renderer=True), "was trained with use_unet_renderer False"),
        (dict(tracing_steps=10), "was trained with tracing_steps 3"),
        (dict(embedding_size=256), "was trained with latent_dim 8"),
    ],
)
def test_options_that_contradict_the_checkpoint_are_refused(refused, other_views, semantic_run, tmp_path, options, reason):
    refused(scenes.test_options(other_views, tmp_path, "test", semantic_run, **options), reason)


def test_a_published_checkpoint_is_evaluated_without_conversion(refused, other_views, semantic_run, tmp_path, capsys):
    """Its codes belong to the sorted folders, if their numbers agree; it does not store which views were given."""
    contents = checkpoints.load(semantic_run)
    checkpoints.save(tmp_path / "epoch_0001_iter_000002.pth", published.to_published(contents, "semantic")[0])
    options = dict(tracing_steps=3, save_out_first_n=0)
    ours = observations(evaluate(other_views, semantic_run, tmp_path, "ours", **options))
    capsys.readouterr()
    theirs = observations(evaluate(other_views, tmp_path / "epoch_0001_iter_000002.pth", tmp_path, "theirs", **options))
    assert "are assigned to the folders" in capsys.readouterr().out
    assert ours.keys() == theirs.keys()
    psnr, expected = ([float(row["psnr"]) for row in rows.values()] for rows in (theirs, ours))
    assert psnr == pytest.approx(expected, abs=1e-3)

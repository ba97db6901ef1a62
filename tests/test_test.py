import csv
import json
import shutil

import imageio.v3 as iio
import numpy as np
import plyfile
import pytest
import scenes
import torch

import checkpoints
import metrics
import rendering
import test
import train
import util

VIEWS = [f"{view:06d}" for view in range(4)]


@pytest.fixture(scope="module")
def other_views(tmp_path_factory):
    """The objects that `semantic_run` was trained on, from other sides, in a split of their own."""
    root = tmp_path_factory.mktemp("other_views") / "Ball" / "Ball.train_test"
    return scenes.write_split(root, first_view=30)


@pytest.fixture(scope="module")
def evaluation(other_views, semantic_run, tmp_path_factory):
    """The folder of an evaluation with everything on."""
    logs = tmp_path_factory.mktemp("evaluation")
    test.main(
        scenes.test_options(other_views, logs, "all", semantic_run, point_cloud=True, batch_size=3, input_idcs=2)
    )
    return logs / "all"


def observations(folder):
    with open(folder / "observations.csv", newline="") as file:
        return {(row["instance_id"], row["observation"]): row for row in csv.DictReader(file)}


def evaluate(split, checkpoint, logs, log_dir, **options):
    test.main(scenes.test_options(split, logs, log_dir, checkpoint, **options))
    return logs / log_dir


@pytest.fixture
def refused(capsys, tmp_path):
    """Calls test.main and asserts that it refuses: exit code 2, the reason on the last line, no results."""

    def call(arguments, reason):
        with pytest.raises(SystemExit) as stopped:
            test.main(arguments)
        written = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2
        assert reason in written[-1]
        assert not any("Traceback" in line for line in written)
        assert not list(tmp_path.rglob("results.*"))

    return call


# What is scored


def test_every_image_that_was_not_given_is_scored_once(evaluation):
    expected = [(name, view) for name in ("ball_a", "ball_b") for view in VIEWS if view != "000002"]
    assert list(observations(evaluation)) == expected
    summary = json.loads((evaluation / "results.json").read_text())
    assert (summary["num_images"], summary["num_instances"]) == (6, 2)


def test_the_scores_are_those_of_the_rendered_rgb(evaluation, other_views, semantic_run):
    """Rendered here once more, image by image and all rays at once."""
    model = checkpoints.load_srn(checkpoints.load(semantic_run)).eval()
    options = test.read_options(scenes.test_options(other_views, "unused", "unused", semantic_run))
    dataset, _ = test.open_data(options, checkpoints.load(semantic_run))
    rows = observations(evaluation)
    for index, batch in enumerate(torch.utils.data.DataLoader(dataset)):
        name = dataset.name_of(index)
        if name not in rows:
            continue
        with torch.no_grad():
            outputs = model(batch)
        rgb, target = (util.as_image(x["rgb"][..., :3]) for x in (outputs, batch))
        confusion = metrics.confusion_matrix(outputs["seg_logits"].argmax(-1), batch["seg_labels"], 3)
        assert float(rows[name]["psnr"]) == pytest.approx(metrics.psnr(rgb, target).item(), abs=1e-4)
        assert float(rows[name]["ssim"]) == pytest.approx(metrics.ssim(rgb, target).item(), abs=1e-4)
        assert float(rows[name]["miou"]) == pytest.approx(metrics.mean_iou(confusion).item(), abs=1e-4)


@pytest.mark.parametrize(
    "options", [dict(batch_size=1), dict(batch_size=32), dict(preload=True), dict(num_workers=1)]
)
def test_scores_depend_neither_on_batches_nor_on_point_clouds(
    evaluation, other_views, semantic_run, tmp_path, options
):
    """`evaluation` has batches of 3 and point clouds; the published scores change with both."""
    folder = evaluate(other_views, semantic_run, tmp_path, "again", input_idcs=2, save_out_first_n=0, **options)
    reference, again = observations(evaluation), observations(folder)
    assert reference.keys() == again.keys()
    for name, row in reference.items():
        for score in ("psnr", "ssim", "miou"):
            assert float(again[name][score]) == pytest.approx(float(row[score]), abs=2e-5), (name, score)


def test_scores_do_not_depend_on_how_many_rays_are_rendered_at_once(
    evaluation, other_views, semantic_run, tmp_path, monkeypatch
):
    monkeypatch.setitem(rendering.RAYS_PER_BLOCK, "cpu", 200)
    folder = evaluate(other_views, semantic_run, tmp_path, "again", input_idcs=2, save_out_first_n=0, batch_size=2)
    for name, row in observations(evaluation).items():
        assert float(observations(folder)[name]["psnr"]) == pytest.approx(float(row["psnr"]), abs=2e-5)


def test_views_that_the_codes_were_fitted_to_are_not_scored(ball_split, semantic_run, tmp_path):
    new = scenes.write_split(tmp_path / "Ball" / "Ball.test", names=("ball_x", "ball_y"))
    fitting = dict(
        checkpoint_path=semantic_run, overwrite_embeddings=True, class_weight=0, specific_observation_idcs="0,3"
    )
    train.main(scenes.train_options(new, tmp_path, "fitted", **fitting))
    folder = evaluate(new, tmp_path / "fitted", tmp_path, "test")
    assert list(observations(folder)) == [
        (name, view) for name in ("ball_x", "ball_y") for view in ("000001", "000002")
    ]
    assert [path.name for path in sorted((folder / "000000" / "input").iterdir())] == ["000000.png", "000003.png"]
    everything = evaluate(new, tmp_path / "fitted", tmp_path, "everything", score_input_views=True)
    assert len(observations(everything)) == 8


def test_the_same_view_of_another_split_is_another_image(other_views, semantic_run, tmp_path):
    """The model was trained on all four view names, but in Ball.train."""
    folder = evaluate(other_views, semantic_run, tmp_path, "test", save_out_first_n=0)
    assert len(observations(folder)) == 8


def test_each_object_is_rendered_with_the_code_of_its_name(other_views, semantic_run, tmp_path):
    """Codes in another order, and one more of them: the scores stay."""
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
    folder = evaluate(
        other_views, semantic_run, tmp_path, "test", eval_mode="linear", linear_path=tmp_path / "head"
    )
    by_unet, by_head = observations(evaluation), observations(folder)
    name = "ball_a", "000000"
    assert by_head[name]["psnr"] == by_unet[name]["psnr"]
    assert float(by_head[name]["miou"]) != float(by_unet[name]["miou"])


# What is written


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


def test_the_tables_and_the_contact_sheet_exist(evaluation):
    for name in (
        "final_miou.csv",
        "observations.csv",
        "results.txt",
        "results.json",
        "params.txt",
        "contact_sheet.png",
    ):
        assert (evaluation / name).stat().st_size > 0, name
    with open(evaluation / "final_miou.csv", newline="") as file:
        assert [row["instance_id"] for row in csv.DictReader(file)] == ["ball_a", "ball_b"]
    assert list(json.loads((evaluation / "results.json").read_text())["part_iou"]) == [
        "background",
        "upper half",
        "lower half",
    ]
    assert not list(evaluation.rglob(".*"))  # nothing half-written


def test_point_clouds_hold_each_surface_point_once_without_the_background(evaluation, other_views, semantic_run):
    model = checkpoints.load_srn(checkpoints.load(semantic_run)).eval()
    options = test.read_options(scenes.test_options(other_views, "unused", "unused", semantic_run))
    dataset, _ = test.open_data(options, checkpoints.load(semantic_run))
    batch = torch.utils.data.default_collate([dataset[i] for i in range(4)])  # ball_a
    outputs = rendering.render(model, batch)
    solid = outputs["seg_logits"].argmax(-1) > 0
    for kind in ("rgb", "seg"):
        cloud = plyfile.PlyData.read(evaluation / "000000" / f"point_cloud_{kind}.ply")["vertex"]
        points = np.stack([cloud[axis] for axis in "xyz"], axis=-1)
        np.testing.assert_allclose(points, outputs["points"][solid], atol=1e-5)
        assert len(np.loadtxt(evaluation / "000000" / f"point_cloud_{kind}.txt").reshape(-1, 6)) == len(points)
    assert cloud["label"].tolist() == outputs["seg_logits"].argmax(-1)[solid].tolist()


def collected(folder, outputs, num_classes):
    """The points that a collector keeps of two views with the same outputs."""
    clouds = test.CloudCollector(num_classes)
    for _ in range(2):
        clouds.add("ball_a", outputs, 0)
    clouds.write("ball_a", folder)
    return np.loadtxt(folder / "point_cloud_rgb.txt")


def test_background_is_left_out_of_a_cloud_by_class(tmp_path):
    outputs = {
        "points": torch.arange(12.0).view(1, 4, 3),
        "rgb": torch.tensor([[[1, 1, 1], [-1, 0.2, 1], [1, 1, 1], [0, 0, 0]]]),
        "seg_logits": torch.eye(3)[torch.tensor([[0, 1, 2, 0]])],
    }
    cloud = collected(tmp_path, outputs, num_classes=3)
    assert cloud.tolist() == [[3, 4, 5, 0, 153, 255], [6, 7, 8, 255, 255, 255]] * 2
    vertices = plyfile.PlyData.read(tmp_path / "point_cloud_seg.ply")["vertex"]
    assert vertices["label"].tolist() == [1, 2, 1, 2]


def test_without_classes_white_is_left_out_of_a_cloud(tmp_path):
    outputs = {"points": torch.arange(6.0).view(1, 2, 3), "rgb": torch.tensor([[[1, 0.95, 2], [1, 1, 0.0]]])}
    assert collected(tmp_path, outputs, None)[:, :3].tolist() == [[3, 4, 5]] * 2
    assert not (tmp_path / "point_cloud_seg.ply").exists()


@pytest.mark.parametrize("first_n, folders", [(0, []), (1, ["000000"])])
def test_pictures_and_clouds_of_the_first_instances_only(other_views, semantic_run, tmp_path, first_n, folders):
    folder = evaluate(other_views, semantic_run, tmp_path, "test", save_out_first_n=first_n, point_cloud=True)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == folders
    assert len(observations(folder)) == 8 and (folder / "contact_sheet.png").exists()


@pytest.mark.parametrize("obj_name", [None, "Ball"], ids=["no class list", "a class list"])
def test_a_vanilla_srn_is_rendered_without_classes(obj_name, ball_split, other_views, tmp_path):
    train.main(scenes.train_options(ball_split, tmp_path, "vanilla", class_weight=0, rays_per_image=8))
    options = dict(point_cloud=True, img_sidelength=12, obj_name=obj_name)
    folder = evaluate(other_views, tmp_path / "vanilla", tmp_path, "test", **options)
    assert not (folder / "000000" / "seg").exists() and not (folder / "000000" / "point_cloud_seg.ply").exists()
    assert (folder / "000000" / "point_cloud_rgb.ply").exists()
    assert iio.imread(folder / "000000" / "rgb" / "000000.png").shape == (12, 12, 3)
    assert json.loads((folder / "results.json").read_text())["miou"] is None


def test_chosen_views_and_instances_keep_their_names(other_views, semantic_run, tmp_path):
    folder = evaluate(
        other_views, semantic_run, tmp_path, "test", specific_ins="ball_b", specific_observation_idcs="3,1"
    )
    assert list(observations(folder)) == [("ball_b", "000003"), ("ball_b", "000001")]
    assert sorted(path.name for path in (folder / "000000" / "rgb").iterdir()) == ["000001.png", "000003.png"]


def test_a_view_that_is_named_twice_is_scored_once(other_views, semantic_run, tmp_path):
    folder = evaluate(
        other_views, semantic_run, tmp_path, "test", specific_observation_idcs="1,1", save_out_first_n=0
    )
    assert list(observations(folder)) == [("ball_a", "000001"), ("ball_b", "000001")]


def test_other_settings_of_the_data_than_in_training_are_told(other_views, semantic_run, tmp_path, capsys):
    for name, blend in (("same", None), ("other", True)):
        evaluate(other_views, semantic_run, tmp_path, name, blend_alpha=blend, save_out_first_n=0)
        assert ("note: the data say" in capsys.readouterr().out) == (name == "other")


# What is refused


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(checkpoint_path="nowhere.pth"), "nowhere.pth: no such checkpoint"),
        (dict(checkpoint_path=None), "--checkpoint_path"),
        (dict(eval_mode="linear"), "--eval_mode linear and --linear_path go together"),
        (dict(linear_path="head.pth"), "--eval_mode linear and --linear_path go together"),
        (dict(eval_mode="unet"), "invalid choice: 'unet'"),
        (dict(obj_name="Bell"), "Bell-level-1.txt: no class list there"),
        (dict(specific_observation_idcs=4), "has 4 views, 0 to 3; there is no 4"),
        (dict(input_idcs=9), "there is no 9"),
        (dict(input_idcs="0,1,2,3"), "every chosen view was given to the model"),
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


def test_the_split_of_training_has_nothing_left_to_score(refused, ball_split, semantic_run, tmp_path):
    refused(scenes.test_options(ball_split, tmp_path, "test", semantic_run), "--score_input_views")


def test_objects_without_codes_are_named(refused, semantic_run, tmp_path):
    new = scenes.write_split(tmp_path / "Ball" / "Ball.test", names=("ball_a", "ball_x"))
    refused(
        scenes.test_options(new, tmp_path, "test", semantic_run), "holds no latent code for 1 of the 2 instances"
    )


def test_another_class_list_than_the_models_is_named(refused, other_views, semantic_run, tmp_path):
    shutil.copytree(other_views.parent, tmp_path / "Ball")
    with open(tmp_path / "Ball" / "Ball-level-1.txt", "a") as file:
        file.write("3 handle\n")
    split = tmp_path / "Ball" / other_views.name
    refused(
        scenes.test_options(split, tmp_path, "test", semantic_run), "lists 4 classes, but the model tells 3 apart"
    )


def test_srn_and_head_the_wrong_way_round_is_said(refused, ball_split, other_views, semantic_run, tmp_path):
    options = dict(checkpoint_path=semantic_run, model_type="linear", rays_per_image=8)
    train.main(scenes.train_options(ball_split, tmp_path, "head", **options))
    arguments = scenes.test_options(other_views, tmp_path, "test", tmp_path / "head")
    refused(arguments, "holds a segmentation head, not an SRN")
    arguments = scenes.test_options(
        other_views, tmp_path, "test", semantic_run, eval_mode="linear", linear_path=semantic_run
    )
    refused(arguments, "holds an SRN, not a segmentation head")

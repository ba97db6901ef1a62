import json

import pytest
import scenes
import torch
import torch.nn.functional as F

import data_util
import dataio
from evaluation import evaluate

INPUTS = {("ball_a", "000001"), ("ball_b", "000001")}


@pytest.fixture
def dataset(ball_split):
    instances = dataio.index_split(ball_split, with_labels=True)
    return dataio.SceneClassDataset(instances, scenes.SIDE, data_util.DatasetSettings(), num_classes=3)


def plan_of(dataset, **changes):
    plan = dict(input_views=INPUTS, excluded_views=INPUTS, input_kind="rgb_gt", class_names=["a", "b", "c"], num_classes=3)
    return evaluate.Plan(dataset, **plan | dict(labelled_clouds={}, num_written=1, write_clouds=False) | changes)


def render_truth(batch):
    seg_logits = F.one_hot(batch["seg_labels"], 3).float()
    return batch, {"points": torch.zeros_like(batch["rgb"][..., :3]), "rgb": batch["rgb"], "seg_logits": seg_logits}


def test_the_truth_scores_best_and_excluded_views_are_shown_only(dataset, tmp_path):
    evaluation = evaluate.Evaluation(plan_of(dataset), tmp_path)
    evaluation.run(render_truth, batch_size=3)
    evaluation.write({"eval_mode": "srn"})
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["num_images"], results["ssim"], results["miou"]) == (6, 1, 1)
    assert results["run"] == {"eval_mode": "srn"}
    assert [path.name for path in sorted((tmp_path / "000000" / "rgb").iterdir())] == [f"{i:06d}.png" for i in range(4)]
    assert [path.name for path in (tmp_path / "000000" / "input").iterdir()] == ["000001.png"]
    assert (tmp_path / "contact_sheet.png").exists() and not (tmp_path / "000001").exists()


def test_facts_name_the_scored_views(dataset):
    some, all_views = plan_of(dataset), plan_of(dataset, excluded_views=set())
    assert ("ball_a", "000001") not in some.scored_views() and len(all_views.scored_views()) == 8
    facts, others = some.facts(), all_views.facts()
    assert (facts["num_scored_views"], facts["num_given_views"], others["num_given_views"]) == (6, 2, 2)
    assert facts["views_digest"] != others["views_digest"]

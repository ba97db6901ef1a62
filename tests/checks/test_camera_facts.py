import torch

import data_util
import geometry
from datasets.checks import camera_facts


def test_facts_are_those_of_the_cameras():
    poses = geometry.look_at(torch.tensor([[2.0, 0, 0], [0, 4.0, 0], [0, 0.1, 3.0]])).numpy()
    facts = dict(camera_facts.facts_of(poses, data_util.Intrinsics(50, 50, 25, 50, 100), 0.0))
    assert facts["camera to object"] == "3 on average, 2 to 4 world units"
    assert facts["field of view"] == "90.0 x 53.1 degrees" and facts["image"] == "100 x 50 pixels"
    assert facts["focal length"] == "50 pixels" and facts["principal point"] == "(50, 25)"
    assert facts["rays go through"].startswith("(column, row)")

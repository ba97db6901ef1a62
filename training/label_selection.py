"""Which views to label first: few, so that together they show whatever the class has to show. No label is needed.

What a trained SRN's layers say at a surface point tells parts apart, so their features are clustered. A view is described by
how many of its rays fall into each cluster. A set of views is worth

    sum over clusters of log(1 + rays in the cluster / unit)

so that a cluster that the set lacks counts more than one it has plenty of: rare features come first. The function is
submodular; choosing greedily gives at least 1 - 1/e of the best value (Nemhauser, Wolsey and Fisher, 1978, An analysis of
approximations for maximizing submodular set functions).
"""

import numpy as np
import scipy.cluster.vq
import torch

import dataio
import srns
import util
from rendering import renderer

FEATURES = "points+all"  # see srns.FeatureHead
NUM_CLUSTERS = 64
NUM_COMPONENTS = 32  # principal components of the features, among which distances are taken
MAX_FITTED = 2**14  # rays that the clusters are fitted to
BATCH = 32  # views
UNIT = 0.02  # in views: rays of a cluster, in all, from which on more of them count less


def describe(model, dataset, rows, device):
    """What each view shows, (V, NUM_CLUSTERS) float64: the shares of its rays that fall into each cluster of features.

    model:   srns.SRN, on the device
    dataset: dataio.SceneClassDataset of small images, which need not be read: a few hundred rays a view suffice
    rows:    rows of the latent table for its instances, a list of int
    """
    head = srns.FeatureHead(srns.FeatureHead.num_inputs(model.sizes, FEATURES), 0, FEATURES)
    rows, read = torch.tensor(rows), []
    for batch in dataio.ordered_batches(dataset, BATCH):
        batch = {name: tensor.to(device) for name, tensor in dataio.with_rows(batch, rows).items()}
        read.append(renderer.render(model, batch, with_classes=False, inputs_of=head)["inputs"].cpu())
    inputs = torch.cat(read)
    num_views, num_rays, width = inputs.shape
    inputs = inputs.view(-1, width)
    inputs = (inputs - inputs.mean(dim=0)) / inputs.std(dim=0).clamp(min=1e-6)
    some = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))[:MAX_FITTED]
    _, components = torch.linalg.eigh(inputs[some].T @ inputs[some])  # the largest last
    inputs = (inputs @ components[:, -NUM_COMPONENTS:]).double().numpy()
    centres, _ = scipy.cluster.vq.kmeans2(inputs[some.numpy()], min(NUM_CLUSTERS, len(some)), minit="++", seed=0)
    cluster, _ = scipy.cluster.vq.vq(inputs, centres)
    counts = np.zeros((num_views, NUM_CLUSTERS))
    np.add.at(counts, (np.arange(len(cluster)) // num_rays, cluster), 1 / num_rays)
    return counts


def choose(shares, instances, num_instances, num_views):
    """The instances to label, in order of worth, and the views of each: {instance: [view, ...]}, by number.

    shares:    (V, C) as `describe` gives them
    instances: (V,) the instance that each view shows; its views are numbered in this order
    raises     ValueError if there are fewer instances, or one of them has fewer views
    """
    views_of = {name: np.flatnonzero(np.asarray(instances) == name) for name in dict.fromkeys(instances)}
    if num_instances > len(views_of):
        raise ValueError(f"{num_instances} instances are asked for, but there are {len(views_of)}")
    fewest = min(views_of, key=lambda name: len(views_of[name]))
    if num_views > len(views_of[fewest]):
        raise ValueError(f"{num_views} views of each are asked for, but {fewest} has {len(views_of[fewest])}")
    covered, chosen = np.zeros(shares.shape[1]), {}
    for _ in range(num_instances):
        offers = {name: _best_views(shares[views], covered, num_views) for name, views in views_of.items()}
        name = max(offers, key=lambda name: _worth(covered + shares[views_of[name][offers[name]]].sum(axis=0)))
        chosen[name] = sorted(offers[name])
        covered += shares[views_of.pop(name)[offers[name]]].sum(axis=0)
    return chosen


def _best_views(shares, covered, num_views):
    """Numbers of the views, chosen greedily, that add most to what is covered."""
    chosen, covered = [], covered.copy()
    for _ in range(num_views):
        worth = _worth(covered + shares)
        worth[chosen] = -np.inf
        chosen.append(int(worth.argmax()))
        covered += shares[chosen[-1]]
    return chosen


def _worth(covered):
    """(..., C) -> (...)"""
    return np.log1p(covered / UNIT).sum(axis=-1)


def load(path):
    """The selection in a file of suggest_labels.py: {instance: list of indices into its sorted views}."""
    selection = util.load_json(path, "write a selection with suggest_labels.py")
    is_sound = isinstance(selection, dict) and bool(selection)
    for views in selection.values() if is_sound else ():
        is_sound &= isinstance(views, list) and bool(views) and all(type(view) is int and view >= 0 for view in views)
    if not is_sound:
        expected = 'expected {"instance": [0, 4, 7], ...} with numbers of views'
        raise util.InputError(f"{path}: not a selection of label maps; {expected}, as suggest_labels.py writes it")
    return selection

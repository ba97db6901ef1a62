"""Which instances and views to label first: few, so that every other instance is like one of them. No label is needed.

Latent codes of a trained SRN say how alike two objects are. The instances to label are medoids: the sum over all instances of
the distance to the nearest labelled code is small. They are found by adding the best one at a time and then exchanging single
ones while that helps (Kaufman and Rousseeuw 1990, Partitioning Around Medoids). The views of an instance are those whose
cameras look from the most different directions.
"""

import numpy as np

import util


def medoids(codes, number):
    """Rows of the codes (N, D), `number` of them: the one that represents most others first. An array of int."""
    squares = (codes**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * codes @ codes.T, 0))  # (N, N)
    chosen = []
    for _ in range(number):
        chosen.append(_best_addition(distances, chosen)[0])
    cost, is_better = distances[:, chosen].min(axis=1).sum(), True
    while is_better:
        is_better = False
        for place in range(number):
            others = chosen[:place] + chosen[place + 1 :]
            candidate, candidate_cost = _best_addition(distances, others)
            if candidate_cost < cost * (1 - 1e-9):
                chosen, cost, is_better = [*others[:place], candidate, *others[place:]], candidate_cost, True
    return np.array(chosen)


def _best_addition(distances, chosen):
    """The row that lowers the sum of the distances to the nearest chosen one most, and that sum."""
    nearest = distances[:, chosen].min(axis=1) if chosen else np.full(len(distances), np.inf)
    costs = np.array([np.minimum(nearest, column).sum() for column in distances])
    costs[chosen] = np.inf
    return int(costs.argmin()), costs.min()


def spread_views(poses, number):
    """Indices, sorted, of `number` views (V, 4, 4) cam2world: the first, then always the one farthest from all before."""
    directions = poses[:, :3, 2]
    chosen = [0]
    while len(chosen) < number:
        cosines = (directions @ directions[chosen].T).max(axis=1)
        cosines[chosen] = np.inf
        chosen.append(int(cosines.argmin()))
    return sorted(chosen)


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

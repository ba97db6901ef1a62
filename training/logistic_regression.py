"""Multinomial logistic regression with an L2 penalty: the best linear layer from features to classes, and its penalty.

The layer minimises, over weight (K, C) and bias (K,),

    mean over rays of cross_entropy(weight @ features + bias, label)  +  penalty * sum(weight ** 2)

which is convex: with a penalty there is one best layer, whatever the start. Newton's method finds it in some ten steps. Each
step solves a linear system by conjugate gradients, whose products with the Hessian cost no more than a gradient does: two
matrix products over the rays. Features are correlated, so the system needs a preconditioner: the Hessian of a few thousand
rays, drawn with preference for those whose class is in doubt, and factored. With it a step takes a few products.
Without the terms that couple the classes it takes some thirty, so they are left out only where the matrix would be too large.

Adding the same to the logits of all classes changes no probability. Of all such layers the penalty prefers the one whose
weight sums to zero over the classes; the bias is chosen likewise, and gradients, steps and products are kept to such layers.

Inside, a layer is one (K, C + 1) float64 tensor, the bias last, of the classes that have rays. Probabilities, (K, rays), have
the classes first: softmax over so few columns is slow otherwise.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from evaluation import metrics

BLOCK = {"cpu": 2**14, "cuda": 2**18}  # rays at a time: temporaries that stay in a CPU's cache, kernels that fill a GPU
COARSE_RAYS = 2**14  # where there are over four times as many rays, the search begins at the solution for so many
CURVATURE_RAYS = 2**12  # behind a preconditioner, at least; and CURVATURE_RAYS_PER_UNKNOWN
CURVATURE_RAYS_PER_UNKNOWN = 4
MAX_COUPLED = 4000  # unknowns: the preconditioner that couples classes is a matrix of this side, in float64
ENOUGH_PRODUCTS = 8, 16  # a step that took more asks for a fresh preconditioner; 16 where few rays make products cheap
ABSENT_BIAS = -30.0  # of a class without rays. Another logit is always >= 0, so its probability stays below 1e-13
PENALTIES = (1e-1, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
PLATEAU = 0.005  # mean IoU: for less, a larger penalty is not given up
CHOICE_TOLERANCE = 1e-4  # of `fit`, while the penalty is chosen: classes settle long before the loss does


@dataclass(frozen=True)
class Solution:
    """The layer that `fit` found.

    weight:         (K, C) in the features' type; sums to zero over the classes that have rays, and so does the bias
    bias:           (K,); a class without rays has weight 0 and bias ABSENT_BIAS
    loss:           mean cross-entropy plus penalty
    gradient_norm:  as a share of its norm at weight 0, bias 0
    num_iterations: Newton steps over all rays
    converged:      whether gradient_norm came down to the tolerance
    """

    weight: torch.Tensor
    bias: torch.Tensor
    loss: float
    gradient_norm: float
    num_iterations: int
    converged: bool


@torch.no_grad()
def fit(features, labels, num_classes, penalty, start=None, tolerance=1e-5, max_iterations=100, reduce=None):
    """The layer with the least loss.

    features:  (L, C) float32; or float64, for a solution of that precision
    labels:    (L,) int64 in 0 .. num_classes - 1
    penalty:   >= 0. With 0, and classes that planes separate, no layer is the best; the search ends all the same
    start:     (weight (K, C), bias (K,)) to begin at, the solution for a neighbouring penalty for instance. One with a loss
               above that of weight 0, bias 0 is not used
    tolerance: of the gradient's norm, as a share of its norm at weight 0, bias 0
    reduce:    where every process holds a share of the rays (perhaps none): sums a float64 tensor over the processes, in
               place or by returning the sum. Every process then takes the same steps and comes to the same layer
    returns    Solution
    """
    total = _totals_through(reduce)
    objective = _objective(features, labels, num_classes, penalty, total)
    layer = objective.zero_layer() if start is None else objective.pack(*start)
    if start is None and objective.num_rays > 4 * COARSE_RAYS:
        layer, *_ = _minimise(objective.of_sample(COARSE_RAYS), layer, 1e-2, max_iterations)
    layer, loss, gradient_norm, num_iterations, _ = _minimise(objective, layer, tolerance, max_iterations)
    return Solution(*objective.unpack(layer), loss, gradient_norm, num_iterations, gradient_norm <= tolerance)


@torch.no_grad()
def choose_penalty(features, labels, groups, num_classes, penalties=PENALTIES, folds=5, max_rays=2**15, seed=0):
    """The penalty whose layers do best on groups of rays that they were not fitted to, and the scores of all.

    A score is the mean IoU of a held-out group, background counted as a class, averaged over the groups. Held-out cross-
    entropy is smoother, yet the worse guide: it punishes certainty on objects unlike those seen, where the classes may be
    right all the same. On made-up objects it chose penalties ten times too large, which cost up to 0.1 in mean IoU on other
    objects; scores of mean IoU cost up to 0.03. The largest penalty is chosen whose groups do not do worse than with the
    best one by more than the standard error of that difference (Breiman et al. 1984, Classification and Regression Trees):
    among so few groups the best score is in part luck, and small penalties have more of it.

    features:  (L, C) float32
    labels:    (L,) int64 in 0 .. num_classes - 1
    groups:    (L,) int64 of at least two values, the instance of each ray; of a single instance, the observation
    folds:     times that groups are held out: each group once, all at once those whose rank is equal modulo `folds`
    max_rays:  so many are drawn, where there are more. What the choice turns on is how groups differ
    returns    penalty, {penalty: score}
    """
    _count(features, labels, num_classes, min(penalties), _alone)
    if len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups for {len(labels)} labels; expected one for each ray")
    if len(labels) > max_rays:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:max_rays].to(labels.device)
        features, labels, groups = features[order], labels[order], groups[order]
    names, groups = groups.unique(return_inverse=True)
    if min(folds, len(names)) < 2:
        raise ValueError(f"{len(names)} groups and {folds} folds; a penalty is chosen on groups held out, so that takes two")

    scores = {penalty: [] for penalty in sorted(penalties, reverse=True)}
    held_out = [groups % folds == fold for fold in range(min(folds, len(names)))]
    objectives = [_objective(features[~held], labels[~held], num_classes, 0.0, _alone) for held in held_out]
    layers = [objective.zero_layer() for objective in objectives]
    preconditioners = {}  # by the classes: folds share most of their rays, so one serves them all
    for penalty in scores:  # from large to small: the larger, the fewer steps from zero
        for fold, (held, objective) in enumerate(zip(held_out, objectives)):
            objective.penalty = penalty
            known = preconditioners.get(tuple(objective.present.tolist()))
            layers[fold], *_, known = _minimise(objective, layers[fold], CHOICE_TOLERANCE, 30, known)
            preconditioners[tuple(objective.present.tolist())] = known
            weight, bias = objective.unpack(layers[fold])
            predicted = (features[held] @ weight.T + bias).argmax(dim=1)
            scores[penalty] += _mean_ious(predicted, labels[held], groups[held], num_classes)

    per_group = {penalty: torch.tensor(ious, dtype=torch.float64) for penalty, ious in scores.items()}
    scores = {penalty: ious.mean().item() for penalty, ious in per_group.items()}
    best = per_group[max(scores, key=scores.get)]
    return max(penalty for penalty, ious in per_group.items() if _is_as_good(ious, best)), scores


def _is_as_good(ious, best):
    """Whether groups (G,) score below `best`, on average, by no more than PLATEAU or the standard error of the average."""
    deficit = best - ious
    return deficit.mean() <= max(PLATEAU, deficit.std().item() / len(deficit) ** 0.5)


def _mean_ious(predicted, labels, groups, num_classes):
    """Mean IoU of each group. (R,) integers each -> [float]."""
    ious = []
    for group in groups.unique():
        of_group = groups == group
        confusion = metrics.confusion_matrix(predicted[of_group][None], labels[of_group][None], num_classes)  # (1, K, K)
        ious.append(metrics.mean_iou(confusion).item())
    return ious


def _totals_through(reduce):
    """A function that returns the sum over the processes of a tensor."""

    def total(sums):
        reduced = None if reduce is None else reduce(sums)
        return sums if reduced is None else reduced

    return total


def _alone(sums):
    return sums


def _objective(features, labels, num_classes, penalty, total):
    return _Objective(features, labels, _count(features, labels, num_classes, penalty, total), penalty, total)


def _count(features, labels, num_classes, penalty, total):
    """Rays per class over all processes, (K,) float64. ValueError, on all of them, where the input is no problem to solve."""
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        shapes = f"features {tuple(features.shape)}, labels {tuple(labels.shape)}"
        raise ValueError(f"{shapes}; expected (L, C) and (L,), one label for each ray")
    if not penalty >= 0:
        raise ValueError(f"penalty {penalty}; expected 0 or more, for the problem is not convex otherwise")
    valid = (labels >= 0) & (labels < num_classes)
    counts = torch.bincount(labels[valid], minlength=num_classes)
    counts = total(torch.cat([counts, (~valid).sum()[None], (~features.sum(dim=1).isfinite()).sum()[None]]).double())
    *counts_per_class, num_invalid, num_broken = counts.long().tolist()
    if num_invalid:
        raise ValueError(f"{num_invalid} labels are out of range, expected 0 to {num_classes - 1}; leave unlabelled rays out")
    if num_broken:
        raise ValueError(f"the features of {num_broken} rays are not finite")
    if not sum(counts_per_class):
        raise ValueError("no rays; expected at least one with a label")
    return counts[:-2]


def _minimise(objective, layer, tolerance, max_iterations, precondition=None):
    """Newton's method from `layer`. Returns layer, loss, relative gradient norm, steps taken, the last preconditioner."""
    loss, gradient = objective.evaluate(layer)
    if not loss <= objective.zero_loss:  # a start so far off has probabilities of 0 and 1, and a Hessian that tells nothing
        layer = objective.zero_layer()
        loss, gradient = objective.evaluate(layer)
    for iteration in range(max_iterations + 1):
        gradient_norm = gradient.norm().item() / objective.zero_norm
        if gradient_norm <= tolerance or iteration == max_iterations:
            break
        precondition = precondition or objective.preconditioner(layer)
        step, num_products = _solve(objective, gradient, precondition, accuracy=min(0.3, gradient_norm**0.5))
        if num_products > objective.enough_products:
            precondition = None
        found = _search_line(objective, layer, step, loss, gradient)
        if found is None:  # the sums' rounding hides what is left to gain
            break
        layer, loss, gradient = found
    return layer, loss, gradient_norm, iteration, precondition


def _solve(objective, gradient, precondition, accuracy, max_products=50):
    """Conjugate gradients on hessian @ step = -gradient. Returns step (K, C + 1) and the number of Hessian products."""
    step, residual = torch.zeros_like(gradient), -gradient
    direction = precondition(residual)
    size = first_size = (residual * direction).sum().item()
    for num_products in range(1, max_products + 1):
        product = objective.curvature(direction)
        curvature = (direction * product).sum().item()
        if curvature <= 0:  # flat, but for rounding
            return (direction if num_products == 1 else step), num_products
        step = step + size / curvature * direction
        residual = residual - size / curvature * product
        preconditioned = precondition(residual)
        last_size, size = size, (residual * preconditioned).sum().item()
        if size <= accuracy**2 * first_size:
            break
        direction = preconditioned + size / last_size * direction
    return step, num_products


def _search_line(objective, layer, step, loss, gradient):
    """The first of ever shorter steps that gains: layer, loss, gradient there. None where no step does.

    The loss has to fall by a share of what its slope promises or, close to the solution, where that share drowns in
    rounding, stay level while the slope, which does not drown, flattens (Hager and Zhang's approximate Wolfe conditions).
    """
    slope = (gradient * step).sum().item()
    for length in (0.25**i for i in range(12)):
        shorter = layer + length * step
        new_loss, new_gradient = objective.evaluate(shorter)
        falls = new_loss <= loss + 1e-4 * length * slope
        flattens = new_loss <= loss + 1e-6 * abs(loss) and (new_gradient * step).sum().item() <= -0.5 * slope
        if falls or flattens:
            return shorter, new_loss, new_gradient
    return None


class _Objective:
    """Loss, gradient and Hessian over the rays of all processes, for layers of the classes that have rays.

    features: (L, C)
    labels:   (L,)
    counts:   (K,) float64, rays per class over all processes; a class without any is left out
    total:    sums a tensor over the processes
    """

    def __init__(self, features, labels, counts, penalty, total):
        self.features, self.labels, self.counts, self.penalty, self.total = features, labels, counts, penalty, total
        self.present = counts.nonzero().squeeze(1)
        self.num_rays = int(total(counts.new_full((1,), float(len(labels)))).item())
        rank = torch.cumsum(counts > 0, dim=0) - 1
        block = BLOCK.get(features.device.type, 2**14)
        self.blocks = list(zip(features.split(block), rank[labels][None].split(block, dim=1)))
        self.probabilities = [features.new_empty(len(self.present), len(rays)) for rays, _ in self.blocks]
        self.enough_products = ENOUGH_PRODUCTS[self.num_rays <= COARSE_RAYS]
        self.zero_loss, gradient = self.evaluate(self.zero_layer())  # for any penalty
        self.zero_norm = gradient.norm().item() or 1.0

    def of_sample(self, num_rays):
        """The same of about `num_rays` rays, each process drawing from its own."""
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randint(max(1, len(self.labels)), (self._share(num_rays),), generator=generator).to(self.labels.device)
        return _Objective(self.features[chosen], self.labels[chosen], self.counts, self.penalty, self.total)

    def zero_layer(self):
        return self.counts.new_zeros(len(self.present), self.features.shape[1] + 1)

    def pack(self, weight, bias):
        layer = torch.cat([weight, bias[:, None]], dim=1).detach().to(self.counts)[self.present]
        return layer - layer.mean(dim=0)

    def unpack(self, layer):
        weight = self.features.new_zeros(len(self.counts), self.features.shape[1])
        bias = self.features.new_full((len(self.counts),), ABSENT_BIAS)
        weight[self.present], bias[self.present] = layer[:, :-1].to(weight), layer[:, -1].to(bias)
        return weight, bias

    def evaluate(self, layer):
        """Loss, a float, and gradient (K, C + 1). Keeps the probabilities for `curvature`."""
        sums = layer.new_zeros(1 + layer.numel())  # one tensor, so that processes exchange one
        gradient = sums[1:].view_as(layer)
        for (rays, labels), probabilities in zip(self.blocks, self.probabilities):
            log_probabilities = F.log_softmax(_logits(layer, rays), dim=0)  # (K, rays)
            sums[0] -= log_probabilities.gather(0, labels).sum(dtype=sums.dtype)
            torch.exp(log_probabilities, out=probabilities)
            error = probabilities.scatter_add(0, labels, rays.new_full((1, 1), -1.0).expand_as(labels))
            gradient[:, :-1] += error @ rays
            gradient[:, -1] += error.sum(dim=1)
        sums = self.total(sums) / self.num_rays
        gradient = sums[1:].view_as(layer) + self._penalty_gradient(layer)
        loss = sums[0] + self.penalty * layer[:, :-1].square().sum()
        return loss.item(), gradient - gradient.mean(dim=0)

    def curvature(self, direction):
        """The Hessian where `evaluate` was last called, times a direction (K, C + 1)."""
        sums = torch.zeros_like(direction)
        for (rays, _), probabilities in zip(self.blocks, self.probabilities):
            change = _logits(direction, rays).mul_(probabilities)  # (K, rays)
            change -= probabilities * change.sum(dim=0)
            sums[:, :-1] += change @ rays
            sums[:, -1] += change.sum(dim=1)
        product = self.total(sums) / self.num_rays + self._penalty_gradient(direction)
        return product - product.mean(dim=0)

    def preconditioner(self, layer):
        """A function from residuals (K, C + 1) to about the inverse Hessian times them. Call `evaluate(layer)` first."""
        num_classes, side = layer.shape
        coupled = layer.numel() <= MAX_COUPLED
        num_unknowns = layer.numel() if coupled else side
        rays, weight = self._doubtful_rays(max(CURVATURE_RAYS, CURVATURE_RAYS_PER_UNKNOWN * num_unknowns))
        probabilities = F.softmax(_logits(layer, rays), dim=0)
        rays = F.pad(rays, (0, 1), value=1.0)  # the bias is the weight of a feature that is 1
        hessian = layer.new_zeros(num_classes, num_classes if coupled else 1, side, side)
        for i in range(num_classes):
            weighted = rays * (weight * probabilities[i])[:, None]
            hessian[i, i if coupled else 0] = (weighted * (1 - probabilities[i])[:, None]).T @ rays
            for j in range(i) if coupled else ():
                hessian[i, j] = (weighted * -probabilities[j][:, None]).T @ rays
                hessian[j, i] = hessian[i, j].T
        hessian = self.total(hessian) / self.num_rays
        if coupled:
            hessian = hessian.transpose(1, 2).reshape(1, layer.numel(), layer.numel())
        factor = _factor(hessian.view(-1, *hessian.shape[-2:]), self._penalty_gradient(torch.ones_like(layer)))

        def precondition(residual):
            product = torch.cholesky_solve(residual.reshape(len(factor), -1, 1), factor).view_as(residual)
            return product - product.mean(dim=0)

        return precondition

    def _doubtful_rays(self, num_rays):
        """This process's share of about `num_rays`, (n, C), and weights (n,) with which sums over them stand for all rays."""
        num_rays = self._share(num_rays)
        if num_rays >= len(self.features):
            return self.features, self.features.new_ones(len(self.features))
        doubt = torch.cat([1 - probabilities.square().sum(dim=0) for probabilities in self.probabilities]).double()
        doubt += 0.05 * doubt.mean() + 1e-12  # none is left out for good
        cumulative = doubt.cumsum(dim=0)
        jitter = torch.rand(num_rays, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        places = ((torch.arange(num_rays) + jitter) / num_rays).to(doubt.device) * cumulative[-1]
        chosen = torch.searchsorted(cumulative, places).clamp(max=len(doubt) - 1)
        return self.features[chosen], (cumulative[-1] / (num_rays * doubt[chosen])).to(self.features)

    def _share(self, num_rays):
        """This process's part of `num_rays`, by the rays that it holds."""
        return -(-num_rays * len(self.features) // self.num_rays)

    def _penalty_gradient(self, layer):
        return F.pad(2 * self.penalty * layer[:, :-1], (0, 1))


def _logits(layer, rays):
    """(K, C + 1) float64 and (n, C) -> (K, n) in the type of the rays."""
    layer = layer.to(rays)
    return torch.addmm(layer[:, -1:], layer[:, :-1], rays.T)


def _factor(hessian, diagonal):
    """Cholesky factor of (N, M, M) plus a diagonal, N * M entries, and as much damping as makes it positive definite."""
    hessian = (hessian + hessian.mT) / 2
    entries = hessian.diagonal(dim1=1, dim2=2)
    entries += diagonal.view_as(entries)
    damping = 1e-6 * entries.mean(dim=1, keepdim=True).clamp(min=1e-12)
    while True:
        entries += damping
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if not failed.any():
            return factor
        damping = 10 * damping

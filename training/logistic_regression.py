"""Multinomial logistic regression with an L2 penalty: the best linear layer from features to classes.

The layer minimises, over weight (K, C) and bias (K,),

    mean over rays of cross_entropy(weight @ features + bias, label)  +  penalty * sum(weight ** 2)

The problem is convex: with a penalty there is one minimum. SciPy's L-BFGS-B finds it. Features are correlated, so L-BFGS
works in coordinates in which the Hessian is close to the identity: for every class, the block of the Hessian of a sample
of the rays is factored as L @ L.T, and the coordinates are L.T @ layer. Loss and gradient are sums over the rays on their
device. Per evaluation, one vector of K * (C + 1) numbers is copied to the device and one back.

Adding the same vector to the rows of all classes changes no probability. Of all such layers the penalty prefers the one whose
weight sums to zero over the classes. The bias is chosen likewise, and gradients and steps stay among such layers.

Inside this module, a layer is one (K, C + 1) float64 tensor of the classes that have rays, the bias in the last column.
Probabilities are (K, rays): softmax over the few entries of a row is slow.
"""

import math
from dataclasses import dataclass

import scipy.optimize
import torch
import torch.nn.functional as F

BLOCK = {"cpu": 2**14, "cuda": 2**18}  # rays at a time: temporaries that fit a CPU's cache, kernels that fill a GPU
SAMPLE_RAYS = 2**14  # for the Hessian; with over four times as many rays, the search starts at the sample's solution
ROUNDING = 1e-6  # relative: a loss computed from gradients is used if it agrees to this
ABSENT_BIAS = -30.0  # of a class without rays. The largest logit is >= 0, so this class's probability is below 1e-13


@dataclass(frozen=True)
class Solution:
    """The layer that `fit` found.

    weight:         (K, C) in the features' type; sums to zero over the classes that have rays, and so does the bias
    bias:           (K,); a class without rays has weight 0 and bias ABSENT_BIAS
    loss:           mean cross-entropy plus penalty
    gradient_norm:  relative to its norm at weight 0, bias 0
    num_iterations: of L-BFGS over all rays
    converged:      whether gradient_norm is within the tolerance
    """

    weight: torch.Tensor
    bias: torch.Tensor
    loss: float
    gradient_norm: float
    num_iterations: int
    converged: bool


def _unchanged(sums):  # the sum over one process
    return sums


@torch.no_grad()
def fit(features, labels, num_classes, penalty, start=None, tolerance=1e-5, max_iterations=500, reduce=_unchanged):
    """The layer with the smallest loss.

    features:  (L, C) float32; or float64, for a solution of that precision. From float32, expect a gradient_norm of about
               2e-6 at best
    labels:    (L,) int64 in 0 .. num_classes - 1
    penalty:   >= 0. With 0 and separable classes the loss has no minimum; the search then ends after max_iterations
    start:     (weight (K, C), bias (K,)); ignored if its loss is larger than that of weight 0, bias 0
    tolerance: on the gradient's norm, relative to its norm at weight 0, bias 0
    reduce:    sums a float64 tensor over processes, each of which has its share of the rays (perhaps none); all then take
               the same steps to the same layer
    raises     ValueError if an argument is invalid; because of labels or features, in all processes
    """
    counts = _count(features, labels, num_classes, penalty, reduce)
    objective = _Objective(features, labels, counts, penalty, reduce)
    sample = objective.of_sample(SAMPLE_RAYS)
    layer = objective.zero_layer() if start is None else objective.pack(*start)
    if start is not None and not objective.evaluate(layer)[0] <= objective.zero_loss:
        start, layer = None, objective.zero_layer()
    if start is None and objective.num_rays > 4 * SAMPLE_RAYS:
        layer, *_ = _minimise(sample, layer, sample.factor_hessian(layer), 1e-2, max_iterations)
    factor = sample.factor_hessian(layer)
    layer, loss, gradient_norm, num_iterations = _minimise(objective, layer, factor, tolerance, max_iterations)
    return Solution(*objective.unpack(layer), loss, gradient_norm, num_iterations, gradient_norm <= tolerance)


def _count(features, labels, num_classes, penalty=0.0, reduce=_unchanged):
    """Rays per class over all processes, (K,) float64. Raises ValueError if the input is invalid."""
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        shapes = f"features {tuple(features.shape)}, labels {tuple(labels.shape)}"
        raise ValueError(f"{shapes}; expected (L, C) and (L,), one label for each ray")
    if not penalty >= 0:
        raise ValueError(f"penalty {penalty}; expected 0 or more, since the problem is not convex otherwise")
    valid = (labels >= 0) & (labels < num_classes)
    counts = torch.bincount(labels[valid], minlength=num_classes)
    counts = reduce(torch.cat([counts, (~valid).sum()[None], (~features.sum(dim=1).isfinite()).sum()[None]]).double())
    *counts_per_class, num_invalid, num_broken = counts.long().tolist()
    if num_invalid:
        raise ValueError(f"{num_invalid} labels are out of range, expected 0 to {num_classes - 1}; leave unlabelled rays out")
    if num_broken:
        raise ValueError(f"the features of {num_broken} rays are not finite")
    if not sum(counts_per_class):
        raise ValueError("no rays; expected at least one with a label")
    return counts[:-2]


def _minimise(objective, layer, factor, tolerance, max_iterations):
    """L-BFGS from `layer` with the coordinates factor.mT @ layer / unit. Returns layer, loss, gradient norm, iterations.

    The first step of L-BFGS-B has length 1. With this unit, it is the step to the minimum if the Hessian is factor @
    factor.mT. Close to the minimum, rounding hides differences of losses, but not of gradients: there the difference of two
    losses is computed from their gradients by the trapezoidal rule. The condition that the loss decreases then becomes the
    approximate Wolfe condition of Hager and Zhang (2005, A new conjugate gradient method with guaranteed descent).
    """
    loss, gradient = objective.evaluate(layer)
    start = reached = evaluated = layer, gradient, loss, loss  # as L-BFGS sees the loss, and as it is
    unit = torch.linalg.solve_triangular(factor, gradient.unsqueeze(2), upper=False).norm().item()

    def norm():
        return reached[1].norm().item() / objective.zero_norm

    if norm() <= tolerance:
        return layer, loss, norm(), 0

    def loss_and_gradient(coordinates):
        nonlocal evaluated
        evaluated = start
        if coordinates.any():
            coordinates = torch.from_numpy(coordinates).to(layer).view_as(layer).unsqueeze(2)
            step = unit * torch.linalg.solve_triangular(factor.mT, coordinates, upper=True).squeeze(2)
            moved = layer + step - step.mean(dim=0)
            loss, gradient = objective.evaluate(moved)
            before, gradient_before, loss_before, _ = reached
            estimate = loss_before + ((gradient_before + gradient) * (moved - before)).sum().item() / 2
            evaluated = moved, gradient, estimate if abs(estimate - loss) < ROUNDING * loss else loss, loss
        _, gradient, loss, _ = evaluated
        gradient = torch.linalg.solve_triangular(factor, gradient.unsqueeze(2), upper=False) / unit
        return loss / unit**2, gradient.flatten().cpu().numpy()

    def after_iteration(intermediate_result):  # SciPy requires this name
        nonlocal reached
        reached = evaluated  # L-BFGS-B ends an iteration where it has just evaluated
        if norm() <= tolerance:
            raise StopIteration

    found = scipy.optimize.minimize(
        loss_and_gradient,
        torch.zeros(layer.numel()).numpy(),
        jac=True,
        method="L-BFGS-B",
        callback=after_iteration,
        options={"maxiter": max_iterations, "maxcor": 20, "ftol": 0, "gtol": 0},  # the callback ends it
    )
    return reached[0], reached[-1], norm(), found.nit


class _Objective:
    """Loss, gradient and Hessian over the rays of all processes, for layers of the classes that have rays.

    counts: (K,) float64, rays per class over all processes; a class without any is left out. Otherwise as `fit`
    """

    def __init__(self, features, labels, counts, penalty=0.0, reduce=_unchanged):
        self.features, self.labels, self.counts, self.penalty, self.reduce = features, labels, counts, penalty, reduce
        self.present = counts.nonzero().squeeze(1)
        self.num_rays = int(reduce(counts.new_full((1,), float(len(labels)))).item())
        rank = torch.cumsum(counts > 0, dim=0) - 1
        block = BLOCK.get(features.device.type, 2**14)
        self.blocks = list(zip(features.split(block), rank[labels][None].split(block, dim=1)))
        self.zero_loss = math.log(len(self.present)) + 1e-6  # with any penalty; 1e-6 for rounding
        self.zero_norm = self.evaluate(self.zero_layer())[1].norm().item() or 1.0

    def of_sample(self, num_rays):
        """The same of about `num_rays` rays, each process drawing from its own; of all if there are no more."""
        if self.num_rays <= num_rays:
            return self
        share = -(-num_rays * len(self.labels) // self.num_rays)
        chosen = torch.randint(max(1, len(self.labels)), (share,), generator=torch.Generator().manual_seed(0))
        chosen = chosen.to(self.labels.device)
        return _Objective(self.features[chosen], self.labels[chosen], self.counts, self.penalty, self.reduce)

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
        """Loss, a float, and gradient (K, C + 1)."""
        sums = layer.new_zeros(1 + layer.numel())  # one tensor, so that processes exchange one
        gradient = sums[1:].view_as(layer)
        for rays, labels in self.blocks:
            log_probabilities = F.log_softmax(_logits(layer, rays), dim=0)  # (K, rays)
            sums[0] -= log_probabilities.gather(0, labels).sum(dtype=sums.dtype)
            error = log_probabilities.exp_().scatter_add_(0, labels, rays.new_full((1, 1), -1.0).expand_as(labels))
            gradient[:, :-1] += error @ rays
            gradient[:, -1] += error.sum(dim=1)
        sums = self.reduce(sums) / self.num_rays
        weight, gradient = layer[:, :-1], sums[1:].view_as(layer)
        gradient[:, :-1] += 2 * self.penalty * weight
        return (sums[0] + self.penalty * weight.square().sum()).item(), gradient - gradient.mean(dim=0)

    def factor_hessian(self, layer):
        """Lower Cholesky factors (K, C + 1, C + 1) of the Hessian's blocks on the diagonal, one for each class."""
        hessian = layer.new_zeros(*layer.shape, layer.shape[1])
        for rays, _ in self.blocks:
            probabilities = F.softmax(_logits(layer, rays), dim=0)
            rays = F.pad(rays, (0, 1), value=1.0)  # the bias is the weight of a feature that is 1
            for block, share in zip(hessian, probabilities):
                block += (rays * (share * (1 - share))[:, None]).T @ rays
        hessian = self.reduce(hessian) / self.num_rays
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        diagonal[:, :-1] += 2 * self.penalty
        damping = 1e-6 * diagonal.mean(dim=1, keepdim=True).clamp(min=1e-12)
        failed = True
        while failed:  # rounding and features that are always 0 may leave a block without a factor
            diagonal += damping
            factor, info = torch.linalg.cholesky_ex(hessian)
            failed, damping = info.any(), 10 * damping
        return factor


def _logits(layer, rays):
    """(K, C + 1) float64 and (n, C) -> (K, n) in the type of the rays."""
    layer = layer.to(rays)
    return torch.addmm(layer[:, -1:], layer[:, :-1], rays.T)

"""The fast solver of stage 3: the codes of all instances at once, each by itself, from several starts.

The loss of a code is the mean over rays of its own instance. Every start has an Adam of its own. Its learning rate is in
units of the spread of the trained codes and falls when the loss on fixed rays of the input no longer improves; below a
limit the fit of that start ends. The fit of an instance does not depend on the other instances, except for rounding, so
several processes divide the instances among them without communicating.
"""

import numpy as np
import torch
import torch.nn.functional as F

import geometry
import srns
import util
from rendering import blocks
from rendering.precision import autocast, to_float32
from training import distributed, losses

LEARNING_RATE = 0.15  # per step, in units of the spread of the trained codes
RAYS_PER_STEP, LEAST_RAYS = 128, 32  # per instance, divided among its starts; per start at least
WARMUP_STEPS = 5
BETAS, EPS = (0.9, 0.99), 1e-8
STEPS_PER_CHECK = 10
CHECKED_RAYS = 512  # per instance, on which its starts are compared and progress is measured
PROGRESS = 0.01  # share of the loss by which a start must improve between checks
PATIENCE = 3  # checks without progress before the rate falls
FALL, LAST_RATE = 0.3, 0.02  # factor on the rate each time; share of the first rate below which a start has converged
STEPS_PER_HALVING = 10  # between halvings of the number of starts of an instance
RANKED_RAYS, MAX_RANKED = 64, 512  # rays per instance, and trained codes, that are compared to find starts


class RayLoss:
    """The loss of codes: weighted terms (B,) of B codes and their instances' pixels. See objectives.SRNObjective.

    model: srns.SRN, frozen; head: frozen head that reads features, or None
    """

    def __init__(self, model, weights, head=None, precision="float32"):
        self.model, self.weights, self.head, self.precision = model, weights, head, precision

    def terms(self, z, drawn, scene=None):
        """The terms, a dict of (B,), of codes z (B, D).

        drawn: observed_rays.Drawn of B x R pixels, or of 1 x R pixels that all codes are compared with
        scene: srns.SRN.scene of the codes, where it is known already
        """
        rays = geometry.Rays(*(x.expand(len(z), -1, -1) for x in drawn.rays))
        scene = scene or self.model.scene({"z": z})
        with autocast(z.device.type, self.precision):
            outputs = self.model.per_ray({"rays": rays}, scene, self.head)
        outputs, weights = to_float32(outputs), self.weights
        behind = outputs["depth"].clamp(max=0).square().mean(dim=(1, 2))
        terms = {"regularization": weights.depth * losses.DEPTH_PENALTY * behind}
        if drawn.rgb is not None:
            terms["distortion"] = weights.image * (outputs["rgb"] - drawn.rgb).square().mean(dim=(1, 2))
        terms["latent"] = weights.latent * z.square().mean(dim=1)
        if self.head is not None:
            labels = drawn.seg_labels.expand(len(z), -1)
            entropy = F.cross_entropy(outputs["seg_logits"].mT, labels, ignore_index=util.UNLABELLED, reduction="none")
            terms["class"] = weights.classes * entropy.sum(dim=1) / (labels != util.UNLABELLED).sum(dim=1).clamp(min=1)
        return terms

    def total(self, z, drawn, scene=None):
        """(B,) sum of the terms."""
        return sum(self.terms(z, drawn, scene).values())


class CodeFits:
    """The fits of N instances from K starts each, of which M are active.

    loss:       RayLoss
    observed:   observed_rays.ObservedRays of the N instances
    starts:     (N, K, D) codes
    spread:     of the trained codes, a float
    instances:  indices of the instances that are fitted in this process (default: all)
    num_rays:   per instance and step, divided among its starts
    foreground_fraction: share of the rays drawn from the foreground
    rays_per_block: rays whose activations are held at once

    `state` has a row for each of N * K starts and is all that a resumed fit needs to give the same numbers.
    """

    def __init__(
        self,
        loss,
        observed,
        starts,
        spread,
        instances=None,
        learning_rate=LEARNING_RATE,
        num_rays=RAYS_PER_STEP,
        foreground_fraction=0.0,
        rays_per_block=2**11,
    ):
        self.loss, self.observed, self.rays_per_block = loss, observed, rays_per_block
        self.learning_rate, self.num_rays, self.foreground_fraction = learning_rate, num_rays, foreground_fraction
        self.num_instances, self.num_starts, _ = starts.shape
        codes = starts.flatten(0, 1).clone()
        numbers = codes.new_zeros(len(codes))
        self.is_own = torch.zeros(self.num_instances, dtype=torch.bool, device=codes.device)
        self.is_own[slice(None) if instances is None else list(instances)] = True
        self.state = {
            "codes": codes,
            "exp_avg": torch.zeros_like(codes),
            "exp_avg_sq": torch.zeros_like(codes),
            "step": numbers.clone(),
            "rate": numbers + spread,  # factor on the learning rate
            "spread": numbers + spread,
            "idle": numbers.clone(),  # checks without progress
            "best_loss": numbers + torch.inf,
            "best_codes": codes.clone(),
            "is_active": self.is_own.repeat_interleave(self.num_starts),
        }
        self.find_active()

    @property
    def num_active(self):
        """Starts that are still being fitted."""
        return len(self.rows)

    def find_active(self):
        self.rows = torch.nonzero(self.state["is_active"]).squeeze(1)  # (M,)
        self.instances = self.rows // self.num_starts  # (M,) which each start belongs to

    def by_blocks(self, function, num_rays):
        """[function((m,) of `rows`, (m,) of `instances`)] over blocks of active starts."""
        at_once = max(1, blocks.size(len(self.rows) * num_rays, self.rays_per_block, self.rows.device) // num_rays)
        pieces = list(zip(self.rows.split(at_once), self.instances.split(at_once)))
        return blocks.map_in_threads(lambda piece: function(*piece), pieces, self.rows.device)

    def rays_at(self, step):
        """Rays per start in a step: the more starts of an instance have been dropped, the more for each."""
        num_left = -(-self.num_starts // 2 ** ((step - 1) // STEPS_PER_HALVING))
        return max(min(LEAST_RAYS, self.num_rays), self.num_rays // num_left)

    @torch.no_grad()
    def begin(self):
        """Compute the loss of the starts. raises util.InputError where it is not finite"""
        cost = self.cost_of_active()
        self.state["best_loss"][self.rows] = cost
        if not cost.isfinite().all():
            found = f"the loss of a code is {cost[~cost.isfinite()][0].item()} before the first step"
            raise util.InputError(f"{found}; the SRN of --checkpoint_path renders no image of finite numbers, choose another")

    def step(self, step):
        """Move every active start by one step. returns the mean of each loss term over them, a dict of ()"""
        num_rays = self.rays_at(step)

        def gradient_and_terms(rows, instances):
            z = self.state["codes"][rows].requires_grad_()
            drawn = self.observed.draw(instances, step, num_rays, self.foreground_fraction)
            terms = self.loss.terms(z, drawn)
            gradient = torch.autograd.grad(sum(terms.values()).sum(), z)[0]
            return gradient, {name: term.detach() for name, term in terms.items()}

        found = self.by_blocks(gradient_and_terms, num_rays)
        self.move(torch.cat([gradient for gradient, _ in found]))
        terms = {name: torch.cat([terms[name] for _, terms in found]).mean() for name in found[0][1]}
        if step % STEPS_PER_CHECK == 0:
            self.check()
        return terms

    def move(self, gradient):
        """A step of Adam along gradients (M, D); a start whose gradient is not finite stays where it is."""
        state, rows, (beta1, beta2) = self.state, self.rows, BETAS
        gradient = torch.where(gradient.isfinite().all(dim=1, keepdim=True), gradient, 0)
        state["step"][rows] += 1
        count = state["step"][rows, None]
        state["exp_avg"][rows] = mean = torch.lerp(gradient, state["exp_avg"][rows], beta1)
        state["exp_avg_sq"][rows] = square = torch.lerp(gradient.square(), state["exp_avg_sq"][rows], beta2)
        size = self.learning_rate * state["rate"][rows, None] * (count / WARMUP_STEPS).clamp(max=1)
        direction = mean / (1 - beta1**count) / ((square / (1 - beta2**count)).sqrt() + EPS)
        state["codes"][rows] -= size * direction

    @torch.no_grad()
    def keep_best(self):
        """Keep codes whose loss is less than before. returns (M,) the loss now, and the least loss before"""
        state, rows = self.state, self.rows
        cost, best = self.cost_of_active(), state["best_loss"][rows]
        is_better = cost < best
        state["best_codes"][rows] = torch.where(is_better[:, None], state["codes"][rows], state["best_codes"][rows])
        state["best_loss"][rows] = torch.where(is_better, cost, best)
        return cost, best

    def check(self):
        """Keep the best codes, lower the rates, end the starts that have converged and drop the worse ones of an instance."""
        cost, best = self.keep_best()
        state, rows = self.state, self.rows
        idle = torch.where(cost < (1 - PROGRESS) * best, 0, state["idle"][rows] + 1)
        falls = idle >= PATIENCE
        state["idle"][rows] = torch.where(falls, 0, idle)
        state["rate"][rows] *= torch.where(falls, FALL, 1.0)
        state["codes"][rows] = torch.where(falls[:, None], state["best_codes"][rows], state["codes"][rows])
        state["is_active"] &= state["rate"] >= LAST_RATE * state["spread"]
        by_instance = {name: state[name].view(self.num_instances, -1) for name in ("step", "best_loss")}
        num_left = self.num_starts / 2 ** (by_instance["step"].amax(dim=1) // STEPS_PER_HALVING)
        place = by_instance["best_loss"].argsort(dim=1, stable=True).argsort(dim=1)  # 0 is the best
        state["is_active"] &= (place < num_left.ceil().unsqueeze(1)).flatten()
        self.find_active()

    def cost_of_active(self):
        """(M,) loss of the active starts, always on the same rays."""

        def cost(rows, instances):
            drawn = self.observed.draw(instances, 0, CHECKED_RAYS, self.foreground_fraction)
            return self.loss.total(self.state["codes"][rows], drawn)

        return torch.cat(self.by_blocks(cost, CHECKED_RAYS))

    def best(self, state=None):
        """(N, D) the code of every instance with the least loss at a check, and (N,) whether its fit has converged.

        state: that of all processes, see `gathered_state` (default: that of this process)
        """
        state = state or self.state
        start = state["best_loss"].view(self.num_instances, -1).argmin(dim=1)
        start += self.num_starts * torch.arange(self.num_instances, device=start.device)
        is_done = ~state["is_active"].view(self.num_instances, -1).any(dim=1)
        return state["best_codes"][start], is_done

    @torch.no_grad()
    def summary(self, num_rays=4096):
        """Losses of the best codes of all processes, on rays spread evenly over the input.

        returns the mean of each loss term over the instances, a dict of (); their mean PSNR in dB, None where no image is
        observed; and the number of fits that have converged
        """
        own = torch.nonzero(self.is_own).squeeze(1)
        codes, is_done = self.best()
        found = [self.loss.terms(codes[one], self.observed.draw(one, 0, num_rays)) for one in own.split(1)]
        means = {name: torch.cat([terms[name] for terms in found]).sum() / self.num_instances for name in found[0]}
        if "distortion" in means:
            psnr = [losses.psnr_of(terms["distortion"] / self.loss.weights.image) for terms in found]
            means["psnr"] = codes.new_tensor(sum(psnr) / self.num_instances)
        means["done"] = is_done[own].sum().to(codes)
        summed = distributed.sum_over_processes(torch.stack(list(means.values())))
        means = dict(zip(means, summed))
        num_done, psnr = int(means.pop("done")), means.pop("psnr", None)
        return means, None if psnr is None else psnr.item(), num_done

    def gathered_state(self):
        """The state of all instances, each of which one process fits. All processes must call this together."""
        if distributed.world_size() == 1:
            return dict(self.state)
        is_own = self.is_own.repeat_interleave(self.num_starts)
        state = {}
        for name, tensor in self.state.items():
            own = torch.where(is_own.view(-1, *[1] * (tensor.dim() - 1)), tensor, 0)
            state[name] = distributed.sum_over_processes(own.long() if tensor.dtype == torch.bool else own).to(tensor)
        return state

    def load_state_dict(self, state):
        self.state = {name: tensor.clone().to(self.state[name]) for name, tensor in state.items()}
        self.num_starts = len(self.state["codes"]) // self.num_instances
        self.state["is_active"] &= self.is_own.repeat_interleave(self.num_starts)
        self.find_active()


@torch.no_grad()
def find_starts(loss, observed, trained, first, num_starts, instances, rays_per_block=2**11):
    """K starts for every instance: its `first`, and the K - 1 trained codes that render its input best.

    trained:   (T, D), of which at most MAX_RANKED are compared, spread evenly
    first:     (N, D)
    instances: indices of the instances whose input is compared; the others get copies of their first
    returns    (N, min(K, T + 1), D)
    """
    some = torch.linspace(0, len(trained) - 1, min(len(trained), MAX_RANKED)).round().long()
    candidates = trained[some.to(trained.device)]
    starts = first.unsqueeze(1).repeat(1, min(num_starts, len(candidates) + 1), 1)
    if starts.shape[1] == 1:
        return starts
    pixels = [observed.draw(torch.tensor([i], device=trained.device), 0, RANKED_RAYS) for i in instances]
    at_once = max(1, 4 * rays_per_block // RANKED_RAYS) if rays_per_block else len(candidates)
    costs = []
    for codes in candidates.split(at_once):
        scene = loss.model.scene({"z": codes})  # once for all instances
        costs.append(blocks.map_in_threads(lambda drawn: loss.total(codes, drawn, scene), pixels, trained.device))
    for instance, *cost in zip(instances, *costs):
        starts[instance, 1:] = candidates[torch.cat(cost).argsort(stable=True)[: starts.shape[1] - 1]]
    return starts


def spread_of(trained):
    """Spread of trained codes (T, D): root mean square distance from their mean per coordinate, a float."""
    return max((trained - trained.mean(dim=0)).square().mean().sqrt().item(), srns.CODE_STD)


def normal_codes(names, latent_dim, seed):
    """Codes (N, D) near 0, the published start; each depends on the seed and its instance's name alone."""
    draws = [np.random.default_rng([seed, *name.encode()]).normal(size=latent_dim) for name in names]
    return srns.CODE_STD * torch.tensor(np.stack(draws), dtype=torch.float32)

"""Stage 3 as a solver of its own: the codes of all instances at once, each by itself, from several starts.

A code's loss is the mean over rays of its own instance. Every start moves by an Adam of its own, whose rate is told in
units of the spread of the trained codes, falls when the loss on fixed rays of the input makes no more progress, and at last
ends the fit of that start. Nothing that an instance does depends on which others there are, but for rounding, so that
several processes share the instances out and need not communicate.
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

LEARNING_RATE = 0.15  # of the spread of the trained codes, per step
RAYS_PER_STEP, LEAST_RAYS = 128, 32  # of an instance, shared among its starts; of a start
WARMUP_STEPS = 5
BETAS, EPS = (0.9, 0.99), 1e-8
STEPS_PER_CHECK = 10
CHECKED_RAYS = 512  # of each instance: on them its starts are compared, and progress is told
PROGRESS = 0.01  # the share of its loss that a start loses from one check to a later one, if it makes progress
PATIENCE = 3  # checks without progress until the rate falls
FALL, LAST_RATE = 0.3, 0.02  # of the rate each time; the share of the first rate below which a start is done
STEPS_PER_HALVING = 10  # of the starts of an instance, until one is left
RANKED_RAYS, MAX_RANKED = 64, 512  # of each instance, and trained codes: those that render the input best are starts


class RayLoss:
    """What a code costs: codes and pixels of B instances -> a dict of (B,) weighted terms. See objectives.SRNObjective.

    model, head: srns.SRN and a head that reads features, or None; both frozen
    """

    def __init__(self, model, weights, head=None, precision="float32"):
        self.model, self.weights, self.head = model, weights, head
        self.precision = precision

    def terms(self, z, drawn, scene=None):
        """z (B, D) and observed_rays.Drawn of B x R pixels; or of 1 x R pixels that all codes are compared with.

        scene: of the codes, see srns.SRN.scene, where it is known
        """
        rays = geometry.Rays(*(x.expand(len(z), -1, -1) for x in drawn.rays))
        scene = scene or self.model.scene({"z": z})
        with autocast(z.device.type, self.precision):
            outputs = self.model.per_ray({"rays": rays}, scene)
            if self.head is not None:
                outputs["seg_logits"] = self.head(outputs["features"])
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
        """(B,) what the codes cost in all."""
        return sum(self.terms(z, drawn, scene).values())


class CodeFits:
    """The fits of N instances from K starts each, of which M are still going on.

    loss, observed: RayLoss; observed_rays.ObservedRays of the N instances
    starts:     (N, K, D) codes
    spread:     of the trained codes, a float
    instances:  indices of those that are fitted here (default: all)
    num_rays:   of an instance in each step, shared among its starts
    foreground_fraction: of the rays that a code's loss is the mean over
    rays_per_block: how many rays are in flight at once

    `state` holds a row for each of N * K starts: what is needed to go on, exactly.
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
        self.loss, self.observed = loss, observed
        self.learning_rate, self.num_rays, self.foreground_fraction = learning_rate, num_rays, foreground_fraction
        self.rays_per_block = rays_per_block
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
            "rate": numbers + spread,  # a factor on the learning rate
            "spread": numbers + spread,
            "idle": numbers.clone(),  # checks without progress
            "best_loss": numbers + torch.inf,
            "best_codes": codes.clone(),
            "is_active": self.is_own.repeat_interleave(self.num_starts),
        }
        self.find_active()

    def find_active(self):
        self.changed = True  # for whoever keeps a copy of the best codes
        self.rows = torch.nonzero(self.state["is_active"]).squeeze(1)  # (M,)
        self.instances = self.rows // self.num_starts  # (M,) which each start belongs to

    def by_blocks(self, function, num_rays):
        """What the function gives for starts, (m,) of `rows` and (m,) instances at a time: a list."""
        at_once = max(1, blocks.size(len(self.rows) * num_rays, self.rays_per_block, self.rows.device) // num_rays)
        pieces = list(zip(self.rows.split(at_once), self.instances.split(at_once)))
        return blocks.map_in_threads(lambda piece: function(*piece), pieces, self.rows.device)

    def rays_at(self, step):
        """How many rays each start is given in a step, while others of its instance are still there."""
        num_left = -(-self.num_starts // 2 ** ((step - 1) // STEPS_PER_HALVING))
        return max(min(LEAST_RAYS, self.num_rays), self.num_rays // num_left)

    def begin(self):
        """See what the starts cost. raises FloatingPointError where that is no number"""
        with torch.no_grad():
            cost = self.cost_of_active()
        self.state["best_loss"][self.rows] = cost
        if not cost.isfinite().all():
            raise FloatingPointError(f"loss is {cost[~cost.isfinite()][0].item()} before the first step")

    def step(self, step):
        """Move every start that goes on. returns the mean over them of each term, a dict of ()"""
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
        """One step of Adam, (M, D). Where the gradient is not finite, nothing moves; the loss tells at the next check."""
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
        """Keep the codes that cost less than before. returns (M,) what they cost now, and the least before"""
        state, rows = self.state, self.rows
        cost, best = self.cost_of_active(), state["best_loss"][rows]
        is_better = cost < best
        state["best_codes"][rows] = torch.where(is_better[:, None], state["codes"][rows], state["best_codes"][rows])
        state["best_loss"][rows] = torch.where(is_better, cost, best)
        self.changed = True
        return cost, best

    def check(self):
        """Keep the best codes, lower the rates, and let starts end: those done, and the worse ones of an instance."""
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
        """(M,) what the starts that go on cost, each time on the same rays."""

        def cost(rows, instances):
            drawn = self.observed.draw(instances, 0, CHECKED_RAYS, self.foreground_fraction)
            return self.loss.total(self.state["codes"][rows], drawn)

        return torch.cat(self.by_blocks(cost, CHECKED_RAYS))

    def best(self):
        """(N, D) the best code of every instance by the loss at checks, and (N,) whether its fit is done."""
        start = self.state["best_loss"].view(self.num_instances, -1).argmin(dim=1)
        start += self.num_starts * torch.arange(self.num_instances, device=start.device)
        is_done = ~self.state["is_active"].view(self.num_instances, -1).any(dim=1)
        return self.state["best_codes"][start], is_done

    @torch.no_grad()
    def summary(self, num_rays=4096):
        """How it stands with the best codes of all processes, on rays spread evenly over the input.

        returns the mean of each loss term over the instances, a dict of (); their mean PSNR in dB, None where no image is
        observed; and how many fits are done
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

    def share(self):
        """Bring together what the processes have found, each for its own instances."""
        if distributed.world_size() == 1:
            return
        is_own = self.is_own.repeat_interleave(self.num_starts)
        for name, tensor in self.state.items():
            own = torch.where(is_own.view(-1, *[1] * (tensor.dim() - 1)), tensor, 0)
            self.state[name] = distributed.sum_over_processes(own.long() if tensor.dtype == torch.bool else own).to(tensor)
        self.is_own[:] = True
        self.find_active()

    def state_dict(self):
        """In the form of an optimizer's."""
        return {"state": {0: dict(self.state)}, "param_groups": [{"num_starts": self.num_starts}]}

    def load_state_dict(self, state_dict):
        self.state = {name: tensor.clone().to(self.state[name]) for name, tensor in state_dict["state"][0].items()}
        self.num_starts = len(self.state["codes"]) // self.num_instances
        self.state["is_active"] &= self.is_own.repeat_interleave(self.num_starts)
        self.find_active()


@torch.no_grad()
def find_starts(loss, observed, trained, first, num_starts, instances, rays_per_block=2**11):
    """K starts of every instance: the one given, and the K - 1 trained codes that render its input best.

    trained: (T, D), of which at most MAX_RANKED are looked at
    first:   (N, D)
    returns  (N, min(K, T + 1), D); instances other than the given ones get copies of their first
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
    """How far trained codes (T, D) are from their mean: a float, the root mean square of a coordinate."""
    return max((trained - trained.mean(dim=0)).square().mean().sqrt().item(), srns.CODE_STD)


def normal_codes(names, latent_dim, seed):
    """The published start, codes (N, D) near 0; each depends on the seed and its own instance's name alone."""
    draws = [np.random.default_rng([seed, *name.encode()]).normal(size=latent_dim) for name in names]
    return srns.CODE_STD * torch.tensor(np.stack(draws), dtype=torch.float32)

"""Rays of a batch in blocks, so that what is in flight at once stays small: in a CPU's caches, in a GPU's memory.

Rays do not depend on each other, so nothing changes but the order in which numbers are added up. Both functions are
one node of the graph: what they are given takes part in one backward pass, as if all rays had been computed at once.

On a CPU the threads take a block each, which keeps all of them busy: shared among them, the small operations between
products of matrices would leave most waiting.

A scene is what all rays of a view share: a tuple of tensors, each with a leading B, the number of views, or 1.
"""

import contextlib
import functools
import itertools
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.autograd.function import once_differentiable

LEAST_RAYS = 2**8  # of a block: fewer are not worth a thread


def num_threads(device):
    """How many threads compute blocks there."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def size(num_rays, most, device):
    """Of blocks of these rays: `most`, or fewer where a thread would be left without a block; 0: all in one."""
    return min(most, max(LEAST_RAYS, math.ceil(num_rays / num_threads(device)))) if most else num_rays


def split(num_views, num_rays, rays_per_block, device):
    """A list of (slice of views, slice of rays) of at most `rays_per_block` rays each; 0: all in one.

    A block has some rays of one view, or all rays of some views.
    """
    rays_per_block = size(num_views * num_rays, rays_per_block, device)
    if num_views * num_rays <= rays_per_block:
        return [(slice(0, num_views), slice(0, num_rays))]
    views_at_once = max(1, rays_per_block // num_rays)
    rays_at_once = min(num_rays, rays_per_block)
    return [
        (slice(view, min(view + views_at_once, num_views)), slice(ray, min(ray + rays_at_once, num_rays)))
        for view in range(0, num_views, views_at_once)
        for ray in range(0, num_rays, rays_at_once)
    ]


def cut(batch, views, rays, per_ray):
    """The part of a batch that a block sees. per_ray: names of its tensors (B, R, ...); all others are (B, ...)."""
    return {name: x[views, rays] if name in per_ray else x[views] for name, x in batch.items()}


def deal(blocks, work, device):
    """Give every thread its share of the blocks, on a CPU; on a GPU there is one. [work(share)], the share a list.

    Which thread gets which block is fixed, so that the same numbers are added in the same order each time.
    """
    if num_threads(device) == 1:
        return [work(blocks)]
    num_shares = min(num_threads(device), len(blocks))
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def work_alike(share):
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):  # a thread has modes of its own
            return work(share)

    return list(_threads(num_shares).map(work_alike, [blocks[i::num_shares] for i in range(num_shares)]))


def map_dealt(function, pieces, device):
    """[function(piece)] in the order of the pieces, each thread of a CPU taking its share of them."""
    shares = deal(list(enumerate(pieces)), lambda share: [(i, function(piece)) for i, piece in share], device)
    return [found for _, found in sorted(itertools.chain.from_iterable(shares), key=lambda numbered: numbered[0])]


def num_rays_of(block):
    views, rays = block
    return (views.stop - views.start) * (rays.stop - rays.start)


@functools.cache
def _threads(count):
    """So many threads, whose own operations are not shared out any further."""
    before = torch.get_num_threads()
    started = threading.Barrier(count)

    def settle(_):
        torch.get_num_threads()  # where it is first asked, a thread takes over what was set last, wherever that was
        started.wait()

    pool = ThreadPoolExecutor(count, "blocks", torch.set_num_threads, (1,))
    list(pool.map(settle, range(count)))
    torch.set_num_threads(before)
    return pool


def sum_over_blocks(terms_of, blocks, scene, parameters, autocast=contextlib.nullcontext):
    """The sum of what `terms_of` gives for every block; gradients are computed on the way, so that no block is kept.

    terms_of:   (views, rays, scene of these views) -> (n,) the block's share of n terms
    blocks:     from `split`
    parameters: what `terms_of` uses beside the scene and what needs gradients
    autocast:   makes the context that blocks are computed in
    returns     (n,) of which only the plain sum may be differentiated: one gradient is kept, that of the sum
    """
    return _Sum.apply(terms_of, blocks, autocast, len(scene), *scene, *parameters)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, terms_of, blocks, autocast, num_scene, *inputs):
        def add_up(share):
            gradients, total = Gradients(inputs[:num_scene], inputs[num_scene:]), 0
            for views, rays in share:
                with torch.enable_grad(), autocast():
                    leaves = _leaves(inputs[:num_scene], views)
                    terms = terms_of(views, rays, leaves)
                    loss = terms.sum()
                gradients.add(loss, views, leaves)
                total = total + terms.detach()
            return gradients, total

        shares = deal(blocks, add_up, inputs[0].device)
        ctx.gradients = Gradients.joined([gradients for gradients, _ in shares])
        return sum(total for _, total in shares)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, None, None, *(None if x is None else x.mul_(gradient[0].to(x)) for x in gradients)


def map_over_blocks(outputs_of, blocks, scene, parameters, autocast=contextlib.nullcontext, num_kept=0):
    """What `outputs_of` gives for all rays, a tuple of (B, R, c); a block is computed anew when gradients need it.

    outputs_of: (views, rays, scene of these views) -> tuple of (b, r, c), the same every time
    num_kept:   of so many blocks the activations are kept, and these are computed once
    Otherwise as `sum_over_blocks`.
    """
    return _Map.apply(outputs_of, blocks, autocast, num_kept, len(scene), *scene, *parameters)


class _Map(torch.autograd.Function):
    @staticmethod
    def forward(ctx, outputs_of, blocks, autocast, num_kept, num_scene, *inputs):
        ctx.outputs_of, ctx.blocks, ctx.autocast, ctx.num_scene = outputs_of, blocks, autocast, num_scene
        ctx.save_for_backward(*inputs)
        ctx.kept = {}
        num_kept = num_kept if any(ctx.needs_input_grad) else 0
        num_views, num_rays = blocks[-1][0].stop, blocks[-1][1].stop

        def compute(index):
            views, rays = blocks[index]
            with torch.set_grad_enabled(index < num_kept), autocast():
                leaves = _leaves(inputs[:num_scene], views)
                outputs = outputs_of(views, rays, leaves)
            if index < num_kept:
                ctx.kept[index] = leaves, outputs
            return outputs

        outputs, is_made = [], threading.Lock()

        def fill(share):
            for index in share:
                parts = compute(index)
                with is_made:
                    if not outputs:
                        outputs.extend(x.new_empty(num_views, num_rays, x.shape[-1]) for x in parts)
                for whole, part in zip(outputs, parts):
                    whole[blocks[index]] = part.detach()

        deal(range(len(blocks)), fill, inputs[0].device)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *upstream):
        inputs = ctx.saved_tensors

        def add_up(share):
            gradients = Gradients(inputs[: ctx.num_scene], inputs[ctx.num_scene :])
            for index in share:
                views, rays = ctx.blocks[index]
                leaves, outputs = ctx.kept.pop(index, (None, None))
                if outputs is None:
                    with torch.enable_grad(), ctx.autocast():
                        leaves = _leaves(inputs[: ctx.num_scene], views)
                        outputs = ctx.outputs_of(views, rays, leaves)
                gradients.add(outputs, views, leaves, [x[views, rays] for x in upstream])
            return gradients

        shares = deal(range(len(ctx.blocks)), add_up, inputs[0].device)
        return None, None, None, None, None, *Gradients.joined(shares)


class Gradients:
    """Gradients with respect to a scene and parameters, added up over blocks. `sums`: None where none is needed."""

    def __init__(self, scene, parameters):
        self.parameters = parameters
        self.sums = [torch.zeros_like(x) if x.requires_grad else None for x in (*scene, *parameters)]

    def add(self, outputs, views, leaves, upstream=None):
        inputs = [*leaves, *self.parameters]
        places = [*_of_views(self.sums[: len(leaves)], views), *self.sums[len(leaves) :]]
        wanted = [(x, place) for x, place in zip(inputs, places) if place is not None]
        found = torch.autograd.grad(outputs, [x for x, _ in wanted], upstream, allow_unused=True)
        for (_, place), gradient in zip(wanted, found):
            if gradient is not None:
                place += gradient

    @staticmethod
    def joined(several):
        """The `sums` of several, added up."""
        sums = zip(*(gradients.sums for gradients in several))
        return [None if parts[0] is None else functools.reduce(torch.Tensor.add_, parts) for parts in sums]


def _leaves(scene, views):
    """The scene of some views, cut off from how it was made."""
    parts = _of_views(scene, views)
    return tuple(part.detach().requires_grad_(x.requires_grad) for part, x in zip(parts, scene))


def _of_views(tensors, views):
    return [x if x is None or len(x) == 1 else x[views] for x in tensors]

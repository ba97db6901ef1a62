"""Rays of a batch in blocks, so that a block's activations stay in a CPU's caches, or in a GPU's memory.

Rays do not depend on each other, so blocks change only the order in which numbers are summed, and that order is fixed.
On a CPU each thread computes blocks of its own, and each operation runs on one thread. A plain loop that calls
`loss.backward()` for each block, with torch.utils.checkpoint where activations are not kept, is shorter, but all threads then
share each operation, and most wait during the many small ones between the matrix products: a step at width 96 took 1.4x as
long with C, which is serial, and 5x as long in PyTorch alone on two busy cores.

A scene is what all rays of a view share: a tuple of tensors, each with a leading B, the number of views, or 1.
A block is a pair (slice of views, slice of rays).
"""

import contextlib
import functools
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.autograd.function import once_differentiable

from kernels import backends

LEAST_RAYS = 2**8  # of a block: fewer are not worth a thread


def num_threads(device):
    """The number of threads that compute blocks."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def size(num_rays, most, device):
    """Rays of a block: `most`, or fewer if a thread would get no block; 0: one block for all."""
    return min(most, max(LEAST_RAYS, math.ceil(num_rays / num_threads(device)))) if most else num_rays


def split(num_views, num_rays, rays_per_block, device):
    """A list of blocks of at most `rays_per_block` rays each; 0: one block for all.

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


def num_rays_of(block):
    views, rays = block
    return (views.stop - views.start) * (rays.stop - rays.start)


def map_in_threads(function, pieces, device):
    """[function(piece)] in the order of the pieces. On a CPU several threads compute them, each piece on one thread."""
    count = num_threads(device)
    if count == 1:
        with backends.serial():
            return [function(piece) for piece in pieces]
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def in_thread(piece):
        torch.set_num_threads(1)
        with backends.serial(), torch.inference_mode(inference), torch.set_grad_enabled(grad):  # each thread has its modes
            return function(piece)

    try:
        return list(_threads(count).map(in_thread, pieces))
    finally:
        torch.set_num_threads(count)  # a part of this setting is global


@functools.cache
def _threads(count):
    return ThreadPoolExecutor(count, "blocks")


def gather(outputs_of, blocks, device):
    """The outputs of all blocks. outputs_of: index of a block -> {name: (..., b, r, c)}; returns {name: (..., B, R, c)}."""
    if len(blocks) == 1:
        return map_in_threads(outputs_of, [0], device)[0]
    num_views, num_rays = blocks[-1][0].stop, blocks[-1][1].stop
    outputs, is_made = {}, threading.Lock()

    def fill(index):
        parts = outputs_of(index)
        with is_made:
            if not outputs:
                outputs.update(
                    (name, x.new_empty(*x.shape[:-3], num_views, num_rays, x.shape[-1])) for name, x in parts.items()
                )
        for name, part in parts.items():
            outputs[name][..., *blocks[index], :] = part

    map_in_threads(fill, range(len(blocks)), device)
    return outputs


def sum_over_blocks(terms_of, blocks, scene, parameters, autocast=contextlib.nullcontext):
    """The sum of `terms_of` over all blocks. Each block's gradients are computed with its terms, so that no block is kept.

    terms_of:   (views, rays, scene of these views) -> (n,) the block's share of n terms
    blocks:     from `split`
    parameters: tensors with gradients that `terms_of` uses beside the scene
    autocast:   makes the context in which blocks are computed
    returns     (n,). Only its plain sum may be differentiated: only the gradient of that sum is kept.
    """
    return _Sum.apply(terms_of, blocks, autocast, len(scene), *scene, *parameters)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, terms_of, blocks, autocast, num_scene, *inputs):
        terms = [None] * len(blocks)

        def compute(index):
            views, rays = blocks[index]
            with torch.enable_grad(), autocast():
                leaves = _leaves(inputs[:num_scene], views)
                of_block = terms_of(views, rays, leaves)
                loss = of_block.sum()
            terms[index] = of_block.detach()
            return leaves, loss, None

        ctx.gradients = _gradients(compute, blocks, inputs[:num_scene], inputs[num_scene:])
        return torch.stack(terms).sum(dim=0)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        gradients, ctx.gradients = ctx.gradients, None
        if upstream.device.type == "cpu" and (upstream != upstream[0]).any():  # on a GPU the check would wait for it
            raise RuntimeError("sum_over_blocks: only the plain sum of the terms can be differentiated")
        return None, None, None, None, *(None if x is None else x.mul_(upstream[0].to(x)) for x in gradients)


def map_over_blocks(outputs_of, blocks, scene, parameters, autocast=contextlib.nullcontext, num_kept=0):
    """The outputs of all rays, a tuple of (B, R, c). The backward pass computes each block a second time.

    outputs_of: (views, rays, scene of these views) -> tuple of (b, r, c), the same every time
    num_kept:   blocks whose activations are kept, so that they are computed once
    Otherwise as `sum_over_blocks`.
    """
    return _Map.apply(outputs_of, blocks, autocast, num_kept, len(scene), *scene, *parameters)


class _Map(torch.autograd.Function):
    """torch.utils.checkpoint with threads: autograd would run the backward passes of all blocks in one thread."""

    @staticmethod
    def forward(ctx, outputs_of, blocks, autocast, num_kept, num_scene, *inputs):
        def compute(index, with_gradients):
            views, rays = blocks[index]
            with torch.set_grad_enabled(with_gradients), autocast():
                leaves = _leaves(inputs[:num_scene], views)
                return leaves, outputs_of(views, rays, leaves)

        def outputs_of_block(index):
            is_kept = index < num_kept and any(ctx.needs_input_grad)
            found = compute(index, is_kept)
            if is_kept:
                ctx.kept[index] = found
            return {i: x.detach() for i, x in enumerate(found[1])}

        ctx.compute, ctx.blocks, ctx.num_scene, ctx.kept = compute, blocks, num_scene, {}
        ctx.save_for_backward(*inputs)
        return tuple(gather(outputs_of_block, blocks, inputs[0].device).values())

    @staticmethod
    @once_differentiable
    def backward(ctx, *upstream):
        def recompute(index):
            leaves, outputs = ctx.kept.pop(index, None) or ctx.compute(index, True)
            return leaves, outputs, [x[ctx.blocks[index]] for x in upstream]

        scene, parameters = ctx.saved_tensors[: ctx.num_scene], ctx.saved_tensors[ctx.num_scene :]
        return None, None, None, None, None, *_gradients(recompute, ctx.blocks, scene, parameters)


def _gradients(compute, blocks, scene, parameters):
    """Gradients with respect to scene and parameters, summed over blocks; None for tensors that need none.

    compute: index of a block -> its `_leaves`, its outputs, and the gradients of these, None for a loss

    Each thread has its own sums and a fixed share of the blocks, so the order of summation is fixed. `loss.backward()` would
    add to the one `grad` of a parameter from all threads, in the order in which they arrive.
    """
    device = (*scene, *parameters)[0].device
    num_shares = min(num_threads(device), len(blocks))

    def add_up(share):
        sums = [torch.zeros_like(x) if x.requires_grad else None for x in (*scene, *parameters)]
        for index in range(share, len(blocks), num_shares):
            leaves, outputs, upstream = compute(index)
            places = [*_of_views(sums[: len(scene)], blocks[index][0]), *sums[len(scene) :]]
            wanted = [(x, place) for x, place in zip([*leaves, *parameters], places) if place is not None]
            found = torch.autograd.grad(outputs, [x for x, _ in wanted], upstream, allow_unused=True)
            for (_, place), gradient in zip(wanted, found):
                if gradient is not None:
                    place += gradient
        return sums

    shares = map_in_threads(add_up, range(num_shares), device)
    return [None if parts[0] is None else functools.reduce(torch.Tensor.add_, parts) for parts in zip(*shares)]


def _leaves(scene, views):
    """The scene of some views, cut off from how it was made."""
    parts = _of_views(scene, views)
    return tuple(part.detach().requires_grad_(x.requires_grad) for part, x in zip(parts, scene))


def _of_views(tensors, views):
    return [x if x is None or len(x) == 1 else x[views] for x in tensors]

"""Adam for a table whose gradient has few rows per step: only these rows change, with one process or several.

Nothing is copied from the device, so that the host need not wait for it.
"""

import torch

from training import distributed


class RowAdam(torch.optim.Optimizer):
    """Computes what torch.optim.SparseAdam computes; each loads the other's state dicts.

    SparseAdam itself coalesces gradients, for which the host waits, and knows nothing of other processes or `found_inf`.

    params: tables (N, D) with sparse gradients, such as the weight of nn.Embedding(N, D, sparse=True). Repeated rows of a
            gradient are summed, unless it is marked as coalesced
    rows_per_process: with several processes, an upper bound on the rows in any process's gradient, repeats included; the
            same in all processes. None: the processes exchange their numbers, and the host waits for that

    With several processes, each contributes the rows of its own gradient, or none. All apply all rows, so that the tables
    stay equal. Every step then counts, even one without rows.

    If the attribute `found_inf`, a float tensor (), is set and not 0, a step changes nothing. It must be the same in all
    processes.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, rows_per_process=None):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps))
        self.rows_per_process = rows_per_process

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for table in group["params"]:
                if distributed.world_size() > 1:
                    self.move(table, group, *gathered_gradient(table, self.rows_per_process))
                elif table.grad is not None:
                    rows, grad = gradient_of(table)
                    grad = grad if table.grad.is_coalesced() else sum_repeats(rows, grad, len(table))
                    self.move(table, group, rows, grad)

    def move(self, table, group, rows, grad, is_named=None):
        """Update rows (R,) with their gradient (R, D). is_named: rows to update, (R, 1) bool or None for all."""
        state = self.state[table]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(table), "exp_avg_sq": torch.zeros_like(table)}
        state["step"] = state["step"] + 1
        moves = is_named
        if getattr(self, "found_inf", None) is not None:
            is_finite = self.found_inf == 0
            moves = is_finite if is_named is None else is_named & is_finite
            state["step"] = state["step"] - (~is_finite).double()  # a tensor from here on; see `state_dict`

        (beta1, beta2), step = group["betas"], state["step"]
        step_size = group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        old = [tensor[rows] for tensor in (state["exp_avg"], state["exp_avg_sq"], table)]
        mean = old[0] + (grad - old[0]) * (1 - beta1)
        square = old[1] + (grad.square() - old[1]) * (1 - beta2)
        new = [mean, square, old[2] - step_size * (mean / (square.sqrt() + group["eps"]))]
        for tensor, before, after in zip((state["exp_avg"], state["exp_avg_sq"], table), old, new):
            # a repeated row is written several times with the same values
            tensor.index_copy_(0, rows, after if moves is None else torch.where(moves, after, before))

    def state_dict(self):
        for state in self.state.values():
            state["step"] = int(state["step"])
        return super().state_dict()


def gradient_of(table):
    """Rows (R,) int64 and values (R, D) of a table's sparse gradient; R is 0 if it has no gradient."""
    if table.grad is None:
        return table.new_empty(0, dtype=torch.int64), table.new_empty(0, table.shape[1])
    if not table.grad.is_sparse:
        raise ValueError("RowAdam: found a dense gradient, expected a sparse one; use nn.Embedding(..., sparse=True)")
    return table.grad._indices()[0], table.grad._values()


def gathered_gradient(table, rows_per_process):
    """rows (R,), values (R, D) and is_named (R, 1) of all processes, the same in each of them.

    Padding is given row 0 and zeros: row 0 is then updated only if a gradient contains it.
    """
    rows, grad = distributed.gather_rows(*gradient_of(table), rows_per_process)
    is_named = (rows >= 0).unsqueeze(1)
    rows = rows.clamp(min=0)
    summed = sum_repeats(rows, torch.cat([grad, is_named.to(grad)], dim=1), len(table))
    return rows, summed[:, :-1], summed[:, -1:] > 0


def sum_repeats(rows, values, num_rows):
    """Replace each value by the sum of the values with the same row. rows (R,), values (R, D) -> (R, D)."""
    places = torch.arange(len(rows), device=rows.device)
    place_of = torch.empty(num_rows, dtype=torch.int64, device=rows.device)
    place_of[rows] = places  # if a row is repeated, any of its places
    first = place_of[rows]
    sums = torch.zeros_like(values)
    if values.is_cuda:  # each device's function that adds in a fixed order, so that all processes get equal bits
        sums.index_put_((first,), values, accumulate=True)
    else:
        sums.index_add_(0, first, values)
    return sums[first]

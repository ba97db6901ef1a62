/* The layers that every ray passes, and the march of the rays through phi, forward and backward, on a CPU.
 *
 *     layer   z = x W^T + b,   n = (z - mean z) / sqrt(var z + 1e-5),   y = relu(scale n + shift)
 *     encode  p -> p, sin 2^k f p, cos 2^k f p,  k < octaves
 *     march   x = encode(origin + d direction),   a = [layers(x), s] W^T + b,    d: distance, s: state, c: cell
 *             i, f, o = sigmoid a_i, a_f, a_o,   g = tanh a_g,                    gates in the order i, f, g, o
 *             c <- f c + i g,   s <- o tanh c,   d <- d + s . w + b
 *
 * A block of about 120 rows (points, rays) passes all layers and all steps before the next block starts, so that the
 * activations stay in the second-level cache. The forward pass keeps n of each layer, and i, f, g, o, c of each step. c.py
 * calls this; pytorch.py computes the same. Matrices are float32 and row-major. Widths are multiples of 16. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef LANES
#define LANES 8 /* floats of a vector: 16 for AVX-512 */
#endif
#define COLUMNS (2 * LANES) /* of a tile: two vectors; */
#define ROWS 6              /* with six rows, twelve sums, two columns and a factor fill the 16 registers of AVX2 */
#define BLOCK 126           /* rows of a block, a multiple of ROWS */
#define MAX_LAYERS 16

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int mask __attribute__((vector_size(4 * LANES)));
#define INLINE static inline __attribute__((always_inline))
#define AT(pointer) (*(vector *)(pointer))

/* One layer, of M instances or of all. Gradients are added to what the caller put there; NULL if not wanted. */
typedef struct {
    const float *weight, *bias;             /* (M, width, inputs), (M, width) */
    long inputs, weight_step, bias_step;    /* *_step: floats from one instance to the next */
    const float *scale, *shift;             /* (width,); NULL if layer norm has none */
    float *normalised, *inverse;            /* n (places, width), 1 / sqrt(var + 1e-5) (places,); NULL if not kept */
    float *weight_gradient, *bias_gradient; /* (M, width, line), (M, width) */
    float *scale_gradient, *shift_gradient; /* (width,) */
} Layer;

/* line: floats from one row to the next in matrices that are written: at least all columns of a row of tiles, and no power
 * of two, since rows that far apart would compete for a few places of the cache */
typedef struct {
    long width, num_layers, line;
    const Layer *layers;
    long octaves;    /* of the encoding of points, which the march computes; 0 for none */
    float frequency; /* of its first octave, in radians per unit */
} Stack;

typedef struct {
    long hidden, steps;
    float limit;                            /* on dL/ds */
    const float *weight, *bias;             /* (4 hidden, width + hidden), (4 hidden,) */
    const float *out_weight, *out_bias;     /* (hidden,), (1,): from s to the length of a step */
    float *gates, *cell;                    /* (steps, instances, rows, 4 hidden or hidden); NULL if not kept */
    float *weight_gradient, *bias_gradient; /* (4 hidden, line), (4 hidden,); NULL, like those of out, if none is wanted */
    float *out_weight_gradient, *out_bias_gradient;
} Marcher;

static long up_to(long size, long multiple) { return (size + multiple - 1) / multiple * multiple; }
static long least(long a, long b) { return a < b ? a : b; }

INLINE float sum(vector v) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

/* v where `sign` is positive or not a number, 0 elsewhere */
INLINE vector where_positive(vector sign, vector v) { return (vector)((mask)v & ~(sign <= 0)); }

INLINE vector clamped(vector v, float low, float high) {
    for (int i = 0; i < LANES; i++) v[i] = v[i] < low ? low : v[i] > high ? high : v[i];
    return v;
}

/* e^x - 1 = 2^k (e^r - 1) + 2^k - 1 with |r| <= log(2) / 2, where the Taylor series of e^r - 1 has an error below 1e-8 */
INLINE vector exponential_less_one(vector x) {
    x = clamped(x, -87, 88);
    vector shifted = x * 1.44269504f + 12582912.0f, k = shifted - 12582912.0f; /* 1.5 * 2^23: rounds to an integer */
    vector r = x - k * 0.693359375f + k * 2.12194440e-4f;
    vector series = r * (1 / 5040.0f) + 1 / 720.0f;
    series = (series * r + 1 / 120.0f) * r + 1 / 24.0f;
    series = (series * r + 1 / 6.0f) * r + 0.5f;
    series = series * r * r + r;
    vector power = (vector)((mask)(k + 12583039.0f) << 23); /* 127 + k as the exponent: 2^k */
    return power * series + (power - 1);
}

INLINE vector sigmoid(vector x) { return 1 / (2 + exponential_less_one(-x)); }

/* The relative error stays small near 0, where an LSTM starts */
INLINE vector hyperbolic_tangent(vector x) {
    vector t = exponential_less_one(2 * x);
    return t / (t + 2);
}

/* The right factor b (depth, columns) of a product. Weights are in panels (depth, COLUMNS), one after the other */
typedef struct {
    float *bias, *entries;           /* bias: (columns,), what is added to the product; NULL if the product is added to c */
    long depth, columns, panel, row; /* panel, row: floats from COLUMNS columns to the next, from one row to the next */
} Factor;

/* What a call works with */
typedef struct {
    int is_backward, is_short, num_pieces; /* is_short: there was not enough memory for all pieces */
    void *pieces[2 * MAX_LAYERS];
    Factor weights[MAX_LAYERS]; /* of one instance: W^T and b in the forward pass, W in the backward pass */
    float *rows, *next, *x;     /* (BLOCK, line): y, z and x in the forward pass, dL/dy, dL/dx and x in the backward pass */
} Work;

/* Zeros, since tiles read beyond the last column, where denormals would be slow */
static float *take(Work *work, long count) {
    long size = up_to((count + 1) * sizeof(float), 64);
    float *piece = work->pieces[work->num_pieces++] = aligned_alloc(64, size);
    work->is_short |= !piece;
    return piece ? memset(piece, 0, size) : NULL;
}

static int give_back(Work *work) {
    while (work->num_pieces) free(work->pieces[--work->num_pieces]);
    return work->is_short;
}

/* Room for the panels of any matrix up to this size */
static Factor make_panels(Work *work, long depth, long columns) {
    long padded = up_to(columns, COLUMNS);
    float *bias = take(work, padded * (depth + 1));
    return (Factor){bias, bias + padded, depth, columns, depth * COLUMNS, COLUMNS};
}

/* Panels of W^T and b, of a weight W (width, inputs), or of W where b is NULL */
static void pack(Factor *factor, const float *weight, const float *bias, long width, long inputs) {
    float *panel = factor->entries;
    factor->depth = bias ? inputs : width, factor->columns = bias ? width : inputs;
    if (bias) memcpy(factor->bias, bias, width * sizeof(float));
    for (long first = 0; first < factor->columns; first += COLUMNS, panel += factor->panel)
        for (long k = 0; k < factor->depth; k++)
            for (long j = 0; j < least(COLUMNS, factor->columns - first); j++)
                panel[k * COLUMNS + j] = bias ? weight[(first + j) * inputs + k] : weight[k * inputs + first + j];
}

/* `rows` x COLUMNS entries of a product: c = start + a b, or c += a b where start is NULL.
 * Entry (i, k) of a is a[i * row + k * step], and entry (k, j) of b is b[k * b_row + j]. */
INLINE void tile(const int rows, long depth, const float *a, long row, long step, const float *b, long b_row,
                 const float *start, float *c, long c_row) {
    vector left[ROWS], right[ROWS];
    for (int i = 0; i < rows; i++) {
        const float *from = start ? start : c + i * c_row;
        left[i] = AT(from), right[i] = AT(from + LANES);
    }
    for (long k = 0; k < depth; k++, a += step, b += b_row) {
        vector b_left = AT(b), b_right = AT(b + LANES);
        for (int i = 0; i < rows; i++) {
            vector factor = a[i * row] - (vector){};
            left[i] += factor * b_left, right[i] += factor * b_right;
        }
    }
    for (int i = 0; i < rows; i++) AT(c + i * c_row) = left[i], AT(c + i * c_row + LANES) = right[i];
}

/* A constant number of rows lets the compiler hold the sums in registers */
#define CASE(n) case n: tile(n, b->depth, a + i * row, row, step, panel, b->row, start, c + i * c_row + j, c_row); break;

/* c = bias + a b, or c += a b if there is no bias, in whole tiles. Each tile fetches its share of the next panel into the cache. */
static void product(long rows, const float *a, long row, long step, const Factor *b, float *c, long c_row) {
    long share = (b->depth * ROWS + rows - 1) / rows;
    const float *panel = b->entries;
    for (long j = 0; j < b->columns; j += COLUMNS, panel += b->panel) {
        const float *start = b->bias ? b->bias + j : NULL;
        for (long i = 0; i < rows; i += ROWS) {
            for (long k = i / ROWS * share; k < (i / ROWS + 1) * share; k++)
                for (long n = 0; n < COLUMNS; n += 16) __builtin_prefetch(panel + b->panel + k * b->row + n);
            switch (least(rows - i, ROWS)) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(ROWS) }
        }
    }
}

INLINE void add_rows(const float *matrix, long rows, long columns, long row, float *sums) {
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < columns; j += LANES) AT(sums + j) += AT(matrix + i * row + j);
}

static Work make_work(const Stack *stack, int is_backward) {
    Work work = {.is_backward = is_backward};
    work.rows = take(&work, BLOCK * stack->line), work.next = take(&work, BLOCK * stack->line);
    work.x = take(&work, BLOCK * stack->line);
    for (long l = 0; l < stack->num_layers; l++) work.weights[l] = make_panels(&work, stack->line, stack->line);
    return work;
}

/* A row of z to n, in place or elsewhere; returns 1 / sqrt(var + 1e-5) */
INLINE float normalise(const float *z, long width, float *normalised) {
    vector total = {}, squares = {};
    for (long j = 0; j < width; j += LANES) total += AT(z + j);
    float mean = sum(total) / width;
    for (long j = 0; j < width; j += LANES) squares += (AT(z + j) - mean) * (AT(z + j) - mean);
    float inverse = 1 / sqrtf(sum(squares) / width + 1e-5f);
    for (long j = 0; j < width; j += LANES) AT(normalised + j) = (AT(z + j) - mean) * inverse;
    return inverse;
}

/* scale n + shift, LANES entries from j on */
INLINE vector scaled(const Layer *layer, vector n, long j) {
    if (layer->scale) n = n * AT(layer->scale + j) + AT(layer->shift + j);
    return n;
}

/* A row of y = relu(scale n + shift) */
INLINE void activate(const Layer *layer, long width, const float *normalised, float *y) {
    for (long j = 0; j < width; j += LANES) {
        vector z = scaled(layer, AT(normalised + j), j);
        AT(y + j) = where_positive(z, z);
    }
}

/* dL/dy of a row to dL/dz, in place, with the gradients of scale and shift: with g = scale dL/dy where y > 0,
 * dL/dz = (g - mean g - n mean(g n)) / sqrt(var + 1e-5) */
INLINE void denormalise(const Layer *layer, long width, const float *normalised, float inverse, float *gradient) {
    vector total = {}, along = {};
    for (long j = 0; j < width; j += LANES) {
        vector n = AT(normalised + j), g = where_positive(scaled(layer, n, j), AT(gradient + j));
        if (layer->scale_gradient) AT(layer->scale_gradient + j) += g * n, AT(layer->shift_gradient + j) += g;
        if (layer->scale) g *= AT(layer->scale + j);
        total += g, along += g * n;
        AT(gradient + j) = g;
    }
    float mean = sum(total) / width, slope = sum(along) / width;
    for (long j = 0; j < width; j += LANES)
        AT(gradient + j) = (AT(gradient + j) - mean - AT(normalised + j) * slope) * inverse;
}

/* x (count, inputs) to y (count, width), `y_row` apart. place: of the first row among all that are kept */
static void forward_rows(const Stack *stack, Work *work, long count, long place, const float *x, float *y, long y_row) {
    long width = stack->width, line = stack->line;
    for (long l = 0; l < stack->num_layers; l++) {
        const Layer *layer = stack->layers + l;
        product(count, l ? work->rows : x, l ? line : layer->inputs, 1, work->weights + l, work->next, line);
        for (long i = 0; i < count; i++) {
            float *z = work->next + i * line, *normalised = layer->normalised ? layer->normalised + (place + i) * width : z;
            float inverse = normalise(z, width, normalised);
            float *to = l == stack->num_layers - 1 ? y + i * y_row : work->rows + i * line;
            if (layer->normalised) layer->inverse[place + i] = inverse;
            activate(layer, width, normalised, to);
        }
    }
}

/* dL/dy in work->rows to dL/dx, in its place, if wanted: dL/dW += (dL/dz)^T x, dL/db += sum of dL/dz, dL/dx = dL/dz W */
static void backward_rows(const Stack *stack, Work *work, long instance, long count, long place, const float *x, int wants_x) {
    long width = stack->width, line = stack->line;
    for (long l = stack->num_layers - 1; l >= 0; l--) {
        const Layer *layer = stack->layers + l;
        for (long i = 0; i < count; i++)
            denormalise(layer, width, layer->normalised + (place + i) * width, layer->inverse[place + i], work->rows + i * line);
        if (layer->weight_gradient) {
            add_rows(work->rows, count, width, line, layer->bias_gradient + instance * width);
            for (long i = 0; i < count; i++)
                if (l)
                    activate(layer - 1, width, layer[-1].normalised + (place + i) * width, work->x + i * line);
                else
                    memcpy(work->x + i * line, x + i * layer->inputs, layer->inputs * sizeof(float));
            Factor rows_of_x = {NULL, work->x, count, layer->inputs, COLUMNS, line};
            product(width, work->rows, 1, line, &rows_of_x, layer->weight_gradient + instance * width * line, line);
        }
        if (l || wants_x) {
            product(count, work->rows, line, 1, work->weights + l, work->next, line);
            float *swapped = work->rows;
            work->rows = work->next, work->next = swapped;
        }
    }
}

/* Rows of the block at `place`, all of one instance, in blocks about equal. The first block loads the instance's weights */
static long start_block(const Stack *stack, Work *work, long rows, long place) {
    long blocks = (rows + BLOCK - 1) / BLOCK, block = up_to((rows + blocks - 1) / blocks, ROWS);
    for (long l = 0; l < stack->num_layers && place % rows == 0; l++) {
        const Layer *layer = stack->layers + l;
        const float *bias = work->is_backward ? NULL : layer->bias + place / rows * layer->bias_step;
        pack(work->weights + l, layer->weight + place / rows * layer->weight_step, bias, stack->width, layer->inputs);
    }
    return least(block, rows - place % rows);
}

/* y (instances, rows, width) of x (instances, rows, inputs). Returns 0, or 1 where there is no memory */
int layers_forward(const Stack *stack, long instances, long rows, const float *x, float *y) {
    Work work = make_work(stack, 0);
    for (long place = 0, count; place < instances * rows && !work.is_short; place += count) {
        count = start_block(stack, &work, rows, place);
        forward_rows(stack, &work, count, place, x + place * stack->layers->inputs, y + place * stack->width, stack->width);
    }
    return give_back(&work);
}

/* Gradients of weights, and x_gradient (instances, rows, inputs) or NULL, from y_gradient (instances, rows, width) */
int layers_backward(const Stack *stack, long instances, long rows, const float *x, const float *y_gradient, float *x_gradient) {
    long inputs = stack->layers->inputs, width = stack->width, line = stack->line;
    Work work = make_work(stack, 1);
    for (long place = 0, count; place < instances * rows && !work.is_short; place += count) {
        count = start_block(stack, &work, rows, place);
        for (long i = 0; i < count; i++) memcpy(work.rows + i * line, y_gradient + (place + i) * width, width * sizeof(float));
        backward_rows(stack, &work, place / rows, count, place, x + place * inputs, x_gradient != NULL);
        for (long i = 0; i < count && x_gradient; i++)
            memcpy(x_gradient + (place + i) * inputs, work.rows + i * line, inputs * sizeof(float));
    }
    return give_back(&work);
}

/* The encoded points at a distance along rays, `inputs` of the first layer each. sin 2a = 2 sin a cos a, cos 2a = 1 - 2 sin^2 a */
static void inputs_at(const Stack *stack, const float *origin, const float *direction, const float *distance, long count, float *x) {
    for (long i = 0; i < 3 * count; i++) {
        float *to = x + i / 3 * stack->layers->inputs + i % 3, p = origin[i] + distance[i / 3] * direction[i];
        *to = p;
        float sine = stack->octaves ? sinf(stack->frequency * p) : 0, cosine = stack->octaves ? cosf(stack->frequency * p) : 0;
        for (long k = 0; k < stack->octaves; k++) {
            to[3 + 6 * k] = sine, to[6 + 6 * k] = cosine;
            cosine = 1 - 2 * sine * sine, sine *= 2 * to[6 + 6 * k];
        }
    }
}

/* Adds dL/dp direction to dL/dd, with dL/dp of a point from dL/dx of its encoding x, `line` apart */
static void inputs_backward(const Stack *stack, const float *direction, long count, const float *x, const float *on_x,
                            float *on_distance) {
    for (long i = 0; i < 3 * count; i++) {
        const float *at = x + i / 3 * stack->layers->inputs + i % 3, *on = on_x + i / 3 * stack->line + i % 3;
        float on_point = *on, frequency = stack->frequency;
        for (long k = 0; k < stack->octaves; k++, frequency *= 2)
            on_point += frequency * (at[6 + 6 * k] * on[3 + 6 * k] - at[3 + 6 * k] * on[6 + 6 * k]);
        on_distance[i / 3] += on_point * direction[i];
    }
}

/* One step: a in `gates` to i, f, g, o; c and d from before the step to after it; s, `line` apart. before: NULL for c = 0 */
static void step_forward(const Marcher *marcher, long count, float *gates, const float *before, float *cell, float *state,
                         long line, const float *from, float *distance) {
    long hidden = marcher->hidden;
    for (long i = 0; i < count; i++, gates += 4 * hidden, cell += hidden, state += line) {
        vector length = {};
        for (long j = 0; j < hidden; j += LANES) {
            vector in = sigmoid(AT(gates + j)), forget = sigmoid(AT(gates + hidden + j));
            vector new = hyperbolic_tangent(AT(gates + 2 * hidden + j)), out = sigmoid(AT(gates + 3 * hidden + j));
            vector c = (before ? AT(before + i * hidden + j) : (vector){}) * forget + in * new, s = out * hyperbolic_tangent(c);
            AT(gates + j) = in, AT(gates + hidden + j) = forget, AT(gates + 2 * hidden + j) = new, AT(gates + 3 * hidden + j) = out;
            AT(cell + j) = c, AT(state + j) = s;
            length += s * AT(marcher->out_weight + j);
        }
        distance[i] = from[i] + sum(length) + *marcher->out_bias;
    }
}

/* From dL/dd after the step, and dL/ds and dL/dc from the steps after it, to dL/da, and in place to dL/dc before the step.
 * place, before: of the block among the rows kept of this step and of the one before it, which is negative at the first */
static void step_backward(const Marcher *marcher, long count, long place, long before, const float *on_distance,
                          const float *on_state, float *on_cell, float *on_gates) {
    long hidden = marcher->hidden, wants_weights = marcher->weight_gradient != NULL;
    double bias_sum = 0;
    for (long i = 0; i < count; i++, on_state += hidden, on_cell += hidden, on_gates += 4 * hidden) {
        const float *gates = marcher->gates + (place + i) * 4 * hidden, *cell = marcher->cell + (place + i) * hidden;
        for (long j = 0; j < hidden; j += LANES) {
            vector in = AT(gates + j), forget = AT(gates + hidden + j);
            vector new = AT(gates + 2 * hidden + j), out = AT(gates + 3 * hidden + j);
            vector c = before < 0 ? (vector){} : AT(marcher->cell + (before + i) * hidden + j);
            vector squashed = hyperbolic_tangent(AT(cell + j)); /* tanh c */
            vector on_s = AT(on_state + j) + on_distance[i] * AT(marcher->out_weight + j);
            on_s = clamped(on_s, -marcher->limit, marcher->limit);
            vector on_c = AT(on_cell + j) + on_s * out * (1 - squashed * squashed);
            AT(on_gates + j) = on_c * new * in * (1 - in);
            AT(on_gates + hidden + j) = on_c * c * forget * (1 - forget);
            AT(on_gates + 2 * hidden + j) = on_c * in * (1 - new * new);
            AT(on_gates + 3 * hidden + j) = on_s * squashed * out * (1 - out);
            AT(on_cell + j) = on_c * forget;
            if (wants_weights) AT(marcher->out_weight_gradient + j) += on_distance[i] * out * squashed;
        }
        bias_sum += on_distance[i];
    }
    if (wants_weights) *marcher->out_bias_gradient += bias_sum;
}

/* dL/dW and dL/db of the gates from dL/da: the sums of (dL/da)^T [layers(x), s] and of dL/da */
static void gates_backward(const Stack *stack, const Marcher *marcher, Work *work, long count, long place, long before,
                           const float *on_gates) {
    long hidden = marcher->hidden, width = stack->width, line = stack->line;
    const Layer *last = stack->layers + stack->num_layers - 1;
    for (long i = 0; i < count; i++) {
        float *x = work->x + i * line, *state = x + width; /* s before the step */
        activate(last, width, last->normalised + (place + i) * width, x);
        const float *out = marcher->gates + (4 * (before + i) + 3) * hidden, *cell = marcher->cell + (before + i) * hidden;
        for (long j = 0; j < hidden; j += LANES)
            AT(state + j) = before < 0 ? (vector){} : (vector)(AT(out + j) * hyperbolic_tangent(AT(cell + j)));
    }
    Factor rows_of_x = {NULL, work->x, count, width + hidden, COLUMNS, line};
    add_rows(on_gates, count, 4 * hidden, 4 * hidden, marcher->bias_gradient);
    product(4 * hidden, on_gates, 1, 4 * hidden, &rows_of_x, marcher->weight_gradient, line);
}

/* March rays (instances, rows) with origin and direction (instances, rows, 3) from the distances `start`:
 * distance (steps, instances, rows) after each step. Returns 0, or 1 where there is no memory */
int march_forward(const Stack *stack, const Marcher *marcher, long instances, long rows, const float *origin,
                  const float *direction, const float *start, float *distance) {
    long hidden = marcher->hidden, width = stack->width, line = stack->line;
    long all = instances * rows, is_kept = marcher->gates != NULL;
    Work work = make_work(stack, 0);
    Factor weight = make_panels(&work, width + hidden, 4 * hidden);
    float *gates = is_kept ? marcher->gates : take(&work, BLOCK * 4 * hidden);
    float *cell = is_kept ? marcher->cell : take(&work, BLOCK * hidden);
    if (work.is_short) return give_back(&work);
    pack(&weight, marcher->weight, marcher->bias, 4 * hidden, width + hidden);
    float *state = work.rows + width; /* beside the features, so that one product reads both */
    for (long ray = 0, count; ray < all; ray += count) {
        count = start_block(stack, &work, rows, ray);
        for (long i = 0; i < count; i++) memset(state + i * line, 0, hidden * sizeof(float));
        for (long s = 0; s < marcher->steps; s++) {
            long step = s * all + ray, place = is_kept ? step : 0, before = is_kept ? step - all : 0;
            const float *from = s ? distance + step - all : start + ray;
            inputs_at(stack, origin + 3 * ray, direction + 3 * ray, from, count, work.x);
            forward_rows(stack, &work, count, step, work.x, work.rows, line);
            product(count, work.rows, line, 1, &weight, gates + place * 4 * hidden, 4 * hidden);
            step_forward(marcher, count, gates + place * 4 * hidden, s ? cell + before * hidden : NULL, cell + place * hidden,
                         state, line, from, distance + step);
        }
    }
    return give_back(&work);
}

/* Gradients of all weights that want one, from distance_gradient (steps, instances, rows) */
int march_backward(const Stack *stack, const Marcher *marcher, long instances, long rows, const float *origin,
                   const float *direction, const float *start, const float *distance, const float *distance_gradient) {
    long hidden = marcher->hidden, width = stack->width, line = stack->line, all = instances * rows;
    Work work = make_work(stack, 1);
    Factor weight = make_panels(&work, 4 * hidden, width + hidden);
    float *x = take(&work, BLOCK * stack->layers->inputs), *on_gates = take(&work, BLOCK * 4 * hidden);
    float *on_distance = take(&work, BLOCK * (1 + 2 * hidden)), *on_state = on_distance + BLOCK, *on_cell = on_state + BLOCK * hidden;
    if (work.is_short) return give_back(&work);
    pack(&weight, marcher->weight, NULL, 4 * hidden, width + hidden);
    for (long ray = 0, count; ray < all; ray += count) {
        count = start_block(stack, &work, rows, ray);
        memset(on_distance, 0, BLOCK * (1 + 2 * hidden) * sizeof(float));
        for (long s = marcher->steps - 1; s >= 0; s--) {
            long place = s * all + ray, before = s ? place - all : -1;
            for (long i = 0; i < count; i++) on_distance[i] += distance_gradient[place + i];
            step_backward(marcher, count, place, before, on_distance, on_state, on_cell, on_gates);
            if (marcher->weight_gradient) gates_backward(stack, marcher, &work, count, place, before, on_gates);
            product(count, on_gates, 4 * hidden, 1, &weight, work.rows, line);
            for (long i = 0; i < count; i++) memcpy(on_state + i * hidden, work.rows + i * line + width, hidden * sizeof(float));
            inputs_at(stack, origin + 3 * ray, direction + 3 * ray, s ? distance + before : start + ray, count, x);
            backward_rows(stack, &work, ray / rows, count, place, x, 1);
            inputs_backward(stack, direction + 3 * ray, count, x, work.rows, on_distance);
        }
    }
    return give_back(&work);
}

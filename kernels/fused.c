/* What every ray goes through, on a CPU: layers of one width, each linear, layer norm, ReLU; and the LSTM ray marcher
 * around them. Forward and backward.
 *
 *     z = x W^T + b,   n = (z - mean z) / sqrt(var z + 1e-5),   y = relu(scale n + shift)
 *
 * Some 120 rows (points, rays) at a time go through everything, so that what lies between two products of matrices stays
 * in the processor's second cache. Kept for the backward pass are n of each layer, and gates and state of the LSTM.
 * `fused.py` compiles this, calls it, and says when; what it computes is said in PyTorch by hyperlayers.Phi,
 * custom_layers.FCLayer and custom_layers.RayMarcher. All matrices are float32, rows one after the other.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__) && !defined(LANES)
#define LANES 16 /* of a vector */
#elif !defined(LANES)
#define LANES 8
#endif
#define COLUMNS (2 * LANES) /* of a tile: two vectors, */
#define ROWS 6              /* by six rows: twelve sums, two columns and a factor fill the 16 registers of AVX2 */
#define BLOCK 126           /* rows that go through everything together, a multiple of ROWS */
#define EPSILON 1e-5f       /* of layer norm */

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int mask __attribute__((vector_size(4 * LANES)));
#define INLINE static inline __attribute__((always_inline))
#define AT(pointer) (*(vector *)(pointer))
#define READ(pointer) (*(const vector *)(pointer))

/* One layer, as the caller has it. */
typedef struct {
    const float *weight, *bias;  /* (width, inputs), (width,), of the first instance */
    long weight_step, bias_step; /* from one instance to the next */
    const float *scale, *shift;  /* (width,), NULL where layer norm has none */
    float *normalised, *inverse; /* n (places, width) and 1 / sqrt(var + 1e-5) (places,); NULL where they are not kept */
    float *weight_gradient, *bias_gradient; /* (instances, width, inputs), (instances, width); NULL where not wanted */
    float *scale_gradient, *shift_gradient; /* (width,), added to; NULL where not wanted */
} Layer;

typedef struct {
    long inputs, width, num_layers;
    const Layer *layers;
} Stack;

/* The LSTM cell and the layer from its state to the length of a step, as the caller has them. Gates: i, f, g, o. */
typedef struct {
    long hidden, steps;
    const float *input_weight, *state_weight, *input_bias, *state_bias; /* (4 hidden, width or hidden), (4 hidden,) */
    const float *out_weight, *out_bias;                                 /* (hidden,), (1,) */
    float *gates, *cell, *state; /* (steps, instances, rows, 4 hidden or hidden), kept; NULL where they are not */
    float *input_weight_gradient, *state_weight_gradient, *bias_gradient; /* added to, as all here; NULL, all or none */
    float *out_weight_gradient, *out_bias_gradient;
    float limit; /* on the gradient of the state */
} Marcher;

static long up_to(long size, long multiple) { return (size + multiple - 1) / multiple * multiple; }

/* ------------------------------------------------------------------------------------------- memory to work in */

typedef struct {
    void *pieces[16];
    int count, is_short;
} Memory;

static float *take(Memory *memory, long count) {
    float *piece = aligned_alloc(64, up_to((count + 1) * sizeof(float), 64));
    if (!piece) memory->is_short = 1;
    return memory->pieces[memory->count++] = piece;
}

static int give_back(Memory *memory) {
    while (memory->count) free(memory->pieces[--memory->count]);
    return memory->is_short;
}

/* ------------------------------------------------------------------------------------------------- vectors */

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
    series = series * r + 1 / 120.0f;
    series = series * r + 1 / 24.0f;
    series = series * r + 1 / 6.0f;
    series = series * r + 0.5f;
    series = series * r * r + r;
    vector power = (vector)((mask)(k + 12583039.0f) << 23); /* 127 + k, moved to the exponent's place: 2^k */
    return power * series + (power - 1);
}

INLINE vector sigmoid(vector x) { return 1 / (2 + exponential_less_one(-x)); }

/* Its relative error stays small where x is, and so is that of the state of an LSTM that has just begun */
INLINE vector hyperbolic_tangent(vector x) {
    vector t = exponential_less_one(2 * x);
    return t / (t + 2);
}

/* ------------------------------------------------------------------------------------- products of matrices */

/* `rows` x COLUMNS entries of a product: c = start + a b, or c += a b where start is NULL.
 * a's entry (i, k) is at a[i * row + k * step]; b is a panel, COLUMNS entries for each of `depth` k. */
INLINE void tile(const int rows, long depth, const float *a, long row, long step, const float *b, const float *start, float *c,
                 long c_row) {
    vector left[ROWS], right[ROWS];
    for (int i = 0; i < rows; i++) {
        const float *from = start ? start : c + i * c_row;
        left[i] = READ(from), right[i] = READ(from + LANES);
    }
    for (long k = 0; k < depth; k++, a += step, b += COLUMNS) {
        vector b_left = READ(b), b_right = READ(b + LANES);
        for (int i = 0; i < rows; i++) {
            vector factor = a[i * row] - (vector){};
            left[i] += factor * b_left, right[i] += factor * b_right;
        }
    }
    for (int i = 0; i < rows; i++) AT(c + i * c_row) = left[i], AT(c + i * c_row + LANES) = right[i];
}

/* The same for any number of rows, and panel after panel. start: (columns,) or NULL. Each tile fetches its share of the
 * next panel into the cache. */
static void product(long rows, long columns, long depth, const float *a, long row, long step, const float *panels,
                    long panel_size, const float *start, float *c, long c_row) {
    for (long j = 0; j < columns; j += COLUMNS, panels += panel_size) {
        const float *first = start ? start + j : NULL;
        long share = up_to(depth * COLUMNS * ROWS / rows, 16);
        for (long i = 0; i < rows; i += ROWS) {
            const float *some = a + i * row;
            float *to = c + i * c_row + j;
            for (long n = 0; n < share; n += 16) __builtin_prefetch(panels + panel_size + i / ROWS * share + n);
            switch (rows - i) {
                case 1: tile(1, depth, some, row, step, panels, first, to, c_row); break;
                case 2: tile(2, depth, some, row, step, panels, first, to, c_row); break;
                case 3: tile(3, depth, some, row, step, panels, first, to, c_row); break;
                case 4: tile(4, depth, some, row, step, panels, first, to, c_row); break;
                case 5: tile(5, depth, some, row, step, panels, first, to, c_row); break;
                default: tile(ROWS, depth, some, row, step, panels, first, to, c_row);
            }
        }
    }
}

/* matrix (rows, columns) to panels of its columns, each (rows, COLUMNS), with zeros beyond the last column */
static void pack(const float *matrix, long rows, long columns, long row, float *panels, long panel_size) {
    for (long j = 0; j < columns; j += COLUMNS, panels += panel_size) {
        long count = columns - j < COLUMNS ? columns - j : COLUMNS;
        for (long i = 0; i < rows; i++) {
            float *to = panels + i * COLUMNS;
            if (count < COLUMNS) memset(to, 0, COLUMNS * sizeof(float));
            memcpy(to, matrix + i * row + j, count * sizeof(float));
        }
    }
}

/* The same of the transpose of a matrix (rows, columns): panels of its rows, each (columns, COLUMNS) */
static void pack_transposed(const float *matrix, long rows, long columns, float *panels, long panel_size) {
    for (long j = 0; j < rows; j += COLUMNS, panels += panel_size) {
        long count = rows - j < COLUMNS ? rows - j : COLUMNS;
        if (count < COLUMNS) memset(panels, 0, columns * COLUMNS * sizeof(float));
        for (long k = 0; k < columns; k += LANES)
            for (long i = 0; i < count; i++)
                for (long l = k; l < k + LANES && l < columns; l++) panels[l * COLUMNS + i] = matrix[(j + i) * columns + l];
    }
}

INLINE void add_rows(const float *matrix, long rows, long columns, long row, float *sums) {
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < columns; j += LANES) AT(sums + j) += READ(matrix + i * row + j);
}

/* ----------------------------------------------------------------------------------------------- the layers */

/* What a stack is computed with: the weights of one instance, packed into panels, and a block of rows on its way. */
typedef struct {
    long line;                  /* floats from one row to the next: not a power of two, of which caches hold few */
    long panel_size, row_panel; /* floats of a panel of weights, and of a panel of rows */
    long packed, sums;          /* floats of a layer's weights, and of the gradients of these and, after them, of biases */
    float *panels;              /* weights; transposed for the forward pass */
    float *biases, *z, *h, *forgotten;             /* forward: rows of z and y; n of a row, where nobody keeps it */
    float *all_sums, *g, *next, *x_panels, *zeros; /* backward: gradients of weights and biases; rows of dL/dy and of dL/dx */
} Work;

static Work make_work(const Stack *stack, int is_backward, Memory *memory) {
    long most = stack->width > stack->inputs ? stack->width : stack->inputs, padded = up_to(most, COLUMNS);
    Work work = {.line = padded + 16, .panel_size = most * COLUMNS, .row_panel = (BLOCK + 1) * COLUMNS};
    work.packed = padded / COLUMNS * work.panel_size, work.sums = stack->width * work.line + padded;
    work.panels = take(memory, stack->num_layers * work.packed);
    if (is_backward) {
        work.all_sums = take(memory, stack->num_layers * work.sums);
        work.g = take(memory, BLOCK * work.line), work.next = take(memory, BLOCK * work.line);
        work.x_panels = take(memory, padded / COLUMNS * work.row_panel);
        work.zeros = take(memory, padded);
        if (work.zeros) memset(work.zeros, 0, padded * sizeof(float));
    } else {
        work.biases = take(memory, stack->num_layers * padded);
        work.z = take(memory, BLOCK * work.line), work.h = take(memory, BLOCK * work.line);
        work.forgotten = take(memory, padded);
    }
    return work;
}

static long inputs_of(const Stack *stack, long l) { return l ? stack->width : stack->inputs; }

/* Layer norm of a row of z; n goes to `normalised`, 1 / sqrt(var + 1e-5) is returned */
INLINE float normalise(const float *z, long width, float *normalised) {
    vector total = {}, squares = {};
    for (long j = 0; j < width; j += LANES) total += READ(z + j);
    float mean = sum(total) / width;
    for (long j = 0; j < width; j += LANES) {
        vector centred = READ(z + j) - mean;
        squares += centred * centred;
    }
    float inverse = 1 / sqrtf(sum(squares) / width + EPSILON);
    for (long j = 0; j < width; j += LANES) AT(normalised + j) = (READ(z + j) - mean) * inverse;
    return inverse;
}

/* scale n + shift, of the LANES entries from j on */
INLINE vector scaled(const Layer *layer, vector n, long j) {
    if (layer->scale) n = n * READ(layer->scale + j) + READ(layer->shift + j);
    return n;
}

INLINE vector activation(const Layer *layer, const float *normalised, long j) {
    vector y = scaled(layer, READ(normalised + j), j);
    return where_positive(y, y);
}

/* Of a row: from dL/dy in `gradient` to dL/dz in the same place, and what it adds to the gradients of scale and shift */
INLINE void denormalise(const Layer *layer, long width, const float *normalised, float inverse, float *gradient) {
    vector total = {}, along = {};
    for (long j = 0; j < width; j += LANES) {
        vector n = READ(normalised + j), g = where_positive(scaled(layer, n, j), READ(gradient + j));
        if (layer->scale_gradient) AT(layer->scale_gradient + j) += g * n, AT(layer->shift_gradient + j) += g;
        if (layer->scale) g *= READ(layer->scale + j);
        total += g, along += g * n;
        AT(gradient + j) = g;
    }
    float mean = sum(total) / width, slope = sum(along) / width;
    for (long j = 0; j < width; j += LANES)
        AT(gradient + j) = (READ(gradient + j) - mean - READ(normalised + j) * slope) * inverse;
}

/* From here on the rows are those of this instance */
static void forward_with(const Stack *stack, Work *work, long instance) {
    for (long l = 0; l < stack->num_layers; l++) {
        const Layer *layer = stack->layers + l;
        float *bias = work->biases + l * up_to(stack->width, COLUMNS);
        memset(bias, 0, up_to(stack->width, COLUMNS) * sizeof(float));
        memcpy(bias, layer->bias + instance * layer->bias_step, stack->width * sizeof(float));
        pack_transposed(layer->weight + instance * layer->weight_step, stack->width, inputs_of(stack, l),
                        work->panels + l * work->packed, work->panel_size);
    }
}

/* x (count, inputs) to y (count, width), `y_row` apart. place: where these rows are in what is kept */
static void forward_rows(const Stack *stack, Work *work, long count, long place, const float *x, float *y, long y_row) {
    long width = stack->width, line = work->line;
    for (long l = 0; l < stack->num_layers; l++) {
        const Layer *layer = stack->layers + l;
        product(count, width, inputs_of(stack, l), l ? work->h : x, l ? line : stack->inputs, 1,
                work->panels + l * work->packed, work->panel_size, work->biases + l * up_to(width, COLUMNS), work->z, line);
        int is_last = l == stack->num_layers - 1;
        for (long i = 0; i < count; i++) {
            float *normalised = layer->normalised ? layer->normalised + (place + i) * width : work->forgotten;
            float inverse = normalise(work->z + i * line, width, normalised);
            if (layer->normalised) layer->inverse[place + i] = inverse;
            float *to = is_last ? y + i * y_row : work->h + i * line;
            for (long j = 0; j < width; j += LANES) AT(to + j) = activation(layer, normalised, j);
        }
    }
}

/* The same, and no gradients have been summed up yet */
static void backward_with(const Stack *stack, Work *work, long instance, int wants_x) {
    memset(work->all_sums, 0, stack->num_layers * work->sums * sizeof(float));
    for (long l = !wants_x; l < stack->num_layers; l++) {
        const Layer *layer = stack->layers + l;
        pack(layer->weight + instance * layer->weight_step, stack->width, inputs_of(stack, l), inputs_of(stack, l),
             work->panels + l * work->packed, work->panel_size);
    }
}

/* y of a layer, as `forward_rows` had it, as panels */
static void pack_activations(const Stack *stack, Work *work, long l, long count, long place) {
    const Layer *layer = stack->layers + l;
    for (long i = 0; i < count; i++)
        for (long j = 0; j < stack->width; j += LANES)
            AT(work->x_panels + j / COLUMNS * work->row_panel + i * COLUMNS + j % COLUMNS) =
                activation(layer, layer->normalised + (place + i) * stack->width, j);
}

/* From dL/dy in work->g, `line` apart, to dL/dx in the same place, if it is wanted. Gradients of weights are summed up */
static void backward_rows(const Stack *stack, Work *work, long count, long place, const float *x, int wants_x) {
    long width = stack->width, line = work->line;
    for (long l = stack->num_layers - 1; l >= 0; l--) {
        const Layer *layer = stack->layers + l;
        long inputs = inputs_of(stack, l);
        float *weight_sums = work->all_sums + l * work->sums, *bias_sums = weight_sums + width * line;
        for (long i = 0; i < count; i++)
            denormalise(layer, width, layer->normalised + (place + i) * width, layer->inverse[place + i], work->g + i * line);
        if (layer->weight_gradient) {
            add_rows(work->g, count, width, line, bias_sums);
            if (l)
                pack_activations(stack, work, l - 1, count, place);
            else
                pack(x, count, inputs, inputs, work->x_panels, work->row_panel);
            product(width, inputs, count, work->g, 1, line, work->x_panels, work->row_panel, NULL, weight_sums, line);
        }
        if (l || wants_x) {
            product(count, inputs, width, work->g, line, 1, work->panels + l * work->packed, work->panel_size, work->zeros,
                    work->next, line);
            float *swapped = work->g;
            work->g = work->next, work->next = swapped;
        }
    }
}

/* Hand the gradients of this instance to the caller */
static void write_gradients(const Stack *stack, const Work *work, long instance) {
    for (long l = 0; l < stack->num_layers; l++) {
        const Layer *layer = stack->layers + l;
        long inputs = inputs_of(stack, l), width = stack->width;
        const float *weight_sums = work->all_sums + l * work->sums;
        if (!layer->weight_gradient) continue;
        for (long i = 0; i < width; i++)
            memcpy(layer->weight_gradient + (instance * width + i) * inputs, weight_sums + i * work->line, inputs * sizeof(float));
        memcpy(layer->bias_gradient + instance * width, weight_sums + width * work->line, width * sizeof(float));
    }
}

/* Rows that go through everything together, so that all blocks are about equal */
static long block_of(long rows) {
    long blocks = rows ? (rows + BLOCK - 1) / BLOCK : 1;
    return up_to((rows + blocks - 1) / blocks, ROWS);
}

static long least(long a, long b) { return a < b ? a : b; }

/* y (instances, rows, width) of x (instances, rows, inputs). Returns 0, or 1 where there is no memory */
int layers_forward(const Stack *stack, long instances, long rows, const float *x, float *y) {
    Memory memory = {};
    Work work = make_work(stack, 0, &memory);
    for (long m = 0; m < instances && !memory.is_short; m++) {
        forward_with(stack, &work, m);
        for (long i = 0, block = block_of(rows); i < rows; i += block) {
            long place = m * rows + i;
            forward_rows(stack, &work, least(block, rows - i), place, x + place * stack->inputs, y + place * stack->width,
                         stack->width);
        }
    }
    return give_back(&memory);
}

/* Gradients of weights, and x_gradient (instances, rows, inputs) or NULL, from y_gradient (instances, rows, width) */
int layers_backward(const Stack *stack, long instances, long rows, const float *x, const float *y_gradient, float *x_gradient) {
    Memory memory = {};
    Work work = make_work(stack, 1, &memory);
    for (long m = 0; m < instances && !memory.is_short; m++) {
        backward_with(stack, &work, m, x_gradient != NULL);
        for (long first = 0, block = block_of(rows); first < rows; first += block) {
            long count = least(block, rows - first), place = m * rows + first;
            for (long i = 0; i < count; i++)
                memcpy(work.g + i * work.line, y_gradient + (place + i) * stack->width, stack->width * sizeof(float));
            backward_rows(stack, &work, count, place, x + place * stack->inputs, x_gradient != NULL);
            for (long i = 0; i < count && x_gradient; i++)
                memcpy(x_gradient + (place + i) * stack->inputs, work.g + i * work.line, stack->inputs * sizeof(float));
        }
        write_gradients(stack, &work, m);
    }
    return give_back(&memory);
}

/* ---------------------------------------------------------------------------------------------- the marcher */

static void points_at(const float *origin, const float *direction, const float *distance, long count, float *points) {
    for (long i = 0; i < 3 * count; i++) points[i] = origin[i] + distance[i / 3] * direction[i];
}

/* One step of the LSTM, `count` rows: from sums of the gates to gates, and to cell and state after the step */
static void lstm_cell(long hidden, long count, float *gates, const float *cell_before, float *cell, float *state) {
    for (long i = 0; i < count; i++, gates += 4 * hidden, cell += hidden, state += hidden) {
        for (long j = 0; j < hidden; j += LANES) {
            vector in = sigmoid(READ(gates + j)), forget = sigmoid(READ(gates + hidden + j));
            vector new = hyperbolic_tangent(READ(gates + 2 * hidden + j)), out = sigmoid(READ(gates + 3 * hidden + j));
            vector sum = in * new;
            if (cell_before) sum += forget * READ(cell_before + i * hidden + j);
            AT(gates + j) = in, AT(gates + hidden + j) = forget, AT(gates + 2 * hidden + j) = new, AT(gates + 3 * hidden + j) = out;
            AT(cell + j) = sum, AT(state + j) = out * hyperbolic_tangent(sum);
        }
    }
}

/* Back through it: from dL/dstate and dL/dcell after the step to dL/d(sums of the gates), and to dL/dcell before it */
static void lstm_cell_backward(long hidden, long count, const float *gates, const float *cell_before, const float *cell,
                               const float *state_gradient, float *cell_gradient, float *gate_gradient) {
    for (long i = 0; i < count; i++, gates += 4 * hidden, gate_gradient += 4 * hidden) {
        for (long j = 0; j < hidden; j += LANES) {
            vector in = READ(gates + j), forget = READ(gates + hidden + j);
            vector new = READ(gates + 2 * hidden + j), out = READ(gates + 3 * hidden + j);
            vector squashed = hyperbolic_tangent(READ(cell + i * hidden + j)), on_state = READ(state_gradient + i * hidden + j);
            vector on_cell = READ(cell_gradient + i * hidden + j) + on_state * out * (1 - squashed * squashed);
            vector before = cell_before ? READ(cell_before + i * hidden + j) : (vector){};
            AT(gate_gradient + j) = on_cell * new * in * (1 - in);
            AT(gate_gradient + hidden + j) = on_cell * before * forget * (1 - forget);
            AT(gate_gradient + 2 * hidden + j) = on_cell * in * (1 - new * new);
            AT(gate_gradient + 3 * hidden + j) = on_state * squashed * out * (1 - out);
            AT(cell_gradient + i * hidden + j) = on_cell * forget;
        }
    }
}

/* March rays (instances, rows) with origin and direction (instances, rows, 3) from the distances `start`:
 * distance (steps, instances, rows) after each step. Returns 0, or 1 where there is no memory */
int march_forward(const Stack *stack, const Marcher *marcher, long instances, long rows, const float *origin,
                  const float *direction, const float *start, float *distance) {
    long hidden = marcher->hidden, width = stack->width, is_kept = marcher->gates != NULL;
    long between = is_kept ? instances * rows : BLOCK; /* rows between a step's and the next one's */
    long panels = up_to(4 * hidden, COLUMNS) / COLUMNS;
    Memory memory = {};
    Work work = make_work(stack, 0, &memory);
    float *input_panels = take(&memory, panels * width * COLUMNS), *state_panels = take(&memory, panels * hidden * COLUMNS);
    float *bias = take(&memory, 4 * hidden), *points = take(&memory, 3 * BLOCK), *features = take(&memory, BLOCK * work.line);
    float *kept[] = {marcher->gates, marcher->cell, marcher->state};
    for (int k = 0; k < 3 && !is_kept; k++) kept[k] = take(&memory, marcher->steps * BLOCK * (k ? hidden : 4 * hidden));
    if (memory.is_short) return give_back(&memory);
    pack_transposed(marcher->input_weight, 4 * hidden, width, input_panels, width * COLUMNS);
    pack_transposed(marcher->state_weight, 4 * hidden, hidden, state_panels, hidden * COLUMNS);
    for (long j = 0; j < 4 * hidden; j++) bias[j] = marcher->input_bias[j] + marcher->state_bias[j];
    for (long m = 0; m < instances; m++) {
        forward_with(stack, &work, m);
        for (long first = 0, block = block_of(rows); first < rows; first += block) {
            long count = least(block, rows - first), ray = m * rows + first;
            for (long s = 0; s < marcher->steps; s++) {
                long step = s * instances * rows + ray, row = s * between + (is_kept ? ray : 0), before = row - between;
                const float *from = s ? distance + step - instances * rows : start + ray;
                float *gates = kept[0] + row * 4 * hidden, *cell = kept[1] + row * hidden, *state = kept[2] + row * hidden;
                points_at(origin + 3 * ray, direction + 3 * ray, from, count, points);
                forward_rows(stack, &work, count, step, points, features, work.line);
                product(count, 4 * hidden, width, features, work.line, 1, input_panels, width * COLUMNS, bias, gates, 4 * hidden);
                if (s)
                    product(count, 4 * hidden, hidden, kept[2] + before * hidden, hidden, 1, state_panels, hidden * COLUMNS, NULL,
                            gates, 4 * hidden);
                lstm_cell(hidden, count, gates, s ? kept[1] + before * hidden : NULL, cell, state);
                for (long i = 0; i < count; i++) {
                    vector length = {};
                    for (long j = 0; j < hidden; j += LANES) length += READ(state + i * hidden + j) * READ(marcher->out_weight + j);
                    distance[step + i] = from[i] + sum(length) + *marcher->out_bias;
                }
            }
        }
    }
    return give_back(&memory);
}

/* Gradients of what was used, from distance_gradient (steps, instances, rows) */
int march_backward(const Stack *stack, const Marcher *marcher, long instances, long rows, const float *origin,
                   const float *direction, const float *start, const float *distance, const float *distance_gradient) {
    long hidden = marcher->hidden, width = stack->width, last = stack->num_layers - 1, all = instances * rows;
    long columns = up_to(width, COLUMNS), state_columns = up_to(hidden, COLUMNS), wants_own = marcher->bias_gradient != NULL;
    Memory memory = {};
    Work work = make_work(stack, 1, &memory);
    float *input_panels = take(&memory, columns * 4 * hidden), *state_panels = take(&memory, state_columns * 4 * hidden);
    float *points = take(&memory, 3 * BLOCK), *on_distance = take(&memory, BLOCK);
    float *on_state = take(&memory, BLOCK * hidden), *on_cell = take(&memory, BLOCK * hidden);
    float *on_gates = take(&memory, BLOCK * 4 * hidden), *spread = take(&memory, BLOCK * state_columns);
    float *input_sums = take(&memory, 4 * hidden * columns), *state_sums = take(&memory, 4 * hidden * state_columns);
    if (memory.is_short) return give_back(&memory);
    memset(input_sums, 0, 4 * hidden * columns * sizeof(float));
    memset(state_sums, 0, 4 * hidden * state_columns * sizeof(float));
    pack(marcher->input_weight, 4 * hidden, width, width, input_panels, 4 * hidden * COLUMNS);
    pack(marcher->state_weight, 4 * hidden, hidden, hidden, state_panels, 4 * hidden * COLUMNS);
    for (long m = 0; m < instances; m++) {
        backward_with(stack, &work, m, 1);
        for (long first = 0, block = block_of(rows); first < rows; first += block) {
            long count = least(block, rows - first), ray = m * rows + first;
            memset(on_distance, 0, count * sizeof(float));
            memset(on_state, 0, count * hidden * sizeof(float));
            memset(on_cell, 0, count * hidden * sizeof(float));
            for (long s = marcher->steps - 1; s >= 0; s--) {
                long step = s * all + ray, before = step - all;
                const float *state = marcher->state + step * hidden, *state_before = marcher->state + before * hidden;
                double bias_sum = 0;
                for (long i = 0; i < count; i++) {
                    float gradient = on_distance[i] += distance_gradient[step + i];
                    bias_sum += gradient;
                    for (long j = 0; j < hidden; j += LANES) {
                        if (wants_own) AT(marcher->out_weight_gradient + j) += gradient * READ(state + i * hidden + j);
                        vector on = READ(on_state + i * hidden + j) + gradient * READ(marcher->out_weight + j);
                        AT(on_state + i * hidden + j) = clamped(on, -marcher->limit, marcher->limit);
                    }
                }
                if (wants_own) *marcher->out_bias_gradient += bias_sum;
                lstm_cell_backward(hidden, count, marcher->gates + step * 4 * hidden, s ? marcher->cell + before * hidden : NULL,
                                   marcher->cell + step * hidden, on_state, on_cell, on_gates);
                if (wants_own) {
                    add_rows(on_gates, count, 4 * hidden, 4 * hidden, marcher->bias_gradient);
                    pack_activations(stack, &work, last, count, step);
                    product(4 * hidden, width, count, on_gates, 1, 4 * hidden, work.x_panels, work.row_panel, NULL, input_sums,
                            columns);
                }
                if (wants_own && s) {
                    pack(state_before, count, hidden, hidden, work.x_panels, work.row_panel);
                    product(4 * hidden, hidden, count, on_gates, 1, 4 * hidden, work.x_panels, work.row_panel, NULL, state_sums,
                            state_columns);
                }
                product(count, hidden, 4 * hidden, on_gates, 4 * hidden, 1, state_panels, 4 * hidden * COLUMNS, work.zeros, spread,
                        state_columns);
                for (long i = 0; i < count; i++) memcpy(on_state + i * hidden, spread + i * state_columns, hidden * sizeof(float));
                product(count, width, 4 * hidden, on_gates, 4 * hidden, 1, input_panels, 4 * hidden * COLUMNS, work.zeros, work.g,
                        work.line);
                points_at(origin + 3 * ray, direction + 3 * ray, s ? distance + before : start + ray, count, points);
                backward_rows(stack, &work, count, step, points, 1);
                for (long i = 0; i < 3 * count; i++)
                    on_distance[i / 3] += work.g[i / 3 * work.line + i % 3] * direction[3 * ray + i];
            }
        }
        write_gradients(stack, &work, m);
    }
    for (long i = 0; i < 4 * hidden && wants_own; i++) {
        for (long j = 0; j < width; j++) marcher->input_weight_gradient[i * width + j] += input_sums[i * columns + j];
        for (long j = 0; j < hidden; j++) marcher->state_weight_gradient[i * hidden + j] += state_sums[i * state_columns + j];
    }
    return give_back(&memory);
}

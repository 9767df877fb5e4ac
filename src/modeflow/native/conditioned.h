// The conditioned layer (a coupling, or a masked autoregressive one), forward and inverse: its network, then its map.
#pragma once
#include <algorithm>
#include <vector>

#include "context.h"
#include "lanes.h"
#include "maps.h"
#include "packed.h"

namespace modeflow {
namespace {

// The positive part of `width` columns; in place, or from rows of another width.
inline void relu(int rows, int width, const real* from, int64_t from_row, real* to, int64_t to_row) {
    for (int r = 0; r < rows; ++r) {
        const real* a = from + r * from_row;
        real* b = to + r * to_row;
        for (int i = 0; i < width; ++i) b[i] = a[i] > 0 ? a[i] : 0.0f;
    }
}

// Entries (row, column) of the moved features, LANES at a time: `visit(rows, columns, count)`.
template <class Visit>
inline void for_entries(int rows, int moved, const Visit& visit) {
    const int64_t n = static_cast<int64_t>(rows) * moved;
    int row[LANES], column[LANES];
    int r = 0, c = 0;
    for (int64_t start = 0; start < n; start += LANES) {
        const int count = static_cast<int>(n - start < LANES ? n - start : LANES);
        for (int i = 0; i < LANES; ++i) {
            row[i] = i < count ? r : row[0];
            column[i] = i < count ? c : column[0];
            if (i < count && ++c == moved) c = 0, ++r;
        }
        visit(row, column, count);
    }
}

void network_forward(const PackedLayer& packed, const Activations& at, int rows, const real* x, int width,
                     const SparseContext& context) {
    const StackLayer& layer = *packed.layer;
    const int last = static_cast<int>(packed.dense.size()) - 1, first_row = packed.dense[0].in_p;
    for (int r = 0; r < rows; ++r) {
        real* to = at.input(0) + static_cast<int64_t>(r) * first_row;
        const real* from = x + static_cast<int64_t>(r) * width;
        for (int j = 0; j < layer.seen; ++j) to[j] = from[layer.index[j]];
        for (int j = layer.seen; j < first_row; ++j) to[j] = 0.0f;
    }
    real* h = at.input(last);
    const int64_t h_row = packed.dense[last].in_p;
    if (layer.residual) {
        dense_forward(packed.dense[0], rows, context, at.input(0), h, h_row);
        for (int i = 1; i < last; i += 2) {
            const PackedDense &open = packed.dense[i], &close = packed.dense[i + 1];
            relu(rows, open.in_p, h, h_row, at.input(i), open.in_p);
            open.forward(rows, at.input(i), at.input(i + 1), close.in_p);
            relu(rows, close.in_p, at.input(i + 1), close.in_p, at.input(i + 1), close.in_p);
            close.forward(rows, at.input(i + 1), h, h_row, true);
        }
    } else {
        for (int i = 0; i < last; ++i) {
            const int64_t row = packed.dense[i + 1].in_p;
            dense_forward(packed.dense[i], rows, context, at.input(i), at.input(i + 1), row);
            relu(rows, packed.dense[i].out_p, at.input(i + 1), row, at.input(i + 1), row);
        }
    }
    dense_forward(packed.dense[last], rows, context, h, at.output(), packed.dense[last].out_p);
}

// The map of the moved features, with the parameters that the network gave.
void apply_map(const PackedLayer& packed, const Activations& at, bool inverse, int rows, const real* x, int width,
               real* y, real* logabsdet, real* space) {
    const StackLayer& layer = *packed.layer;
    const int n_params = layer.map.params;
    const int64_t stride = packed.dense.back().out_p;
    real *table = space, *work = space + n_params * LANES;
    const int64_t* moved = layer.index + layer.seen;
    const int64_t end = rows * stride;
    if (!layer.autoregressive)
        for (int r = 0; r < rows; ++r)
            for (int j = 0; j < layer.seen; ++j) {
                const int64_t place = static_cast<int64_t>(r) * width + layer.index[j];
                y[place] = x[place];
            }
    for_entries(rows, layer.moved, [&](const int* row, const int* column, int count) {
        Lane in, out, l;
        int32_t first[LANES];
        for (int i = 0; i < LANES; ++i) {
            first[i] = static_cast<int32_t>(row[i] * stride + column[i] * n_params);
            in[i] = x[static_cast<int64_t>(row[i]) * width + moved[column[i]]];
        }
        load(at.output(), first, end, n_params, table);
        map_lanes(layer.map, inverse, table, in, work, out, l);
        for (int i = 0; i < count; ++i) {
            y[static_cast<int64_t>(row[i]) * width + moved[column[i]]] = out[i];
            logabsdet[row[i]] += l[i];
        }
    });
}

// Room for the parameters of LANES entries, their gradients, and what the map needs beside them.
int64_t map_space(const Stack& stack) {
    int64_t most = 0;
    for (const StackLayer& layer : stack.layers)
        if (layer.kind == StackLayer::CONDITIONED)
            most = std::max<int64_t>(most, 2 * layer.map.params * LANES + work_of(layer.map));
    return most;
}

}  // namespace
}  // namespace modeflow

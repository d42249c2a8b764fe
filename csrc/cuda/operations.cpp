// SPDX-License-Identifier: Apache-2.0
#include "operations.h"

#include <algorithm>
#include <iterator>

namespace pyrel::cuda {
namespace {

void set_epilogue(Operation& op, const EpilogueSpec& e, Pools& pools) {
    op.bias = pools.vector(e.bias);
    op.scale = e.scale;
    op.scale_operand = pools.operand(e.scale_rows);
    op.scale_vector = pools.vector(e.scale_vector);
    op.accumulate = e.accumulate;
    op.post = e.post;
    op.post_operand = pools.operand(e.post_rows);
    op.post_vector = pools.vector(e.post_vector);
    op.epsilon = e.epsilon;
}

template <typename Moved>
void set_moved(Operation& op, const Moved& i, Pools& pools) {
    op.source = pools.operand(i.source);
    op.out = pools.operand(i.out);
    op.first_index = pools.index(i.index);
    op.indices = small(std::ssize(i.index));
}

}  // namespace

Operation operation_of(const Gemm& i, Pools& pools) {
    Operation op;
    op.kind = Kind::gemm;
    op.columns = small(pools.code().matrix(i.matrix).columns);
    op.listed = small(std::ssize(i.segments));
    op.first_listed = pools.segments(i);
    op.weights = pools.weights(i);
    op.in_bf16 = i.bf16;
    op.out = pools.operand(i.out);
    set_epilogue(op, i.epilogue, pools);
    return op;
}

Operation operation_of(const Map& i, Pools& pools) {
    Operation op;
    op.kind = Kind::map;
    op.columns = small(i.columns);
    op.source = pools.operand(i.source);
    op.out = pools.operand(i.out);
    set_epilogue(op, i.epilogue, pools);
    return op;
}

Operation operation_of(const Gather& i, Pools& pools) {
    Operation op;
    op.kind = Kind::gather;
    set_moved(op, i, pools);
    return op;
}

Operation operation_of(const Scatter& i, Pools& pools) {
    Operation op;
    op.kind = Kind::scatter;
    set_moved(op, i, pools);
    std::vector<int64_t> sorted = i.index;
    std::sort(sorted.begin(), sorted.end());
    op.repeated_index = std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end();
    return op;
}

Operation operation_of(const Seed& i, Pools& pools) {
    Operation op;
    op.kind = Kind::seed;
    op.source = pools.operand(i.source);
    op.out = pools.operand(i.out);
    op.start = i.start;
    return op;
}

Operation operation_of(const Absorb& i, Pools& pools) {
    Operation op;
    op.kind = Kind::absorb;
    op.columns = small(i.columns);
    op.source = pools.operand(i.source);
    op.value = pools.operand(i.operand);
    op.share = i.share;
    op.vector = pools.vector(i.vector);
    op.epsilon = i.epsilon;
    return op;
}

Operation operation_of(const Activate& i, Pools& pools) {
    Operation op;
    op.kind = Kind::activate;
    op.columns = small(i.columns);
    op.source = pools.operand(i.source);
    op.out = pools.operand(i.out);
    op.function = i.function;
    op.parameter = i.parameter;
    return op;
}

Operation operation_of(const Slope& i, Pools& pools) {
    Operation op;
    op.kind = Kind::slope;
    op.columns = small(i.columns);
    op.source = pools.operand(i.source);
    op.value = pools.operand(i.value);
    op.out = pools.operand(i.out);
    op.function = i.function;
    op.parameter = i.parameter;
    op.accumulate = i.accumulate;
    return op;
}

Operation operation_of(const Reduce& i, Pools& pools) {
    Operation op;
    op.kind = Kind::reduce;
    op.columns = small(i.columns);
    op.source = pools.operand(i.source);
    op.out = pools.operand(i.out);
    op.count = small(i.count);
    op.stride = small(i.stride);
    op.accumulate = i.accumulate;
    return op;
}

Operation operation_of(const Matmul& i, Pools& pools) {
    Operation op;
    op.kind = Kind::matmul;
    op.source = pools.operand(i.left);
    op.value = pools.operand(i.right);
    op.out = pools.operand(i.out);
    op.rows = small(i.rows);
    op.depth = small(i.depth);
    op.columns = small(i.columns);
    small(i.rows * i.columns);
    op.left_transposed = i.left_transposed;
    op.right_transposed = i.right_transposed;
    op.accumulate = i.accumulate;
    return op;
}

Operation operation_of(const MaxPool& i, Pools& pools) {
    Operation op;
    op.kind = Kind::max_pool;
    op.columns = small(i.columns);
    op.listed = small(std::ssize(i.sources));
    op.first_listed = pools.listed(i.sources);
    op.out = pools.operand(i.out);
    return op;
}

Operation operation_of(const PoolRoute& i, Pools& pools) {
    Operation op;
    op.kind = Kind::pool_route;
    op.columns = small(i.columns);
    op.listed = small(std::ssize(i.values));
    op.source = pools.operand(i.relevance);
    op.shares = i.shares;
    op.accumulate = i.accumulate;
    op.first_listed_out = pools.listed(i.outs);
    op.first_listed = pools.listed(i.values);
    return op;
}

Operation operation_of(const Normalise& i, Pools& pools) {
    Operation op;
    op.kind = Kind::normalise;
    op.columns = small(i.columns);
    op.source = pools.operand(i.source);
    op.out = pools.operand(i.out);
    op.epsilon = i.epsilon;
    return op;
}

Operation operation_of(const NormaliseBack& i, Pools& pools) {
    Operation op;
    op.kind = Kind::normalise_back;
    op.columns = small(i.columns);
    op.source = pools.operand(i.source);
    op.value = pools.operand(i.value);
    op.out = pools.operand(i.out);
    op.epsilon = i.epsilon;
    op.detached = i.detached;
    op.accumulate = i.accumulate;
    return op;
}

Operation operation_of(const Embed& i, Pools& pools) {
    Operation op;
    op.kind = Kind::embed;
    op.columns = small(pools.code().table(i.table).columns);
    op.source = pools.operand(i.source);
    op.out = pools.operand(i.out);
    op.table = pools.table(i.table);
    op.table_rows = small(pools.code().table(i.table).rows);
    return op;
}

}  // namespace pyrel::cuda

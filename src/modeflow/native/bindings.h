// The parts of the Python module, each defined in a source of its own.
#pragma once
#include <nanobind/nanobind.h>

namespace modeflow {

// The structs of `fields.h`, by the names of their fields.
void define_fields(nanobind::module_ m);

// A stack of layers, for numbers of one type.
template <class Real>
void define_stack(nanobind::module_ m);

// A tree of states and its Gaussian leaves, likewise.
template <class Real>
void define_tree(nanobind::module_ m);

}  // namespace modeflow

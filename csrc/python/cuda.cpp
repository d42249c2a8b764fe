// SPDX-License-Identifier: Apache-2.0
// Programs for the CUDA library, which needs neither it nor a GPU.
#include <vector>

#include "../cuda/make_image.h"
#include "bindings.h"

namespace py = pybind11;
using namespace py::literals;

namespace pyrel {
namespace {

py::bytes cuda_image(const Program& program) {
    std::vector<char> image;
    {
        const py::gil_scoped_release release;
        image = cuda::image_of(program);
    }
    return py::bytes(image.data(), image.size());
}

}  // namespace

void bind_cuda(py::module_& module) {
    module.def("cuda_image", &cuda_image, "program"_a,
               "A program as the CUDA library loads it. What that does not run is refused.");
}

}  // namespace pyrel

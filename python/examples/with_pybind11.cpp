// A native core that logs into Python, by pybind11. What interp-guard takes is marked.
#include "core.h"
#include <pybind11/pybind11.h>
#include "interp_guard.hpp" // interp-guard

namespace py = pybind11;

static py::object *log_debug;
static interp_guard::view *here; // interp-guard

static void sink(int level, char const *text) {
    interp_guard::attached attached(*here); // interp-guard
    if (!attached) return;                  // interp-guard
    py::gil_scoped_acquire gil;
    (*log_debug)("%d %s", level, text);
}

PYBIND11_MODULE(with_pybind11, module) {
    if (import_interp_guard() < 0) throw py::error_already_set();    // interp-guard
    here = new interp_guard::view(interp_guard::view::current());    // interp-guard
    log_debug = new py::object(py::module_::import("logging").attr("getLogger")("core").attr("debug"));
    module.def("start", [](int threads) { core_start(sink, threads); });
    module.def("events", core_events);
}

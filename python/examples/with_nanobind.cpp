// A native core that logs into Python, by nanobind. What interp-guard takes is marked.
#include "core.h"
#include <nanobind/nanobind.h>
#include "interp_guard.hpp" // interp-guard

namespace nb = nanobind;

static nb::object *log_debug;
static interp_guard::view *here; // interp-guard

static void sink(int level, char const *text) {
    interp_guard::attached attached(*here); // interp-guard
    if (!attached) return;                  // interp-guard
    nb::gil_scoped_acquire gil;
    (*log_debug)("%d %s", level, text);
}

NB_MODULE(with_nanobind, module) {
    if (import_interp_guard() < 0) throw nb::python_error();         // interp-guard
    here = new interp_guard::view(interp_guard::view::current());    // interp-guard
    log_debug = new nb::object(nb::module_::import_("logging").attr("getLogger")("core").attr("debug"));
    module.def("start", [](int threads) { core_start(sink, threads); });
    module.def("events", core_events);
}

//! For which kind of CPython this is compiled: `Py_GIL_DISABLED` is set for a free-threaded one.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}

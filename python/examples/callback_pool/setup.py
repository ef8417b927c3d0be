import interp_guard
from setuptools import Extension, setup

setup(
    py_modules=[],  # what else lies in this folder is none of the package
    ext_modules=[
        Extension(
            "callback_pool",
            ["callback_pool.c"],
            include_dirs=[interp_guard.get_include()],
            extra_compile_args=["-std=c11", "-pthread"],
            extra_link_args=["-pthread"],
        )
    ]
)

"""The typing stubs say what is there: the same names, members and parameters, in both directions."""

import ast
import inspect
import os
import sys

import interp_guard

folder = os.path.dirname(interp_guard.__file__)
assert os.path.exists(os.path.join(folder, "py.typed"))
with open(os.path.join(folder, "__init__.pyi")) as stub:
    tree = ast.parse(stub.read())


def is_property(function):
    return any(isinstance(name, ast.Name) and name.id == "property" for name in function.decorator_list)


def check_parameters(stub, real, where):
    said = [(argument.arg, False) for argument in stub.args.args]
    for position in range(len(stub.args.defaults)):
        name, _ = said[-1 - position]
        said[-1 - position] = (name, True)
    real = inspect.signature(real).parameters.values()
    if [parameter.kind for parameter in real][1:] == [inspect.Parameter.VAR_POSITIONAL]:
        return  # __exit__(self, *exception), which the stub spells out
    there = [(parameter.name, parameter.default is not inspect.Parameter.empty) for parameter in real]
    assert said == there, (where, said, there)


def check_class(stub, real):
    assert [base.id for base in stub.bases] == [base.__name__ for base in real.__bases__ if base is not object] or (
        [base.id for base in stub.bases] == ["NamedTuple"] and hasattr(real, "_fields")
    ), stub.name
    fields = [node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)]
    assert tuple(fields) == getattr(real, "_fields", ()), (stub.name, fields)
    said = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    there = {
        name
        for name, value in vars(real).items()
        if not name.startswith("_") and name not in fields and (callable(value) or isinstance(value, property))
    }
    there |= {name for name in ("__enter__", "__exit__", "__iter__") if name in vars(real)}
    assert set(said) == there, (stub.name, set(said) ^ there)
    for name, function in said.items():
        value = inspect.getattr_static(real, name)
        assert is_property(function) == isinstance(value, property), (stub.name, name)
        if not is_property(function):
            check_parameters(function, value, (stub.name, name))
    final = any(getattr(decorator, "id", None) == "final" for decorator in stub.decorator_list)
    assert final or fields or issubclass(real, interp_guard.Refused), stub.name


def for_this_version(nodes):
    for node in nodes:
        if isinstance(node, ast.If):  # sys.version_info >= (3, x)
            holds = sys.version_info >= ast.literal_eval(node.test.comparators[0])
            yield from for_this_version(node.body if holds else node.orelse)
        else:
            yield node


body = list(for_this_version(tree.body))
classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
variables = {node.target.id for node in body if isinstance(node, ast.AnnAssign)}
assert set(classes) | set(functions) == set(interp_guard.__all__), (
    (set(classes) | set(functions)) ^ set(interp_guard.__all__)
)
assert variables == {"__version__"} and isinstance(interp_guard.__version__, str)
for name, stub in classes.items():
    check_class(stub, getattr(interp_guard, name))
for name, stub in functions.items():
    check_parameters(stub, getattr(interp_guard, name), name)
print(f"{len(classes)} classes and {len(functions)} functions are as the stubs say")
print("ok")

"""Is the recipe's checker there, and does it take what it will be given? Its file is read and not run."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from pathlib import Path

from pipelines.recipe.errors import UserError


def check_checker(name: str | None) -> None:
    """Raises UserError if `heldout.checker` cannot be found, or cannot be called with images and a prompt's fields.

    Its module is read, not imported: that is left to the workers, where its packages are.
    """
    if not name:
        return
    module, _, function = name.partition(":")
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if not function or found is None:
        raise UserError(f'heldout.checker = {name!r}: give "module:function", such as "toy.checker:check"')
    if found.origin and found.origin.endswith(".py") and (problem := problem_of(Path(found.origin), function)):
        raise UserError(f"heldout.checker = {name!r}: {problem}")


def problem_of(file: Path, function: str) -> str:
    """Why a module's file has no such function, or none that takes two arguments; empty if it has, or if that cannot be seen."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        return f"{file} is not Python: {error}"
    defined = {name: node for node in tree.body for name in _names(node)}
    if "*" in defined or "." in function or "__getattr__" in defined:
        return ""
    if function not in defined:
        functions = [name for name, node in defined.items() if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        near = difflib.get_close_matches(function, functions, n=1)
        return f"{file} has no {function}; " + (
            f"did you mean {near[0]}?" if near else f"it has {', '.join(functions)}"
        )
    node = defined[function]
    if isinstance(node, ast.FunctionDef) and not node.decorator_list and not _takes(node.args, 2):
        return f"{function} in {file} must take two arguments, the images and the prompt's fields; it has {ast.unparse(node.args)!r}"
    return ""


def _names(node: ast.stmt) -> list[str]:
    """What a statement at the top of a module defines."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return [alias.asname or alias.name for alias in aliases]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.If() | ast.Try() | ast.With():
            return ["*"]
    return []


def _takes(arguments: ast.arguments, count: int) -> bool:
    places = [*arguments.posonlyargs, *arguments.args]
    needed = len(places) - len(arguments.defaults)
    keywords = sum(default is None for default in arguments.kw_defaults)
    return needed <= count and (len(places) >= count or arguments.vararg is not None) and not keywords

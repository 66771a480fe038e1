#!/usr/bin/env python3
"""Finds cycles among the modules of each crate, from the paths in its sources. Called by `make check`.

Allowed is a cycle of at most three files inside one top-level module: a parent and a child that share a type. Everything larger, and
every cycle between two top-level modules, is an error: layers depend downwards (docs/architecture.md).

A path counts wherever it stands, `use` or not. A name that a module re-exports or imports counts as a dependency on the file
that defines it. Test modules do not count. Exit code 1 when there is an error.
"""
import os
import re
import sys

LARGEST = 3

TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/                           # comments
      | b?r(?P<hash>\#*)".*?"(?P=hash)                # raw strings
      | b?"(?:\\.|[^"\\])*"                           # strings
      | b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^\\'])'         # characters, not lifetimes
    """,
    re.X | re.S,
)
USE = re.compile(r"\b(?:pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")
PATH = re.compile(r"(?<![\w:])(?:[A-Za-z_]\w*)(?:\s*::\s*[A-Za-z_]\w*)+")
MODULE = re.compile(r"((?:#\[[^\]]*\]\s*)*)(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+)\s*([;{])")


def block_end(text, start):
    """The index after the brace that closes the one before `start`."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return at + 1
    return len(text)


def without_tests(text):
    """The code without comments, literals, and items for tests only."""
    text = TOKEN.sub(" ", text)
    pieces, at = [], 0
    for test in re.finditer(r"#\[cfg\(\s*(?:test|all\(\s*test\b[^\]]*|any\(\s*test\b[^\]]*)\)?\s*\)\]", text):
        if test.start() < at:
            continue
        pieces.append(text[at : test.start()])
        end = re.compile(r"[;{]").search(text, test.end())
        at = len(text) if not end else end.end() if end.group() == ";" else block_end(text, end.end())
    return "".join(pieces) + text[at:]


def leaves(tree, prefix=()):
    """The paths and local names of a `use` tree: ((segments), name)."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace < 0:
        path, _, name = tree.partition(" as ")
        path = prefix + tuple(part.strip() for part in path.split("::") if part.strip())
        if path and path[-1] == "self":
            path = path[:-1]
        yield path, name.strip() or (path[-1] if path else "")
        return
    prefix += tuple(part.strip() for part in tree[:brace].split("::") if part.strip())
    depth, piece = 0, ""
    for letter in tree[brace + 1 : tree.rfind("}")]:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            yield from leaves(piece, prefix)
            piece = ""
        else:
            piece += letter
    if piece.strip():
        yield from leaves(piece, prefix)


class Module:
    def __init__(self, path, file, code):
        self.path, self.file, self.code = path, file, code
        self.children = set()
        self.uses = {}
        self.globs = []


def read(file, path, folder, modules):
    """Reads a module and its children; `folder` is where the files of its children are."""
    with open(file, encoding="utf-8") as source:
        code = without_tests(source.read())
    module = modules[path] = Module(path, file, code)
    for attributes, name, how in MODULE.findall(code):
        if how != ";":
            continue
        named = re.search(r'#\[path', attributes)
        if named:
            sys.exit(f"cycles: {file}: mod {name} has a #[path], which this check cannot follow")
        for candidate in (f"{folder}/{name}.rs", f"{folder}/{name}/mod.rs"):
            if os.path.exists(candidate):
                module.children.add(name)
                read(candidate, (*path, name), f"{folder}/{name}", modules)
    for tree in USE.findall(code):
        for used, name in leaves(tree):
            if used and used[-1] == "*":
                module.globs.append(used[:-1])
            elif used:
                module.uses[name] = used


def absolute(module, used):
    """The path from the crate's root, or None for another crate."""
    at, rest = module.path, list(used)
    if rest[0] == "crate":
        return tuple(rest[1:])
    if rest[0] in ("self", "super"):
        while rest and rest[0] in ("self", "super"):
            at = at[:-1] if rest.pop(0) == "super" else at
        return (*at, *rest)
    if rest[0] in module.children:
        return (*at, *rest)
    return None


def definition(modules, path, depth=0):
    """The module that defines what the path names; names that another module imports are followed to it."""
    at = ()
    for number, segment in enumerate(path):
        if (*at, segment) in modules:
            at = (*at, segment)
            continue
        module = modules[at]
        if segment in module.uses and depth < 8:
            further = absolute(module, module.uses[segment])
            if further is None:
                return None
            return definition(modules, (*further, *path[number + 1 :]), depth + 1)
        for used in module.globs:
            further = absolute(module, used)
            target = definition(modules, further, depth + 1) if further is not None and depth < 8 else None
            if target is not None and re.search(rf"\b(?:fn|struct|enum|trait|type|const|static|mod)\s+{segment}\b", modules[target].code):
                return target
        return at
    return at


def dependencies(modules):
    """Which module takes which names from which: {module: {other: {names}}}."""
    result = {path: {} for path in modules}
    for path, module in modules.items():
        named = [used for used in module.uses.values()] + list(module.globs)
        body = USE.sub(" ", module.code)
        for found in PATH.findall(body):
            segments = tuple(re.split(r"\s*::\s*", found))
            if segments[0] in module.uses:
                segments = (*module.uses[segments[0]], *segments[1:])
            named.append(segments)
        for used in named:
            wanted = absolute(module, used)
            other = definition(modules, wanted) if wanted is not None else None
            if other is not None and other != path:
                result[path].setdefault(other, set()).add(used[-1])
    return result


def components(graph):
    """Strongly connected components with more than one member (Tarjan)."""
    index, low, stack, on, found = {}, {}, [], set(), []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        on.add(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in on:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[-len(component) :]
            on.difference_update(component)
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def crate(source):
    """The errors of a crate whose sources are in this folder, as texts."""
    modules = {}
    for root in ("lib.rs", "main.rs"):
        if os.path.exists(f"{source}/{root}"):
            read(f"{source}/{root}", (), source, modules)
            break
    graph = dependencies(modules)
    errors = []
    for members in components(graph):
        tops = {member[:1] for member in members}
        if len(members) <= LARGEST and len(tops) == 1:
            continue
        lines = [f"a cycle of {len(members)} files" + (f" between {len(tops)} top-level modules" if len(tops) > 1 else "")]
        for member in members:
            for other in members:
                names = graph[member].get(other)
                if names:
                    lines.append(f"  {modules[member].file} takes {', '.join(sorted(names))} from {modules[other].file}")
        errors.append("\n".join(lines))
    return errors


def main():
    sys.setrecursionlimit(10_000)
    sources = sys.argv[1:] or sorted(
        os.path.join(folder, "src")
        for folder, names, files in os.walk(".")
        if "Cargo.toml" in files and os.path.isdir(os.path.join(folder, "src")) and "/target" not in folder and "/.cache" not in folder
    )
    errors = [error for source in sources for error in crate(source.rstrip("/"))]
    for error in errors:
        print(f"cycles: {error}", file=sys.stderr)
    if errors:
        print("hint: move what both take to a module below them", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())

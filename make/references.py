#!/usr/bin/env python3
"""Checks that files, modules and tests that the documentation names exist. Called by `make check`.

What counts is text in backquotes in Markdown files: a path with a known ending must be the end of a tracked file's path; a name with `::`, and on the
pages that list tests also a longer name without, must end in a function or module of the sources. CHANGELOG.md is history and is left out.
Exit code 1 when something is missing.
"""
import re
import subprocess
import sys

PATH = re.compile(r"^[\w.+-]+(?:/[\w.+-]+)*\.(?:rs|sh|py|md|toml|tera|dot|lua)$")
NAME = re.compile(r"^(?:…::)?[a-z0-9]+(?:_[a-z0-9]+)*(?:::[a-z0-9]+(?:_[a-z0-9]+)*)*$")
# Files that users write, or that are on an instance.
ELSEWHERE = re.compile(r"(?:^|/)(?:imagebuilder|agent|orders)\.toml$|smoke\.sh$|^\.cargo/")
LISTS = ("docs/faults.md", "docs/features.md")


def tracked(*patterns):
    return subprocess.run(["git", "ls-files", "--", *patterns], check=True, capture_output=True, text=True).stdout.split()


def main():
    files = tracked()
    sources = tracked("*.rs", "*.py", "*.sh")
    defined, modules = set(), set()
    for source in sources:
        with open(source, encoding="utf-8") as file:
            text = file.read()
        defined.update(re.findall(r"\b(?:fn|def|struct|enum|trait|mod|const)\s+(\w+)", text))
        parts = re.sub(r"(?:/mod|/main|/lib)?\.\w+$", "", source).split("/")
        modules.update(parts)
    missing = []
    for page in tracked("*.md"):
        if page == "CHANGELOG.md":
            continue
        with open(page, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                for text in re.findall(r"`([^`\n]+)`", line):
                    if PATH.match(text) and "/" in text and not ELSEWHERE.search(text):
                        found = any(name == text or name.endswith("/" + text) for name in files)
                    elif NAME.match(text) and ("::" in text or page in LISTS and text.count("_") >= 3):
                        last = text.split("::")[-1]
                        found = last in defined or last in modules
                        if found and last == "tests":
                            before = text.split("::")[-2]
                            found = before in modules or before in defined
                    else:
                        continue
                    if not found:
                        missing.append(f"{page}:{number}: `{text}` does not exist")
    for line in missing:
        print(line, file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())

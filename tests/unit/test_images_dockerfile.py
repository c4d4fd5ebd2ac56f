"""What a Dockerfile's text tells: bases, directives, mounts that need a session."""

from __future__ import annotations

import pytest

from pytest_envpar.images.dockerfile import directives, instructions, parse


@pytest.mark.parametrize(
    ("text", "args", "expected"),
    [
        ("FROM python:3.12\nRUN x", {}, ["python:3.12"]),
        ("from --platform=linux/amd64 python AS build\nFROM build", {}, ["python"]),
        ("ARG V=1\nFROM a:${V}\n", {}, ["a:1"]),
        ("ARG V=1\nFROM a:$V\n", {"V": "2"}, ["a:2"]),
        ("ARG V\nFROM a:${V:-3}${V:+x}\n", {}, ["a:3"]),
        ('ARG V="1"\nFROM \\\n  # comment\n  a:$V', {}, ["a:1"]),
        ("ARG N=a V=1\nARG R=$N:$V\nFROM $R", {}, ["a:1"]),
        ("ARG V=1\nFROM a:$V\nARG V=2\nFROM b:$V", {}, ["b:1"]),
        ("FROM a\nARG V=2\nFROM b:${V:-3}", {}, ["b:3"]),
        # Not declared, so that the argument does not count; and without a value nobody knows the name.
        ("FROM a:$V", {"V": "2"}, []),
        ("FROM image-$TARGETARCH", {}, []),
        ("# escape=`\nFROM `\n a", {}, ["a"]),
        ("FROM a\nCOPY --from=b:1 /x /x\nCOPY --from=0 /y /y\nRUN --mount=type=bind,from=c:2,target=/c x", {},
         ["a", "b:1", "c:2"]),
        ("FROM a\nRUN <<EOF\nFROM b\nEOF\nCOPY <<-'X' <<Y /\nFROM c\nX\nFROM d\nY\nCOPY --from=e /x /", {},
         ["a", "e"]),
        ("FROM a\nRUN cat <<EOF\nCOPY --from=e /x /", {}, ["a", "e"]),
        ("", {}, []),
        ("FROM", {}, []),
        ("FROM scratch", {}, []),
        ("FROM a AS b\nFROM b AS a\nFROM a", {}, ["a"]),
    ],
)  # fmt: skip
def test_base_images(text: str, args: dict[str, str], expected: list[str]) -> None:
    assert list(parse(text, args.items()).bases) == expected


MANY = """\
FROM one AS first
FROM two AS second
COPY --from=first /x /x
FROM three AS third
FROM second
COPY --from=four /y /y
"""


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, ("one", "two", "four")),
        ("first", ("one",)),
        ("SECOND", ("one", "two")),
        ("third", ("three",)),
        ("2", ("three",)),
        ("9", ()),
    ],
)
def test_only_what_the_target_needs(target: str | None, expected: tuple[str, ...]) -> None:
    assert parse(MANY, (), target).bases == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "# syntax=docker/dockerfile:1\n# escape=`\nFROM a",
            {"syntax": "docker/dockerfile:1", "escape": "`"},
        ),
        ("\ufeff#SYNTAX = x/y\nFROM a", {"syntax": "x/y"}),
        # Behind anything else they are comments.
        ("# a comment\n# escape=`\nFROM a", {}),
        ("FROM a\n# syntax=x", {}),
        ("\n# escape=`", {}),
    ],
)
def test_directives(text: str, expected: dict[str, str]) -> None:
    assert directives(text) == expected


def test_mounts_that_need_a_session() -> None:
    text = (
        "# syntax=docker/dockerfile:1\nFROM a\n"
        "RUN --mount=type=cache,target=/c --mount=type=secret,id=k \\\n  x\n"
        'RUN --mount="type=ssh" y\nRUN --mount=target=/z z\nRUN echo --mount\n'
    )
    found = parse(text, ())
    assert found.session == ((3, "secret"), (5, "ssh"))


def test_instructions_have_their_line() -> None:
    text = "FROM a\n\n# no\nRUN one \\\n\n  # inside\n  two\nCMD x \\"
    assert [(each.word, each.rest, each.line) for each in instructions(text)] == [
        ("FROM", "a", 1),
        ("RUN", "one two", 4),
        ("CMD", "x", 8),
    ]

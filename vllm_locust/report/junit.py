"""JUnit XML, which continuous integration shows as tests."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree


@dataclass(frozen=True, slots=True)
class Case:
    """One test case."""

    name: str
    outcome: Literal["passed", "failed", "skipped", "error"]
    message: str


_TAGS = {"failed": "failure", "skipped": "skipped", "error": "error"}
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(suite: str, cases: Sequence[Case]) -> bytes:
    """A document with one suite. Characters that XML cannot have become U+FFFD."""
    root = ElementTree.Element("testsuites")
    element = ElementTree.SubElement(root, "testsuite", {"name": _clean(suite), **_counts(cases)})
    for case in cases:
        names = {"classname": _clean(suite), "name": _clean(case.name)}
        one = ElementTree.SubElement(element, "testcase", names)
        message = _clean(case.message)
        if (tag := _TAGS.get(case.outcome)) is not None:
            ElementTree.SubElement(one, tag, {"message": message}).text = message
        elif message:
            ElementTree.SubElement(one, "system-out").text = message
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _counts(cases: Sequence[Case]) -> dict[str, str]:
    """The attributes that say how many cases there are, and of which outcome."""
    outcomes = Counter(case.outcome for case in cases)
    return {
        "tests": str(len(cases)),
        "failures": str(outcomes["failed"]),
        "errors": str(outcomes["error"]),
        "skipped": str(outcomes["skipped"]),
    }


def _clean(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)

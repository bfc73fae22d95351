"""JUnit XML: read again as a tool of continuous integration would."""

from xml.etree import ElementTree

from vllm_locust.report.junit import Case, junit_xml

CASES = [
    Case("a < b & c", "passed", ""),
    Case("good", "passed", "why"),
    Case("bad", "failed", 'of "x" <y>'),
    Case("left", "skipped", "later"),
    Case("broken", "error", "no data"),
]


def test_each_outcome_has_its_element() -> None:
    suite = ElementTree.fromstring(junit_xml("my suite", CASES))[0]
    assert [case.get("name") for case in suite] == [case.name for case in CASES]
    assert [[child.tag for child in case] for case in suite] == [
        [], ["system-out"], ["failure"], ["skipped"], ["error"],
    ]  # fmt: skip
    assert suite[2][0].get("message") == suite[2][0].text == 'of "x" <y>'


def test_the_suite_counts() -> None:
    suite = ElementTree.fromstring(junit_xml("my suite", CASES))[0]
    assert suite.attrib == {
        "name": "my suite", "tests": "5", "failures": "1", "errors": "1", "skipped": "1",
    }  # fmt: skip


def test_no_cases_are_a_document_too() -> None:
    assert ElementTree.fromstring(junit_xml("s", []))[0].get("tests") == "0"

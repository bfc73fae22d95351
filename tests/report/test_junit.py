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


def test_nothing_is_there_that_the_schemas_do_not_know() -> None:
    """What the schemas of Jenkins (junit-10.xsd) and Ant have in common, which GitLab reads too."""
    allowed = {
        "testsuites": (set(), {"testsuite"}),
        "testsuite": ({"name", "tests", "failures", "errors", "skipped"}, {"testcase"}),
        "testcase": ({"name", "classname"}, {"failure", "error", "skipped", "system-out"}),
        **dict.fromkeys(("failure", "error", "skipped"), ({"message"}, set())),
        "system-out": (set(), set()),
    }
    root = ElementTree.fromstring(junit_xml("my suite", CASES))
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, children = allowed[element.tag]
        assert set(element.attrib) == attributes
        assert {child.tag for child in element} <= children
        assert len(element) <= 1 or element.tag != "testcase", "one outcome each"


def test_what_xml_cannot_have_does_not_break_it() -> None:
    """Messages come from servers. Line ends in them stay."""
    message = "a\x00b\x1b[31m \ud800 \ufffe\nnext"
    document = junit_xml("s\x07", [Case("n\x08", "failed", message), Case("m", "passed", message)])
    suite = ElementTree.fromstring(document)[0]
    clean = "a\ufffdb\ufffd[31m \ufffd \ufffd\nnext"
    assert suite[0][0].get("message") == suite[0][0].text == suite[1][0].text == clean
    assert (suite.get("name"), suite[0].get("name")) == ("s\ufffd", "n\ufffd")


def test_no_cases_are_a_document_too() -> None:
    assert ElementTree.fromstring(junit_xml("s", []))[0].get("tests") == "0"

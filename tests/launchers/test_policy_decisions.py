"""What IAM decides by policies: the rules of AWS, in any order and with any patterns."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.aws.access import Decision, decide

ALLOWED, DENIED, SILENT = Decision.ALLOWED, Decision.EXPLICIT_DENY, Decision.IMPLICIT_DENY
OBJECT = "arn:aws:s3:::my-bucket/dogbreed/a"


def statement(effect: str = "Allow", action: Any = "s3:GetObject", resource: Any = OBJECT, **more: Any) -> Any:
    return {"Effect": effect, "Action": action, "Resource": resource, **more}


def decided(*statements: Any, context: Any = None, resource: str = OBJECT) -> Decision:
    return decide([{"Statement": list(statements)}], "s3:GetObject", resource, context or {})


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([], SILENT),
        ([statement()], ALLOWED),
        ([statement(action=["s3:PutObject", "s3:getobject"])], ALLOWED),  # actions have no case, resources have
        ([statement(action="s3:Get*", resource="*")], ALLOWED),
        ([statement(action="s3:GetObjec?", resource=["arn:aws:s3:::other/*", "arn:aws:s3:::my-*"])], ALLOWED),
        ([statement(action="s3:GetObjec?t")], SILENT),
        ([statement(action="s3:Get.*")], SILENT),
        ([statement(resource=OBJECT.replace("my", "MY"))], SILENT),
        ([statement(resource="arn:aws:s3:::my-bucket")], SILENT),
        ([statement(resource="arn:aws:s3:::my-bucket/[dD]ogbreed/*")], SILENT),  # brackets are no wildcards
        ([statement(), statement("Deny", action="*", resource="*")], DENIED),
        ([statement("Deny", resource="arn:aws:s3:::other/*"), statement()], ALLOWED),
        ([{"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}], ALLOWED),
        ([{"Effect": "Allow", "NotAction": ["s3:*"], "Resource": "*"}], SILENT),
        ([statement(), {"Effect": "Deny", "Action": "s3:*", "NotResource": "arn:aws:s3:::other/*"}], DENIED),
        ([statement(resource="arn:aws:s3:::my-bucket/${aws:username}/*")], SILENT),  # nobody has that name
    ],
)
def test_the_rules_of_statements(statements: list[Any], expected: Decision) -> None:
    assert decided(*statements) is expected


@pytest.mark.parametrize(
    ("condition", "context", "holds"),
    [
        ({"StringEquals": {"k": "a"}}, {"k": ["a"]}, True),
        ({"StringEquals": {"K": ["b", "a"]}}, {"k": ["a"]}, True),  # names of keys have no case
        ({"StringEquals": {"k": "a"}}, {}, False),
        ({"StringEqualsIfExists": {"k": "a"}}, {}, True),
        ({"StringEqualsIfExists": {"k": "a"}}, {"k": ["b"]}, False),
        ({"StringNotEquals": {"k": "a"}}, {}, True),
        ({"StringNotEquals": {"k": ["a", "b"]}}, {"k": ["b"]}, False),
        ({"StringLike": {"k": "/aws/*"}}, {"k": ["/aws/sagemaker/x"]}, True),
        ({"StringNotLike": {"k": "/aws/*"}}, {"k": ["/aws/x"]}, False),
        ({"StringEqualsIgnoreCase": {"k": "A"}}, {"k": ["a"]}, True),
        ({"StringEquals": {"k": "a"}, "Bool": {"b": "true"}}, {"k": ["a"], "b": ["false"]}, False),  # all must hold
        ({"StringEquals": {"k": "a", "l": "b"}}, {"k": ["a"], "l": ["c"]}, False),
        ({"Bool": {"b": True}}, {"b": ["true"]}, True),
        ({"Null": {"k": "false"}}, {"k": ["x"]}, True),
        ({"Null": {"k": "false"}}, {}, False),
        ({"Null": {"k": "true"}}, {}, True),
        ({"NumericLessThanEquals": {"n": "3"}}, {"n": ["3"]}, True),
        ({"NumericLessThan": {"n": "3"}}, {"n": ["many"]}, False),
        ({"DateGreaterThan": {"d": "2026-01-01T00:00:00Z"}}, {"d": ["2026-06-01T00:00:00Z"]}, True),
        ({"IpAddress": {"i": "10.0.0.0/8"}}, {"i": ["10.1.2.3"]}, True),
        ({"NotIpAddress": {"i": "10.0.0.0/8"}}, {"i": ["10.1.2.3"]}, False),
        ({"ArnLike": {"a": "arn:aws:iam::*:role/x"}}, {"a": ["arn:aws:iam::1:role/x"]}, True),
        ({"ArnLike": {"a": "arn:aws:*:role/x"}}, {"a": ["arn:aws:iam::1:role/x"]}, False),  # each part for itself
        ({"ForAllValues:StringEquals": {"k": ["a", "b"]}}, {"k": ["a", "b"]}, True),
        ({"ForAllValues:StringEquals": {"k": ["a"]}}, {"k": ["a", "b"]}, False),
        ({"ForAllValues:StringEquals": {"k": ["a"]}}, {}, True),
        ({"ForAnyValue:StringEquals": {"k": ["a"]}}, {"k": ["a", "b"]}, True),
        ({"ForAnyValue:StringEquals": {"k": ["a"]}}, {}, False),
        ({"OfTheFuture": {"k": "a"}}, {"k": ["a"]}, False),
    ],
)
def test_a_condition_allows_and_denies_where_it_holds(condition: Any, context: Any, holds: bool) -> None:
    assert decided(statement(Condition=condition), context=context) is (ALLOWED if holds else SILENT)
    deny = decided(statement(), statement("Deny", Condition=condition), context=context)
    assert deny is (DENIED if holds else ALLOWED)


_PATTERNS = st.text(alphabet="ab*?[!]", max_size=6)
_STATEMENTS = st.lists(
    st.builds(statement, st.sampled_from(["Allow", "Deny"]), _PATTERNS.map("s3:GetObject{}".format), _PATTERNS)
)


@given(_STATEMENTS, st.randoms())
def test_one_statement_that_denies_outweighs_all_others_in_any_order(statements: list[Any], chance: Any) -> None:
    shuffled = chance.sample(statements, len(statements))
    assert decided(*shuffled) is decided(*statements)
    assert decided(*statements, statement("Deny", "*", "*")) is DENIED
    assert decided(*[each for each in statements if each["Effect"] == "Deny"]) is not ALLOWED


@given(_PATTERNS, st.text(alphabet="ab[!]", max_size=6))
def test_a_pattern_is_a_star_for_any_text_and_a_question_mark_for_one_letter(pattern: str, text: str) -> None:
    expression = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern)
    fits = re.fullmatch(expression, text, re.S) is not None
    assert (decided(statement(resource=pattern), resource=text) is ALLOWED) == fits

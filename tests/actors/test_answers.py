"""What an answer of a VLM is taken to say, and what it is not."""

import pytest

from actors.answers import NoAnswer, object_in, score_in


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"reasoning": "all there", "score": 7}', 7.0),
        ('```json\n{"score": 6.5}\n```', 6.5),
        ('Sure:\n```\n{"score": "8"}\n```', 8.0),
        ('I think {"score": 3} at first, but no: {"reasoning": {"a": 1}, "score": 4}', 4.0),
        ('{"score": "9/10"}', 9.0),
        ("The score is 5.", 5.0),
        ("Score: 2, then again score: 6", 6.0),
        ('{"score": 12}', 10.0),
        ('{"score": -3}', 0.0),
        ("score: -3", 0.0),
        ('{"reasoning": "cut off", "score": 4', 4.0),
        ("SCORE = 10/10", 10.0),
    ],
)
def test_a_score_is_read_in_whatever_it_is_wrapped(answer: str, score: float) -> None:
    assert score_in(answer, 10.0) == score


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "a red circle",
        "It is good, 8 of 10",
        '{"grade": 7}',
        '{"score": null}',
        '{"score": true}',
        '{"score": NaN}',
        '{"score": [7]}',
        '{"score": "high"}',
        "my score (0-10) is high",
        "score 0 to 10: very good",
        "[" * 5000,
    ],
)
def test_what_has_no_score_is_none_and_never_a_zero(answer: str) -> None:
    with pytest.raises(NoAnswer):
        score_in(answer, 10.0)


def test_a_list_or_a_number_is_no_object() -> None:
    for answer in ("[1, 2]", "7", '"text"', "no"):
        with pytest.raises(NoAnswer, match="no JSON object"):
            object_in(answer)
    assert object_in('[{"a": 1}, {"b": 2}]') == {"b": 2}

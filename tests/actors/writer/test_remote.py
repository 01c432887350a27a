"""A writer behind a server that fails in every way: counted, asked again, and never believed."""

import base64
import io
import logging
import math
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from actors.messages import Turn, WriteRequest, WriteTrial
from actors.mistake import Mistake
from actors.process import Process
from actors.vlm.remote import RemoteVlm
from actors.writer.actor import WriterActor
from actors.writer.remote import RemoteWriterOptions
from tests.support.model_server import ModelServer, model_server

KEY = "sk-secret-of-the-test"
TROUBLES = {
    "429": "429",
    "500": "500",
    "503": "503",
    "half JSON": "half an answer",
    "half a body": "no connection",
    "garbage": "half an answer",
    "nothing": "nothing",
    "no content": "nothing",
    "another shape": "another shape",
    "hangs up": "no connection",
    "slow": "too slow",
    "drips": "too slow",
}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as told:
        yield told


def options(server: ModelServer, **keys: object) -> RemoteWriterOptions:
    usual = {"model": "some/model", "tries": 3, "backoff_s": 0.01, "answer_s": 0.3, "max_tokens": 7}
    return RemoteWriterOptions(base_url=server.base_url, **{**usual, **keys})  # type: ignore[arg-type]


def asked(*parts: str | int, seed: int = 0) -> WriteRequest:
    return WriteRequest((Turn("user", parts),), seed)


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 16, 24, 3), dtype=np.uint8))


def test_a_request_has_turns_and_images_in_order_and_says_how(server: ModelServer):
    request = WriteRequest((Turn("system", ("Be brief.",)), Turn("user", ("A:", 1, "B:", 0, "which?"))), seed=2**62 + 5)
    writer = options(server, temperature=0.9, top_p=0.8, images_as="png").load()
    (written,) = writer.write([request], pictures(2))
    assert written.text.startswith("a picture of ")
    assert (written.tokens, written.cut, written.tries) == (4, False, {})
    (body,) = server.bodies
    assert {
        "model": "some/model",
        "temperature": 0.9,
        "top_p": 0.8,
        "seed": 2**62 + 5,
        "max_tokens": 7,
    }.items() <= body.items()
    system, user = body["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert [part.get("text") for part in user["content"]] == ["A:", None, "B:", None, "which?"]
    shown = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(";base64,")[2]))))
        for part in user["content"]
        if "image_url" in part
    ]
    assert np.array_equal(shown, pictures(2)[::-1])


def test_a_greedy_text_needs_no_seed_and_the_limit_may_have_its_newer_name(server: ModelServer):
    options(server, limit_as="max_completion_tokens").load().write([asked(0, "a")], pictures(1), 3)
    (body,) = server.bodies
    assert "seed" not in body
    assert (body["max_completion_tokens"], body["temperature"]) == (3, 0.0)
    assert body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")


@pytest.mark.parametrize("mood", sorted(TROUBLES))
def test_whatever_goes_wrong_is_counted_and_asked_again(server: ModelServer, mood: str):
    (clean,) = options(server).load().write([asked("a")], [])
    server.moods = [mood, mood]
    (written,) = options(server).load().write([asked("a")], [])
    assert (written.text, written.tries) == (clean.text, {TROUBLES[mood]: 2})


@pytest.mark.parametrize("mood", sorted(TROUBLES))
def test_what_goes_wrong_to_the_last_try_is_a_reason_and_never_an_answer(server: ModelServer, mood: str):
    server.moods = [mood] * 3
    (written,) = options(server).load().write([asked("a")], [])
    assert written.text is None
    assert written.reason == f"{TROUBLES[mood]}, the last of 3 tries"
    assert written.tries == {TROUBLES[mood]: 3}
    assert len(server.bodies) == 3


def test_a_row_that_fails_leaves_the_others_alone_and_reasons_are_counted_apart(server: ModelServer):
    server.moods = ["429", "500", "half JSON"]
    first, *others = options(server, at_once=1).load().write([asked("a"), asked("b"), asked("c")], [])
    counted = [one.tries for one in (first, *others)]
    assert sum(sum(tries.values()) for tries in counted) == 3
    assert all(one.text for one in others)


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_more_requests_are_under_way_than_allowed(server: ModelServer, at_once: int):
    server.pause_s = 0.02
    written = options(server, at_once=at_once).load().write([asked(str(n)) for n in range(9)], [])
    assert all(one.text for one in written)
    assert server.most == at_once


def test_rows_do_not_depend_on_their_company(server: ModelServer):
    requests = [asked(n, "a", seed=n) for n in range(4)]
    writer = options(server, temperature=0.9).load()
    together = writer.write(requests, pictures(4))
    assert together == tuple(writer.write([request], pictures(4))[0] for request in requests)
    assert len({one.text for one in together}) == 4


def test_a_request_that_the_server_will_never_take_is_made_once(server: ModelServer):
    server.moods = ["400"]
    (written,) = options(server).load().write([asked("a")], [])
    assert (written.text, written.tries) == (None, {})
    assert "refuses the request with 400" in written.reason
    assert len(server.bodies) == 1


@pytest.mark.parametrize("mood", ["401", "404"])
def test_a_key_or_a_model_that_is_refused_ends_the_start_and_the_key_is_not_told(
    server: ModelServer, mood: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("A_KEY", KEY)
    server.moods = [mood]
    with pytest.raises(Mistake, match=rf"model = 'some/model' with {mood}: .*not with Bearer \*\*\*") as caught:
        WriterActor(Process(1), options(server, api_key_env="A_KEY"), WriteTrial(16, 16))  # type: ignore[arg-type]
    assert KEY not in str(caught.value)


def test_a_start_without_an_answer_is_a_mistake(server: ModelServer):
    server.moods = ["500"] * 3
    with pytest.raises(Mistake, match=r"^writer\.type = 'remote' cannot write: 500, the last of 3 tries"):
        WriterActor(Process(1), options(server), WriteTrial(16, 16))


def test_the_key_travels_to_the_server_and_stands_nowhere_else(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("A_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another")
    caplog.set_level(logging.DEBUG)
    told = options(server, api_key_env="A_KEY")
    server.moods = ["400"]
    writer = told.load()
    refused, written = (writer.write([asked("a")], [])[0] for _ in range(2))
    assert server.keys == [f"Bearer {KEY}"] * 2
    everything = (
        told,
        writer,
        vars(writer),
        writer.info(),
        refused,
        written,
        told.model_dump_json(),
        pickle.dumps(told),
    )
    assert KEY not in repr(everything) + caplog.text
    options(server).load().write([asked("a")], [])
    assert server.keys[-1] == "Bearer none", "a key of the environment that nobody named goes nowhere"


def test_a_key_that_is_not_there_is_told_by_its_name(server: ModelServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(Mistake, match=r"api_key_env = 'A_KEY'.* no such variable"):
        options(server, api_key_env="A_KEY").load()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"base_url": "127.0.0.1:8000"}, "expected a URL"),
        ({"base_url": f"https://me:{KEY}@host/v1"}, "without user, password and query"),
        ({"base_url": f"https://host/v1?key={KEY}"}, "without user, password and query"),
        ({"base_url": "http://host/v1", "api_key_env": "A_KEY"}, "in the clear"),
        ({"api_key_env": KEY}, "never a key itself"),
        ({"beams": 2}, "Extra inputs are not permitted"),
        ({"tries": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_without_telling_a_key(server: ModelServer, keys: dict, told: str):
    with pytest.raises(ValidationError, match=told) as caught:
        RemoteWriterOptions(**{"base_url": server.base_url, "model": "m", **keys})
    assert KEY not in str(caught.value)


def test_a_server_without_a_key_may_be_anywhere_and_one_with_a_key_behind_https():
    assert RemoteWriterOptions(base_url="http://host:8000/v1/", model="m").base_url == "http://host:8000/v1"
    assert RemoteWriterOptions(base_url="https://host/v1", model="m", api_key_env="A_KEY").api_key_env == "A_KEY"


def test_the_chance_of_an_answer_is_the_sum_over_its_spellings(server: ModelServer):
    writer = options(server).load()
    (chance,) = writer.chances([asked(0, "a dog?")], pictures(1), "yes")
    assert chance.probability == pytest.approx(0.75)
    assert {"logprobs": True, "top_logprobs": 20, "max_tokens": 1}.items() <= server.bodies[0].items()
    server.listed = {"No": 0.999}
    assert writer.chances([asked("a dog?")], [], "yes")[0].probability == 0.0


def test_a_chance_that_the_server_tells_too_little_of_is_none(server: ModelServer):
    server.listed = {"Yes": 0.5, "No": 0.4}
    (chance,) = options(server).load().chances([asked("a dog?")], [], "yes")
    assert chance.probability is None
    assert "10% of what may be said is not among the 2 likeliest" in chance.reason


@pytest.mark.parametrize("mood", ["half JSON", "another shape", "no numbers", "429", "nothing"])
def test_a_chance_is_never_made_of_a_bad_answer(server: ModelServer, mood: str):
    server.moods = [mood] * 3
    (chance,) = options(server).load().chances([asked("a dog?")], [], "yes")
    assert chance.probability is None
    assert sum(chance.tries.values()) == 3


def test_an_echo_is_the_mean_over_the_captions_tokens_alone(server: ModelServer):
    vlm, caption = RemoteVlm(options(server)), "a red circle left of a blue square"
    verdicts = vlm.echo(pictures(3), "Describe this image.", caption)
    assert all("".join(verdict.tokens) == caption and len(verdict.tokens) == 8 for verdict in verdicts)
    assert all(verdict.reward == pytest.approx(math.fsum(verdict.log_probs) / 8) for verdict in verdicts)
    assert len({verdict.reward for verdict in verdicts}) == 3, "the image makes a difference"
    assert len(server.bodies) == 1 + 3, "the question is asked alone once for images of one size"
    last = server.bodies[-1]
    assert last["messages"][-1] == {"role": "assistant", "content": caption}
    assert {
        "prompt_logprobs": 0,
        "add_generation_prompt": False,
        "continue_final_message": True,
    }.items() <= last.items()
    assert verdicts == vlm.echo(pictures(3), "Describe this image.", caption)


def test_an_echo_of_a_prompt_that_goes_on_after_the_caption_is_none(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
):
    """As of a server that does not know `continue_final_message`."""
    whole = ModelServer.answer

    def deaf(self: ModelServer, body: dict) -> dict:
        return whole(self, {**body, "continue_final_message": False})

    monkeypatch.setattr(ModelServer, "answer", deaf)
    (verdict,) = RemoteVlm(options(server)).echo(pictures(1), "Describe this image.", "a red circle")
    assert verdict.reward is None
    assert "does not end in the caption" in verdict.reason


def test_a_server_that_tells_nothing_of_prompts_gives_no_echo(server: ModelServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.support.model_server.prompt_log_probs", lambda body: None)
    (verdict,) = RemoteVlm(options(server)).echo(pictures(1), "Describe this image.", "a red circle")
    assert verdict.reward is None
    assert "vLLM does" in verdict.reason


@pytest.mark.parametrize("mood", ["half JSON", "another shape", "no numbers", "slow"])
def test_an_echo_is_never_made_of_a_bad_answer(server: ModelServer, mood: str):
    vlm = RemoteVlm(options(server))
    server.moods = [mood] * 3
    (verdict,) = vlm.echo(pictures(1), "Describe this image.", "a red circle")
    assert verdict.reward is None
    assert sum(verdict.tries.values()) == 3
    (again,) = vlm.echo(pictures(1), "Describe this image.", "a red circle")
    assert again.reward is not None

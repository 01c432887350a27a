"""The contract of every registered VLM that writes: transformers' own text, and the same for a row whoever is beside it."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForImageTextToText

from actors.messages import Turn, WriteRequest, Written
from actors.vlm import generate
from actors.vlm.family import load_vlm
from actors.vlm.frozen import FrozenVlm
from actors.vlm.generate import choose, write
from actors.vlm.likelihood import NO_NUMBERS, chances
from actors.vlm.options import Decoding
from tests.actors.vlm.obvious import own_processor, own_prompt
from toy.random_models.vlms import TINY_VLMS

CPU = torch.device("cpu")
JUDGE = Path(__file__).resolve().parents[3] / "toy/models/judge"
SIZES = ((16, 16), (17, 33), (1, 1), (40, 20), (16, 16))
QUERIES = ("Describe this image", "photo of a red circle left of a blue square and two green triangles")
GREEDY, WARM = Decoding(max_tokens=12), Decoding(temperature=0.9, top_p=0.95, max_tokens=12)


@pytest.fixture(scope="module", params=[*sorted(TINY_VLMS), "judge"])
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(case: str, tiny_vlms: dict[str, Path]) -> Path:
    return JUDGE if case == "judge" else tiny_vlms[case]


@pytest.fixture(scope="module")
def vlm(folder: Path) -> FrozenVlm:
    return load_vlm(str(folder), torch.float32, CPU)  # type: ignore[return-value]


@pytest.fixture
def tiny(tiny_llava: Path) -> FrozenVlm:
    """Of its own for each test, which may spoil it."""
    return load_vlm(str(tiny_llava), torch.float32, CPU)  # type: ignore[return-value]


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def asked(*parts: str | int, seed: int = 0) -> WriteRequest:
    return WriteRequest((Turn("user", parts),), seed)


def several() -> list[WriteRequest]:
    """Prompts of many lengths: with one image, two, none, one that others have, and after an answer."""
    one = [asked(number, QUERIES[number % 2], seed=number) for number in range(len(SIZES))]
    before = (Turn("user", (0, "what is this")), Turn("assistant", ("a red circle",)), Turn("user", ("and left",)))
    return [*one, asked(1, "left", 0, "right", seed=7), asked("a photo of", seed=8), WriteRequest(before, 9)]


def own_texts(folder: Path, case: str, patch: pytest.MonkeyPatch, wanted: Sequence[WriteRequest], **how: int) -> list:
    """Transformers' way, one prompt at a time: the model's own processor, its own `generate`."""
    kind = "llava" if case == "judge" else case.split()[0]
    processor, model = own_processor(folder, kind, patch), AutoModelForImageTextToText.from_pretrained(folder).eval()
    texts = []
    for request in wanted:
        inputs = own_prompt(processor, request.turns, pictures())
        ids = model.generate(**inputs, do_sample=False, **how)[0, inputs["input_ids"].shape[1] :]
        texts.append(processor.tokenizer.decode(ids, skip_special_tokens=True))
    return texts


@pytest.mark.parametrize("beams", [1, 3])
def test_the_likeliest_text_is_that_of_transformers_one_image_at_a_time(
    vlm: FrozenVlm, folder: Path, case: str, monkeypatch: pytest.MonkeyPatch, beams: int
):
    written = write(vlm, several(), pictures(), Decoding(beams=beams, max_tokens=10), 4)
    own = own_texts(folder, case, monkeypatch, several(), num_beams=beams, max_new_tokens=10)
    assert [one.text for one in written] == [text.removeprefix(vlm.lead) for text in own]
    assert len(set(own)) > 1, "the prompts make a difference"


@pytest.mark.parametrize("how", [GREEDY, WARM], ids=["greedy", "temperature 0.9"])
def test_a_row_is_the_same_to_the_bit_alone_and_at_any_place_of_any_batch(
    vlm: FrozenVlm, monkeypatch: pytest.MonkeyPatch, how: Decoding
):
    """Its logits as well, so that no two tokens that are nearly as likely can be exchanged."""
    seen: list[torch.Tensor] = []

    def spy(logits_BV: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(logits_BV)
        return choose(logits_BV, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(generate, "choose", spy)

    def logits_of_row(requests: list[WriteRequest], row: int) -> tuple[Written, torch.Tensor]:
        """Of one pass, while the row goes on."""
        seen.clear()
        written = write(vlm, requests, pictures(), how, 4)[row]
        return written, torch.stack([logits_BV[row] for logits_BV in seen[: written.tokens]])

    rows = [request for request in several() if len(vlm.prompt(request.turns, pictures())["input_ids"][0]) <= 64][:4]
    alone = [logits_of_row([row], 0) for row in rows]
    together = [logits_of_row(rows, place) for place in range(4)]
    turned = [logits_of_row(rows[::-1], 3 - place) for place in range(4)]
    assert [one[0] for one in alone] == [one[0] for one in together] == [one[0] for one in turned]
    for others in (together, turned):
        assert all(torch.equal(own[1], other[1]) for own, other in zip(alone, others, strict=True))


@pytest.mark.parametrize("how", [GREEDY, WARM, Decoding(beams=2, max_tokens=6)], ids=["greedy", "temperature", "beams"])
def test_all_rows_are_the_same_in_any_order_and_company(vlm: FrozenVlm, how: Decoding):
    requests = several()
    together = write(vlm, requests, pictures(), how, 4)
    assert together == write(vlm, requests[::-1], pictures(), how, 4)[::-1]
    assert together == tuple(write(vlm, [request], pictures(), how, 4)[0] for request in requests)


def test_a_text_is_drawn_by_its_seed_alone(vlm: FrozenVlm):
    seeds = [
        write(vlm, [asked(0, "a", seed=seed) for seed in order], pictures(), WARM, 4) for order in ((1, 2), (2, 1))
    ]
    assert seeds[0] == seeds[1][::-1]
    assert seeds[0][0].text != seeds[0][1].text


def test_the_chance_of_an_answer_is_that_of_all_its_spellings(vlm: FrozenVlm, case: str):
    requests = several()[:2]
    found = chances(vlm, requests, pictures(), "Red")
    ids = {"judge": ["red"]}.get(case, ["red", "Ġred"])
    for request, chance in zip(requests, found, strict=True):
        prompt = vlm.prompt(request.turns, pictures())
        with vlm.as_it_comes(), torch.inference_mode():
            p_V = vlm.model(**prompt).logits[0, -1].double().softmax(-1)
        expected = p_V[vlm.tokenizer.convert_tokens_to_ids(ids)].sum().item()
        assert chance.probability == pytest.approx(expected, rel=1e-4)
    assert found == chances(vlm, requests[::-1], pictures(), "red")[::-1]


def test_an_answer_that_is_no_token_is_an_error(tiny: FrozenVlm):
    with pytest.raises(ValueError, match="no token 'perhaps'"):
        chances(tiny, [asked(0, "a")], pictures(), "perhaps")


def test_a_text_ends_before_the_first_token_that_ends_texts_and_others_go_on(tiny: FrozenVlm):
    requests = several()
    whole = write(tiny, requests, pictures(), GREEDY, 4)
    assert all(one.cut and one.tokens == 12 for one in whole), "no row ends by itself"
    ids = tiny.tokenizer(whole[0].text, add_special_tokens=False).input_ids
    tiny.stops = (*tiny.stops, ids[5])
    ended = write(tiny, requests, pictures(), GREEDY, 4)
    first = ids.index(ids[5])
    assert ended[0] == Written(tiny.tokenizer.decode(ids[:first]), tokens=first)
    assert all(one.text == other.text for one, other in zip(whole, ended, strict=True) if other.cut)


def test_what_cannot_be_written_has_a_reason_and_leaves_its_neighbours_alone(tiny: FrozenVlm):
    bad = [asked("what is <image>"), asked(9, "a"), asked("red " * 5000)]
    good = several()[:2]
    written = write(tiny, [bad[0], good[0], bad[1], good[1], bad[2]], pictures(), GREEDY, 4)
    assert (written[1], written[3]) == write(tiny, good, pictures(), GREEDY, 4)
    reasons = (
        "special token",
        "image 9 is asked for, but 5 are there",
        r"writer.max_tokens = 12 exceed this VLM's 4096",
    )
    for one, reason in zip((written[0], written[2], written[4]), reasons, strict=True):
        assert one.text is None
        assert reason in one.reason
    assert "special token" in chances(tiny, [bad[0]], [], "red")[0].reason


@pytest.mark.parametrize("how", [GREEDY, WARM, Decoding(beams=2, max_tokens=4)], ids=["greedy", "temperature", "beams"])
def test_logits_that_are_no_numbers_make_no_text_and_spoil_no_neighbour(tiny: FrozenVlm, how: Decoding):
    red = tiny.tokenizer.convert_tokens_to_ids("red")
    clean = write(tiny, [asked(0, "blue")], pictures(), how, 4)
    tiny.model.get_input_embeddings().weight[red] = float("nan")
    broken, fine = write(tiny, [asked(0, "red"), asked(0, "blue")], pictures(), how, 4)
    assert (broken.text, broken.reason) == (None, NO_NUMBERS)
    assert (fine,) == clean
    assert chances(tiny, [asked("red")], [], "blue")[0].reason == NO_NUMBERS


def test_what_a_folder_says_of_generating_is_left_to_the_recipe(tiny_llava: Path, tiny: FrozenVlm, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "model"))
    said = {"eos_token_id": [2, 40], "do_sample": True, "temperature": 0.1, "top_k": 1, "repetition_penalty": 9.0}
    (folder / "generation_config.json").write_text(json.dumps(said))
    told: FrozenVlm = load_vlm(str(folder), torch.float32, CPU)  # type: ignore[assignment]
    assert told.stops == (2, 40)
    for how in (GREEDY, Decoding(beams=2, max_tokens=8)):
        tiny.stops = (2, 40)
        tiny.model.generation_config.eos_token_id = [2, 40]
        assert write(told, several(), pictures(), how, 4) == write(tiny, several(), pictures(), how, 4)


def test_experts_are_shared_again_once_rows_are_written(tiny_vlms: dict[str, Path]):
    vlm: FrozenVlm = load_vlm(str(tiny_vlms["qwen3_vl_moe"]), torch.float32, CPU)  # type: ignore[assignment]
    before = vlm.model.get_experts_implementation()
    write(vlm, [asked("a")], [], GREEDY, 2)
    assert vlm.model.get_experts_implementation() == before
    assert generate.ROW_BY_ROW not in before.values()


def draws(logits: Sequence[float], how: Decoding, count: int = 10_000) -> np.ndarray:
    """How often each token is chosen over uniform numbers that cover [0, 1) evenly."""
    uniforms = (np.arange(count) + 0.5) / count
    ids = choose(torch.tensor([list(logits)]).expand(count, -1), how, uniforms)
    return np.bincount(ids.numpy(), minlength=len(logits)) / count


LOGITS = (0.0, 2.0, -1.0, 1.0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_token_is_drawn_as_often_as_its_probability_says(temperature: float):
    expected = np.exp(np.divide(LOGITS, temperature))
    found = draws(LOGITS, Decoding(temperature=temperature))
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-4)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1e-6, [1]), (0.6, [1]), (0.7, [1, 3]), (0.9, [0, 1, 3]), (0.99, [0, 1, 2, 3])]
)
def test_top_p_leaves_the_fewest_likeliest_tokens_that_add_up_to_it(top_p: float, kept: list[int]):
    expected = np.zeros(4)
    expected[kept] = np.exp(np.take(LOGITS, kept))
    np.testing.assert_allclose(
        draws(LOGITS, Decoding(temperature=1.0, top_p=top_p)), expected / expected.sum(), atol=1e-4
    )


@pytest.mark.parametrize("how", [Decoding(temperature=1.0), Decoding(temperature=1.0, top_p=0.5)])
@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_draw_tokens_that_can_be(how: Decoding, uniform: float):
    logits = torch.tensor([[-torch.inf, 0.0, -1.0, -torch.inf]])
    assert choose(logits, how, np.array([uniform])).item() in (1, 2)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"beams": 2, "temperature": 0.5}, "writer.beams = 2 and writer.temperature = 0.5"),
        ({"top_p": 0.9}, "writer.top_p = 0.9 needs a writer.temperature above 0"),
        ({"top_p": 0.0, "temperature": 1.0}, "greater than 0"),
        ({"temperature": -1.0}, "greater than or equal to 0"),
        ({"max_tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(keys: dict, told: str):
    with pytest.raises(ValidationError, match=told):
        Decoding(**keys)

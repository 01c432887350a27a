"""Prompt files in text, as people have them: what is read, what is refused and where, and that nothing else ever comes of a file."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from actors.messages import Prompt
from pipelines.data.prompt_text import read_records
from pipelines.data.prompts import load_prompt_sets, load_prompts
from pipelines.data.strict_json import MAX_DEPTH
from pipelines.recipe.errors import UserError
from pipelines.recipe.tables import Data
from tests.support import files
from tests.support.files import CAPTIONS

LINES = "".join(f'{{"caption": "{caption}"}}\n' for caption in CAPTIONS)


def given(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def captions(path: str) -> tuple[str, ...]:
    return tuple(prompt.caption for prompt in load_prompts(path, "data.train"))


@pytest.mark.parametrize("name", files.READ)
def test_a_file_as_it_is_found_is_read(tmp_path: Path, name: str) -> None:
    found = captions(str(files.write(tmp_path, name)))
    assert tuple(caption.replace("\u2028", " ") for caption in found) == CAPTIONS


@pytest.mark.parametrize("name", sorted({*files.REFUSED} - {"no_words.jsonl"}))
def test_a_file_that_fails_later_is_refused_at_its_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}, line 1: "):
        load_prompts(str(files.write(tmp_path, name)), "data.train")


OTHERS: dict[str, str | bytes] = {
    "crlf.txt": "\r\n".join(CAPTIONS),
    "mac.txt": "\r".join(CAPTIONS),
    "mac.jsonl": LINES.replace("\n", "\r"),
    "mac.csv": "prompt\r" + "\r".join(CAPTIONS),
    "blank_lines.txt": "\n\n" + "\n \n".join(CAPTIONS) + "\n\n",
    "bom.txt": b"\xef\xbb\xbf" + "\n".join(CAPTIONS).encode(),
    "bom.csv": b"\xef\xbb\xbf" + ("Caption\n" + "\n".join(CAPTIONS)).encode(),
    "boms_within.txt": "\n".join(f"\ufeff{caption}" for caption in CAPTIONS),
    "boms_within.jsonl": LINES.replace("{", "\ufeff{"),
    "utf16.csv": ("Prompt,Tag\n" + "".join(f"{caption},x\n" for caption in CAPTIONS)).encode("utf-16"),
    "utf16_big.txt": b"\xfe\xff" + "\n".join(CAPTIONS).encode("utf-16-be"),
    "utf32.jsonl": LINES.encode("utf-32"),
    "semicolons.csv": "prompt;category\n" + "".join(f"{caption};x\n" for caption in CAPTIONS),
    "quoted.csv": 'note,prompt\n"two\nlines, ""quoted""",a red circle\n,a blue square\n,two green triangles\n',
    "raw_quotes.tsv": 'Prompt\tNote\na red circle\t"a" and b\na blue square\t"open\ntwo green triangles\t\n',
    "index.csv": ",prompt\n" + "".join(f"{i},{caption}\n" for i, caption in enumerate(CAPTIONS)),
    "short_rows.csv": "prompt,category\n" + "\n".join(CAPTIONS),
    "texts.json": json.dumps(CAPTIONS),
    "texts.jsonl": "\n".join(map(json.dumps, CAPTIONS)),
    "array.jsonl": json.dumps([{"caption": caption} for caption in CAPTIONS], indent=2),
    "lines.json": LINES,
    "lines.ndjson": LINES,
    "LINES.JSONL": LINES,
    "no_ending": LINES,
    "plain.txt.gz": gzip.compress("\n".join(CAPTIONS).encode(), mtime=0),
    "table.csv.gz": gzip.compress(b"\xef\xbb\xbf" + ("text\n" + "\n".join(CAPTIONS)).encode(), mtime=0),
    "array.json.gz": gzip.compress(json.dumps(CAPTIONS).encode(), mtime=0),
    "unpacked_by_the_browser.jsonl.gz": LINES,
    "packed_under_a_plain_name.jsonl": gzip.compress(LINES.encode(), mtime=0),
}


def test_a_cell_may_be_as_long_as_any_caption(tmp_path: Path) -> None:
    long = "red " * 100_000 + "circle"
    assert captions(given(tmp_path, "p.csv", f"prompt\n{long}\n")) == (long,)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (gzip.compress(b"PAR1", mtime=0), "not a Parquet file"),
        (b"PAR1 cut", "not a Parquet file, or it was cut"),
    ],
)
def test_a_parquet_file_that_is_none_says_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_prompts(given(tmp_path, "p.parquet", content), "data.train")


@pytest.mark.parametrize("name", OTHERS)
def test_so_are_its_brothers(tmp_path: Path, name: str) -> None:
    assert captions(given(tmp_path, name, OTHERS[name])) == CAPTIONS


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e"])
@pytest.mark.parametrize("ending", ["jsonl", "txt", "csv"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, sign: str, ending: str) -> None:
    caption = f"a red{sign}circle"
    line = json.dumps({"caption": caption}, ensure_ascii=False) if ending == "jsonl" else caption
    head = "caption\n" if ending == "csv" else ""
    assert captions(given(tmp_path, f"p.{ending}", f"{head}{line}\n")) == (caption,)


def test_the_files_of_known_benchmarks_are_read_as_they_are(tmp_path: Path) -> None:
    """GenEval, PartiPrompts, DrawBench and Flow-GRPO's PickScore prompts, in their own layouts."""
    geneval = {"tag": "counting", "include": [{"class": "dog", "count": 2}], "prompt": "a photo of two dogs"}
    path = given(tmp_path, "evaluation_metadata.jsonl", json.dumps(geneval) + "\n")
    assert load_prompts(path, "k")[0] == Prompt("e983c5ed5ee7f5c2", "a photo of two dogs", "counting", geneval)
    parti = "Prompt\tCategory\tChallenge\tNote\na red circle\tIllustrations\tBasic\t\n"
    (found,) = load_prompts(given(tmp_path, "PartiPrompts.tsv", parti), "k")
    assert (found.caption, found.category, found.extra["Challenge"]) == ("a red circle", "Illustrations", "Basic")
    assert "Note" not in found.extra
    drawbench = 'Prompts,Category\n"A car, red.",Colors\n'
    (found,) = load_prompts(given(tmp_path, "drawbench.csv", drawbench), "k")
    assert (found.caption, found.category) == ("A car, red.", "Colors")
    (found,) = load_prompts(given(tmp_path, "train.txt", 'a sign, "open"\n'), "k")
    assert found.caption == 'a sign, "open"'


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ({"id": 0}, ("0", "all")),
        ({"id": 7, "category": 3}, ("7", "3")),
        ({"id": "x", "category": ""}, ("x", "all")),
        ({"ID": "x", "Tag": "t"}, ("x", "t")),
        ({"id": "x", "category": "c", "tag": "t"}, ("x", "c")),
        ({"id": "x", "category": None, "tag": "t"}, ("x", "t")),
        ({"id": "x", "category": None}, ("x", "all")),
        ({"id": "", "category": "None"}, (None, "None")),
        ({"id": None}, (None, "all")),
    ],
)
def test_null_is_missing_and_zero_is_not(tmp_path: Path, field: dict, found: tuple[str | None, str]) -> None:
    (prompt,) = load_prompts(given(tmp_path, "p.jsonl", json.dumps({"caption": "a", **field})), "k")
    identity, category = found
    assert (prompt.id, prompt.category) == (identity or "ca978112ca1bbdca", category)
    assert not {"id", "caption", "category"} & {*prompt.extra}


WRONG: list[tuple[str, str | bytes, str]] = [
    ("p.jsonl", '{"caption": "a", "n": NaN}', "line 1: NaN is no number in JSON"),
    ("p.jsonl", '{"caption": "a", "n": [-Infinity]}', "line 1: -Infinity is no number"),
    ("p.jsonl", '{"caption": "a", "n": 1e999}', "line 1: the number 1e999 is out of range"),
    ("p.jsonl", '\n{"caption": "a", "caption": "b"}', "line 2: `caption` comes twice in one object"),
    ("p.jsonl", '{"caption": "a", "x": {"y": 1, "y": 2}}', "line 1: `y` comes twice"),
    ("p.jsonl", '{"caption": ["a"]}', "line 1: `caption` is a list, but the caption is text"),
    ("p.jsonl", '{"caption": null, "id": 1}', "line 1: `caption` is null, but"),
    ("p.jsonl", '{"prompt": 3}', "line 1: `prompt` is a number"),
    ("p.jsonl", '{"caption": "a", "id": [1]}', "line 1: `id` is a list, but text or a number is expected"),
    ("p.jsonl", '{"caption": "a", "tag": true}', "line 1: `tag` is true or false, but text"),
    ("p.jsonl", '{"prompt": "a", "text": "b"}', "line 1: which field is the caption, prompt or text\\? Say so: data.caption = "),
    ("p.jsonl", "[1, 2", "p.jsonl: not JSON"),
    ("p.jsonl", '{"caption": "a"}{"caption": "b"}', "line 1: not JSON .Extra data"),
    ("p.jsonl", '{"caption": "a", "x": {"\\udfff": 1}}', "line 1: .udfff alone is half of a character"),
    ("p.jsonl", '{"caption": "a", "x": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}", "line 1: nested deeper than 64 levels"),
    ("p.json", '{"prompts": ["a"]}', "p.json is an object with prompts: give an array of objects"),
    ("p.json", '"a"', "p.json is text: give an array"),
    ("p.json", '[{"prompt": "a"}, 7]', "entry 2: a number, but an object"),
    ("p.json", '[{"prompt": "a"},\n]', "p.json: not JSON .*line 2"),
    ("p.jsonl", b'{"caption": "a"}\n{"caption": "caf\xe9"}', "is not text in UTF-8: byte 33, in line 2. Save it as UTF-8"),
    ("p.txt", "a b".encode("utf-16-le"), "holds NUL bytes, the first at character 1"),
    ("p.txt", b"\xff\xfea\x00\x00\xd8", "is not text in UTF-16-LE: byte 4"),
    ("p.csv", "prompt,category\na, b,c\n", "line 2: 3 cells, but there are 2 columns .prompt, category."),
    ("p.csv", 'prompt\n"a\nb\n', "line 2: unexpected end of data; is a quote missing\\?"),
    ("p.csv", "prompt,prompt\na,b\n", "line 1: the column `prompt` comes twice"),
    ("p.csv", "a red circle\na blue square\n", "line 2: no field for the caption: it has a red circle"),
    ("p.csv", "id,prompt\n1,\n", "line 2: no field for the caption: it has id"),
    ("p.csv", "prompt\n", "holds no prompts"),
    ("p.txt", "\n \n", "holds no prompts"),
    ("p.json", "[]", "holds no prompts"),
    ("p.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:30], "cannot be unpacked .*: it was cut or damaged"),
    ("p.jsonl.gz", gzip.compress(b"", mtime=0), "holds no prompts"),
    ("p.txt", files.CAPTIONS[0].encode() + b"\0", "holds NUL bytes"),
    ("p.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "is a Git LFS pointer"),
    ("p.csv", "<!DOCTYPE html>\n<html></html>", "is a web page"),
    ("p.csv", b"PK\x03\x04rest", "is a zip archive or a spreadsheet"),
    ("p.jsonl", b"PAR1....PAR1", "is a Parquet file: give it a name that ends in .parquet"),
    ("p.toml", "a = 1", "what kind of file is it\\? Give it a name that ends in .jsonl"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "told"), WRONG)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, name: str, content: str | bytes, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_prompts(given(tmp_path, name, content), "data.train")


def test_the_recipe_names_the_field_of_the_caption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = '{"caption": "short", "long": "a long one", "text": "c"}\n'
    train = given(tmp_path, "train.jsonl", both)
    heldout = given(tmp_path, "heldout.csv", "Prompt,Tag\na cow,animals\n")
    prompts, held = load_prompt_sets(Data(train=train, heldout=heldout, caption="long"))
    assert prompts.sample()[0].caption == "a long one"
    assert prompts.sample()[0].extra == {"long": "a long one", "text": "c"}
    assert held[0].caption == "a cow"
    told = capsys.readouterr().err.splitlines()
    assert told == ["data.heldout: captions from `Prompt`, categories from `Tag`", "data.train: captions from `long`"]
    with pytest.raises(
        UserError, match=r"data.caption = 'lang': no prompt has such a field; there are Prompt, Tag, caption"
    ):
        load_prompt_sets(Data(train=train, heldout=heldout, caption="lang"))


def test_repeats_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = given(tmp_path, "p.txt", "a cat\na dog\na cat\na cat\n")
    assert captions(path) == ("a cat", "a dog")
    assert (
        f"2 of 4 prompts of data.train repeat an earlier one, with its id or, without ids, its caption, and are left out: {path}, line 3"
        in capsys.readouterr().err
    )


def test_one_caption_under_two_ids_is_two_prompts(tmp_path: Path) -> None:
    path = given(tmp_path, "p.csv", "id,caption\n1,a cat\n2,a cat\n")
    assert [prompt.id for prompt in load_prompts(path, "k")] == ["1", "2"]


def mutated(content: bytes, random_: random.Random) -> bytes:
    """The content with some bytes changed, cut, doubled or moved."""
    data = bytearray(content)
    for _ in range(random_.randint(1, 4)):
        at, end = sorted(random_.randrange(len(data) + 1) for _ in range(2))
        kind = random_.randrange(4)
        if kind == 0:
            data[at:at] = random_.randbytes(random_.randint(1, 4))
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = data[at:end]
        else:
            data[at : at + 1] = random_.choice(
                [b'"', b"\\", b"{", b"[", b"\n", b"\r", b"\0", b"\xff", b"\xd8", b",", b"\t"]
            )
    return bytes(data)


@pytest.mark.parametrize("ending", [".txt", ".csv", ".tsv", ".json", ".jsonl", ".jsonl.gz", ""])
def test_nothing_but_a_users_mistake_comes_of_any_bytes(tmp_path: Path, ending: str) -> None:
    random_ = random.Random(ending)
    seeds = [
        content if isinstance(content, bytes) else content.encode()
        for content in [*OTHERS.values(), *files.READ.values()]
    ]
    read = 0
    for number in range(150):
        content = mutated(random_.choice(seeds), random_) if number % 10 else random_.randbytes(random_.randrange(200))
        path = given(tmp_path, f"p{ending}", content)
        try:
            load_prompts(path, "data.train")
            read += 1
        except UserError:
            continue
    assert 0 < read < 150


def test_a_records_place_is_where_it_begins(tmp_path: Path) -> None:
    path = given(tmp_path, "p.csv", 'prompt,note\na,"two\nlines"\n\nb,c\n')
    assert [where.rpartition(", ")[2] for where, _ in read_records(path)] == ["line 2", "line 5"]

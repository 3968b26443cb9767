"""Plain text: every token but a file's first is a label once, whatever the tokenizer, and identity is content."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from raykd import tokens
from raykd.data import Dataset, Text, View, tokenizers
from raykd.data.tokenizers import Bytes, Characters, Vocabulary
from raykd.identity import fingerprint

WORDS = {"[UNK]": 0, "the": 1, "quick": 2, "brown": 3, "fox": 4, "jumps": 7}


def write(folder: Path, **files: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / f"{name}.txt").write_bytes(data)
    return folder


def vocabulary(folder: Path) -> Path:
    """A tokenizer.json of whole words, written by the library."""
    library = pytest.importorskip("tokenizers")
    made = library.Tokenizer(library.models.WordLevel(WORDS, unk_token="[UNK]"))
    made.pre_tokenizer = library.pre_tokenizers.Whitespace()
    made.enable_truncation(2)
    made.enable_padding(length=10)
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return folder


def everything(source: Text) -> tuple[torch.Tensor, torch.Tensor]:
    rows = source.load()
    places = np.arange(len(rows))
    return rows.inputs(places), rows.labels_at(places)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("size", [2, 3, 7, 8, 9, 15, 16, 100])
def test_every_token_but_a_files_first_is_a_label_once(length: int, size: int, tmp_path: Path) -> None:
    drawn = np.random.default_rng(size).integers(0, 256, (2, size), dtype=np.uint8)
    write(tmp_path, a=drawn[0].tobytes(), b=drawn[1].tobytes())
    inputs_N2L, labels_NL = everything(Text(str(tmp_path), length))
    asked_NL = tokens.asked(inputs_N2L)
    assert labels_NL[asked_NL].tolist() == [*drawn[0][1:], *drawn[1][1:]]
    assert tokens.tokens(inputs_N2L)[asked_NL].tolist() == [*drawn[0][:-1], *drawn[1][:-1]]
    assert torch.equal(tokens.tokens(inputs_N2L) == tokens.NOTHING, ~asked_NL)
    assert len(inputs_N2L) == 2 * -(-(size - 1) // length)


def test_within_a_row_a_label_is_the_next_input_and_the_end_is_at_its_end(tmp_path: Path) -> None:
    source = Text(str(write(tmp_path, a="abcdefg")), 4)
    inputs_N2L, labels_NL = everything(source)
    assert [source.decode(row) for row in tokens.tokens(inputs_N2L)] == ["abcd", "ef"]
    assert tokens.tokens(inputs_N2L)[1].tolist() == [ord("e"), ord("f"), -1, -1]
    assert tokens.asked(inputs_N2L)[1].tolist() == [True, True, False, False]
    assert bytes(labels_NL[0].tolist()) == b"bcde"
    assert bytes(labels_NL[1, :2].tolist()) == b"fg"


def test_files_of_no_or_one_token_have_no_rows(tmp_path: Path) -> None:
    write(tmp_path, a="", b="x", c="yz", d="")
    inputs_N2L, labels_NL = everything(Text(str(tmp_path), 4))
    assert (len(inputs_N2L), labels_NL[0, 0].item()) == (1, ord("z"))
    with pytest.raises(ValueError, match="no two tokens"):
        Text((str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))).read()


def test_rows_are_numbered_over_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "z", a="aaaa")
    write(tmp_path / "y", b="bbbb")
    expected = None
    for files in (
        str(tmp_path),
        (str(tmp_path / "y"), str(tmp_path / "z" / "a.txt")),
        f"{tmp_path}/*/*.txt",
        (f"{tmp_path}/z/*", f"{tmp_path}/**/b.txt", str(tmp_path / "y" / "b.txt")),
    ):
        source = Text(files, 3)
        assert [source.decode(row) for row in tokens.tokens(everything(source)[0])] == ["aaa", "bbb"]
        assert source.load().ids.tolist() == [0, 1]
        expected = expected or fingerprint(source)
        assert fingerprint(source) == expected


def test_a_folder_stands_for_its_txt_files_at_any_depth(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "er [1]", a="abc")
    (tmp_path / "notes.md").write_text("not these")
    assert [path.name for path in Text(str(tmp_path)).paths()] == ["a.txt"]
    assert [path.name for path in Text(str(tmp_path / "deep" / "er [1]")).paths()] == ["a.txt"]
    assert [path.name for path in Text(str(tmp_path / "*.md")).paths()] == ["notes.md"]


def test_characters_are_numbered_in_the_order_of_the_alphabet(tmp_path: Path) -> None:
    source = Text(str(write(tmp_path, a="añ€𝄞", b="ba")), 8, "characters")
    assert source.characters == "abñ€𝄞"
    assert (source.classes, source.vocabulary) == (5, 5)
    inputs_N2L, labels_NL = everything(source)
    assert tokens.tokens(inputs_N2L)[0, :3].tolist() == [0, 2, 3]
    assert source.decode(labels_NL[0, :3]) == "ñ€𝄞"


def test_a_test_source_takes_the_alphabet_of_its_train_source(tmp_path: Path) -> None:
    train = Text(str(write(tmp_path / "train", a="abcd" * 30)), 4, "characters")
    test = Text(str(write(tmp_path / "test", a="dddcc")), 4, "characters", train.characters)
    Dataset(train, test).check()
    assert tokens.tokens(everything(test)[0])[0].tolist() == [3, 3, 3, 2]
    assert fingerprint(test) != fingerprint(dataclasses.replace(test, alphabet=""))
    strange = Text(str(write(tmp_path / "strange", a="abXd")), 4, "characters", train.characters)
    with pytest.raises(ValueError, match=r"a\.txt' has 'X' at character 2"):
        strange.load()


def test_a_vocabulary_reads_whole_files_without_what_is_added_or_cut(tmp_path: Path) -> None:
    words = "the quick brown fox jumps the zebra"
    folder = vocabulary(tmp_path / "words")
    here = write(tmp_path / "text", a=words)
    source = Text(str(here), 4, str(folder))
    assert source.classes == max(WORDS.values()) + 1
    _, labels_NL = everything(source)
    assert labels_NL[tokens.asked(everything(source)[0])].tolist() == [2, 3, 4, 7, 1, 0]
    assert source.decode([1, 4, -1]) == "the fox"
    assert set(source.libraries()) == {"tokenizers"}
    assert fingerprint(source) == fingerprint(Text(str(here), 4, str(folder / "tokenizer.json")))
    moved = vocabulary(tmp_path / "elsewhere")
    assert fingerprint(source) == fingerprint(Text(str(here), 4, str(moved)))
    file = moved / "tokenizer.json"
    file.write_text(file.read_text().replace('"fox"', '"cat"'))
    assert fingerprint(source) != fingerprint(Text(str(here), 4, str(moved)))


@pytest.mark.parametrize("tokenizer", ["bytes", "characters"])
def test_what_is_encoded_is_decoded(tokenizer: str, tmp_path: Path) -> None:
    words = "naïve — 日本語 \r\n\t end"
    path = write(tmp_path, a=words) / "a.txt"
    made = Bytes() if tokenizer == "bytes" else Characters(words)
    assert made.decode(made.encode(path).tolist()) == words


def test_tokens_lie_in_the_fewest_bytes_that_hold_them(tmp_path: Path) -> None:
    path = write(tmp_path, a="ab") / "a.txt"
    many = "".join(map(chr, range(32, 32 + 300)))
    assert Bytes().encode(path).dtype == np.uint8
    assert Characters("abc").encode(path).dtype == np.uint8
    assert Characters(many).encode(path).dtype == np.uint16
    assert Characters(many[:256]).encode(path).dtype == np.uint8


def test_identity_is_what_the_files_and_the_tokenizer_hold(tmp_path: Path) -> None:
    one = Text(str(write(tmp_path / "one", a="abc", b="de")), 4)
    same = Text(str(write(tmp_path / "two", a="abc", b="de")), 4)
    assert fingerprint(one) == fingerprint(same)
    others = [
        Text(str(write(tmp_path / "three", a="abc", b="dE")), 4),
        Text(str(write(tmp_path / "four", a="abcd", b="e")), 4),
        dataclasses.replace(one, length=5),
        dataclasses.replace(one, tokenizer="characters"),
    ]
    assert len({fingerprint(source) for source in (one, *others)}) == 5
    (tmp_path / "two" / "b.txt").write_text("fg")
    assert fingerprint(one) != fingerprint(same)
    assert "f" in same.decode(tokens.tokens(everything(same)[0])[1])


def test_views_pick_the_labels_of_what_is_asked_and_splits_share_no_row(tmp_path: Path) -> None:
    source = Text(str(write(tmp_path, a=bytes(range(256)) * 3)), 10)
    dataset = Dataset(source)
    dataset.check()
    ids = [row for name in ("train", "validation", "test") for row in dataset.split(name).ids]  # type: ignore[arg-type]
    assert sorted(ids) == list(range(len(source.load())))
    sample = View(dataset).batch(np.arange(5), np.zeros(5, np.int64))
    inputs_M = tokens.tokens(sample.inputs_B)[tokens.asked(sample.inputs_B)]
    assert torch.equal(sample.labels_B, (inputs_M + 1) % 256)


def test_it_travels_as_names_of_files(tmp_path: Path) -> None:
    source = Text(str(write(tmp_path, a="abc" * 10_000)), 4)
    source.load()
    assert len(pickle.dumps(source)) < 500


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: Text(()), "no files"),
        (lambda folder: Text(str(folder), 0), "length=0"),
        (lambda folder: Text(str(folder), alphabet="abc"), "an alphabet and tokenizer='bytes'"),
        (lambda folder: Text(str(folder / "none.txt")).load(), "no file at '.*none.txt'"),
        (lambda folder: Text(str(folder / "*.md")).load(), r"no file at '.*\*.md'"),
        (lambda folder: Text(str(folder / "empty")).load(), "no file at '.*empty': a folder with .txt"),
        (lambda folder: Text(str(folder), 4, "characters").load(), r"latin\.txt' is no utf-8 at byte 2"),
        (lambda folder: Text(str(folder), 4, str(folder / "words.json")).load(), "no file '.*words.json'"),
        (lambda folder: Text(str(folder), 4, str(folder / "latin.txt")).load(), "latin.txt' is no tokenizer"),
        (lambda folder: Characters(""), "an alphabet of 0 characters"),
        (lambda folder: Characters("".join(map(chr, range(5000)))), "an alphabet of 5000 characters: 1 to 4096"),
    ],
)
def test_a_mistake_is_one_line(make, words: str, tmp_path: Path) -> None:
    if "is no tokenizer" in words:
        pytest.importorskip("tokenizers")
    write(tmp_path, latin="ab\xe9cd".encode("latin-1"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=words) as caught:
        make(tmp_path)
    assert "\n" not in str(caught.value)


def test_without_the_library_a_vocabulary_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    tokenizers._load.cache_clear()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"pip install 'raykd\[hf\]'"):
        _ = Vocabulary(str(tmp_path)).size

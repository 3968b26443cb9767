"""Language models of `transformers`: logits, taps, and the way from a folder to a teacher, to a student, and back."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

pytest.importorskip("transformers")
import transformers
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from raykd import AdamW, Budget, Constant, Dataset, Distill, Pretrained, Stage, View, tokens
from raykd.data import Text
from raykd.identity import canonical, fingerprint
from raykd.methods.extraction import extracted
from raykd.methods.kl import KL
from raykd.models import GPT, HuggingFace, size
from raykd.models.huggingface import _names, export, imported
from raykd.models.weights import digest, load, load_into, save
from raykd.rebuild import known, rebuild
from raykd.runtime import Display, Local
from raykd.storage import Storage

ENDS = {"bos_token_id": 0, "eos_token_id": 0}
GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 50, "n_positions": 12, **ENDS}
BERT = {
    "model_type": "bert", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64,
    "vocab_size": 50, "max_position_embeddings": 12,
}  # fmt: skip
LLAMA = {**BERT, "model_type": "llama", **ENDS}
NEOX = {**LLAMA, "model_type": "gpt_neox"}
OPT = {
    "model_type": "opt", "num_hidden_layers": 2, "hidden_size": 32, "word_embed_proj_dim": 32, "num_attention_heads": 2,
    "ffn_dim": 64, "vocab_size": 50, "max_position_embeddings": 12, **ENDS,
}  # fmt: skip
DISTIL = {
    "model_type": "distilbert", "n_layers": 2, "dim": 32, "n_heads": 2, "hidden_dim": 64, "vocab_size": 50,
    "max_position_embeddings": 12,
}  # fmt: skip
SHAPE = (2, 8)
ZOO = [
    HuggingFace(GPT2, shape=SHAPE),
    HuggingFace(LLAMA, shape=SHAPE),
    HuggingFace(NEOX, shape=SHAPE),
    HuggingFace(OPT, shape=SHAPE),
    HuggingFace(BERT, "masked", shape=SHAPE),
    HuggingFace(DISTIL, "masked", shape=SHAPE),
]
every = pytest.mark.parametrize("architecture", ZOO, ids=lambda each: each.config["model_type"])


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def library(architecture: HuggingFace, seed: int = 0) -> nn.Module:
    """The library's own model, which raykd never touched."""
    config = transformers.AutoConfig.for_model(**architecture.config)
    auto = AutoModelForCausalLM if architecture.kind == "causal" else AutoModelForMaskedLM
    torch.manual_seed(seed)
    return auto.from_config(config).eval()


def saved(architecture: HuggingFace, folder: Path, seed: int = 0) -> nn.Module:
    model = library(architecture, seed)
    model.save_pretrained(folder)
    return model


def loaded(architecture: HuggingFace, folder: Path) -> nn.Module:
    network = architecture.build().eval()
    if architecture.config["model_type"] == "gpt_neox":  # its files have names of older times
        imported(folder, folder / "ours")
        folder = folder / "ours"
    load_into(network, str(folder / "model.safetensors"))
    return network


def sentences(*lengths: int, seed: int = 0, vocabulary: int = 50) -> torch.Tensor:
    """Rows of tokens, all of them asked. [B, 2, 8]"""
    draw = torch.Generator().manual_seed(seed)
    tokens_BL = torch.randint(1, vocabulary, (len(lengths), 8), generator=draw)
    tokens_BL[torch.arange(8) >= torch.tensor(lengths)[:, None]] = tokens.NOTHING
    return tokens.pack(tokens_BL, tokens_BL >= 0)


@every
def test_its_logits_are_those_of_the_library_with_the_weights_of_the_folder(
    architecture: HuggingFace, tmp_path: Path
) -> None:
    model = saved(architecture, tmp_path)
    read = HuggingFace.from_pretrained(tmp_path, architecture.kind, shape=SHAPE)
    inputs_B2L = sentences(8, 8, 8)
    with torch.no_grad():
        expected = model(input_ids=tokens.tokens(inputs_B2L)).logits.flatten(0, 1)
        found = loaded(read, tmp_path)(inputs_B2L)["logits"]
    torch.testing.assert_close(found, expected)


@every
def test_what_stands_behind_the_end_is_seen_by_nobody(architecture: HuggingFace) -> None:
    torch.manual_seed(1)
    network = architecture.build().eval()
    inputs_B2L = sentences(8, 3, 5, 1)
    taps = architecture.taps()
    with torch.no_grad():
        together = network(inputs_B2L, taps)
        alone = [network.body(inputs_B2L[i : i + 1, 0, :length])[0] for i, length in enumerate((8, 3, 5, 1))]
    torch.testing.assert_close(together["logits"], torch.cat(alone), rtol=1e-4, atol=1e-5)


@every
def test_a_causal_position_sees_those_before_it_and_a_masked_one_sees_all(architecture: HuggingFace) -> None:
    torch.manual_seed(1)
    network = architecture.build().eval()
    inputs_B2L = sentences(8)
    changed_B2L = inputs_B2L.clone()
    changed_B2L[0, 0, 5] = 1 + changed_B2L[0, 0, 5] % 48
    with torch.no_grad():
        moved_L = (network(inputs_B2L)["logits"] - network(changed_B2L)["logits"]).abs().amax(1)
    first = 5 if architecture.kind == "causal" else 0
    assert (moved_L[:first] < 1e-6).all()
    assert (moved_L[first:] > 1e-6).all()


@every
def test_taps_are_what_enters_the_first_block_and_what_each_hands_on(architecture: HuggingFace, tmp_path: Path) -> None:
    model = saved(architecture, tmp_path)
    network = loaded(architecture, tmp_path)
    assert architecture.taps() == ("embedding", "block1", "block2", "pooled", "logits")
    inputs_B2L = sentences(8, 8)
    with torch.no_grad():
        states = model(input_ids=tokens.tokens(inputs_B2L), output_hidden_states=True).hidden_states
        found = network(inputs_B2L, architecture.taps())
    for tap, state in zip(("embedding", "block1"), states, strict=False):  # some libraries norm the last one
        torch.testing.assert_close(found[tap], state.flatten(0, 1))
    for tap in architecture.taps():
        assert architecture.tap_shape(tap) == tuple(found[tap].shape[1:])
    head = network.body.get_submodule(architecture.classifier)  # type: ignore[arg-type]
    torch.testing.assert_close(head(found["pooled"]), found["logits"])
    rest = network.body(tokens.tokens(inputs_B2L))
    assert torch.equal(rest.flatten(0, 1), found["logits"])


@every
def test_a_block_is_what_all_that_follows_it_reads(architecture: HuggingFace) -> None:
    first, second = (set(architecture.unread(tap)) for tap in ("block1", "block2"))
    assert second < first
    whole = {name for name, _ in architecture.blueprint().body.named_parameters()}
    assert set(architecture.unread("embedding")) < whole
    assert not architecture.unread("logits")
    assert any(path.endswith(".1") for path in architecture.beyond("block1"))


@every
def test_a_pass_that_goes_no_further_than_a_tap_leaves_nothing_behind(architecture: HuggingFace) -> None:
    torch.manual_seed(2)
    network, inputs_B2L = architecture.build().eval(), sentences(8, 4)
    with torch.no_grad():
        before = network(inputs_B2L, ("block1", "logits"))
        early = network(inputs_B2L, ("block1",))
        after = network(inputs_B2L)
    assert torch.equal(before["block1"], early["block1"])
    assert torch.equal(before["logits"], after["logits"])
    assert size(architecture, ("block1",)).flops < size(architecture).flops


@every
def test_its_size_is_known_without_any_weights(architecture: HuggingFace) -> None:
    body = architecture.blueprint().body
    assert {weight.device.type for weight in body.parameters()} == {"meta"}
    assert size(architecture).parameters == sum(weight.numel() for weight in library(architecture).parameters())
    assert size(architecture).flops > 0


@every
def test_a_network_that_is_written_down_is_the_same_for_the_library_and_for_us(
    architecture: HuggingFace, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    network, inputs_B2L = architecture.build().eval(), sentences(8, 8)
    export(network, tmp_path / "out")
    again = HuggingFace.from_pretrained(tmp_path / "out", architecture.kind, shape=SHAPE)
    assert again == architecture
    assert fingerprint(again) == fingerprint(architecture)
    auto = AutoModelForCausalLM if architecture.kind == "causal" else AutoModelForMaskedLM
    model, report = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        expected = network(inputs_B2L)["logits"]
        assert torch.equal(loaded(again, tmp_path / "out")(inputs_B2L)["logits"], expected)
        theirs = model.eval()(input_ids=tokens.tokens(inputs_B2L)).logits.flatten(0, 1)
    torch.testing.assert_close(theirs, expected)


def test_the_other_names_of_a_tied_tensor_may_be_missing_in_a_file(tmp_path: Path) -> None:
    architecture = ZOO[0]
    saved(architecture, tmp_path)
    file = str(tmp_path / "model.safetensors")
    assert len({"lm_head.weight", "transformer.wte.weight"} & load_file(file).keys()) == 1
    whole = load(file, architecture)
    assert torch.equal(whole["lm_head.weight"], whole["transformer.wte.weight"])
    save(str(tmp_path / "both.safetensors"), whole, {})
    save_file({k: v for k, v in whole.items() if k != "transformer.wte.weight"}, tmp_path / "head.safetensors")
    for name in ("both", "head"):
        assert digest(load(str(tmp_path / f"{name}.safetensors"), architecture)) == digest(whole)
    neither = {k: v for k, v in whole.items() if k not in ("lm_head.weight", "transformer.wte.weight")}
    save_file(neither, tmp_path / "neither.safetensors")
    with pytest.raises(ValueError, match="is missing; 2 tensors differ"):
        load(str(tmp_path / "neither.safetensors"), architecture)


def test_shards_and_names_of_the_bare_model_are_imported(tmp_path: Path) -> None:
    architecture, inputs_B2L = ZOO[0], sentences(8)
    model = library(architecture)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    model.transformer.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="does not fit gpt2-2x32"):
        load(str(tmp_path / "bare" / "model.safetensors"), architecture)
    for name in ("shards", "bare"):
        imported(tmp_path / name, tmp_path / f"{name}-ours")
        found = HuggingFace.from_pretrained(tmp_path / f"{name}-ours", shape=SHAPE)
        with torch.no_grad():
            expected = model(input_ids=tokens.tokens(inputs_B2L)).logits[0]
            torch.testing.assert_close(loaded(found, tmp_path / f"{name}-ours")(inputs_B2L)["logits"], expected)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text(json.dumps(GPT2))
    with pytest.raises(ValueError, match="no weights in"):
        imported(tmp_path / "empty", tmp_path / "nothing")


def test_identity_is_the_config_without_places_versions_and_number_formats(tmp_path: Path) -> None:
    architecture = ZOO[0]
    saved(architecture, tmp_path / "one")
    saved(architecture, tmp_path / "two", seed=1)
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    more = {
        "_name_or_path": "/else/where",
        "transformers_version": "4.0.0",
        "torch_dtype": "bfloat16",
        "auto_map": {"AutoModel": "evil.Model"},
    }
    (tmp_path / "two" / "config.json").write_text(json.dumps(dict(reversed((config | more).items()))))
    one, two = (HuggingFace.from_pretrained(tmp_path / name, shape=SHAPE) for name in ("one", "two"))
    assert one == two
    assert fingerprint(one) == fingerprint(two)
    assert "/else/where" not in json.dumps(canonical(two))
    assert {weight.dtype for weight in two.build().parameters()} == {torch.float32}
    others = [
        HuggingFace(GPT2 | {"n_layer": 3}, shape=SHAPE),
        HuggingFace(GPT2, shape=(2, 9)),
        HuggingFace(GPT2, classes=49, shape=SHAPE),
    ]
    assert len({fingerprint(each) for each in (architecture, *others)}) == 4


@every
def test_it_travels_is_copied_and_is_rebuilt_from_its_key(architecture: HuggingFace) -> None:
    for twin in (pickle.loads(pickle.dumps(architecture)), copy.deepcopy(architecture)):
        assert (twin, hash(twin)) == (architecture, hash(architecture))
    found = rebuild(json.loads(json.dumps(canonical(architecture))), known(Path()))
    assert fingerprint(found) == fingerprint(architecture)
    torch.manual_seed(0)
    network = architecture.build().eval()
    twin, inputs_B2L = copy.deepcopy(network), sentences(8, 2)
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
        assert twin(inputs_B2L, ("block1",))["block1"].abs().sum() > 0
        assert network(inputs_B2L, ("block2",))["block2"].isfinite().all()


def test_fewer_classes_than_tokens_are_the_first_ones() -> None:
    whole, some = HuggingFace(GPT2, shape=SHAPE), HuggingFace(GPT2, classes=40, shape=SHAPE)
    torch.manual_seed(0)
    large, small = whole.build().eval(), some.build().eval()
    small.body.load_state_dict(large.body.state_dict())
    with torch.no_grad():
        assert torch.equal(small(sentences(8))["logits"], large(sentences(8))["logits"][:, :40])
    assert (some.vocabulary, some.classes) == (50, 40)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    file = tmp_path_factory.mktemp("text") / "a.txt"
    file.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    return Text(str(file), length=8, tokenizer="characters")


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Of networks so small a second thread takes longer to wake than to help, where others work too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_a_model_of_a_folder_teaches_a_student_that_is_saved_and_read_again(text: Text, tmp_path: Path) -> None:
    classes = text.classes
    config = GPT2 | {"vocab_size": classes}
    teacher = HuggingFace(config | {"n_layer": 4}, shape=SHAPE)
    saved(teacher, tmp_path / "teacher")
    read = HuggingFace.from_pretrained(tmp_path / "teacher", shape=SHAPE)
    given = Pretrained(read, str(tmp_path / "teacher" / "model.safetensors"), label="teacher")
    objective = 1.0 * Distill(KL(), temperature=Constant(2.0))
    student = HuggingFace(config | {"n_embd": 16, "n_layer": 2}, shape=SHAPE)
    budget = Budget(3, batch_size=16, optimiser=AdamW(1e-3))
    view = View(Dataset(text))
    stage = Stage(student, objective, view, {"teacher": given}, budget=budget, label="student")
    ours = Stage(GPT(depth=1, heads=2, head_width=8, vocabulary=classes, classes=classes, shape=SHAPE), objective, view,
                 {"teacher": given}, budget=Budget(1, batch_size=16, optimiser=AdamW(1e-3)), cache="dense_f16")  # fmt: skip
    stages = [stage, ours, extracted(stage, ("block1", "block2"), epochs=(1, 1, 1))]
    trained, other, taken = Local(Storage(tmp_path / "storage"), Display(quiet=True), any_teacher=True).run(*stages)
    assert other.metrics["val_nll"] > 0
    assert str(taken.stage.init) == "student/block2"
    export(trained.network, tmp_path / "out")
    again = HuggingFace.from_pretrained(tmp_path / "out", shape=SHAPE)
    assert again == student
    inputs_B2L = sentences(8, 8, 5, vocabulary=classes)
    with torch.no_grad():
        expected = trained.network(inputs_B2L)["logits"]
        assert torch.equal(loaded(again, tmp_path / "out")(inputs_B2L)["logits"], expected)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
        theirs = model(input_ids=tokens.tokens(inputs_B2L)[:2]).logits.flatten(0, 1)
    torch.testing.assert_close(theirs, expected[:16])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: HuggingFace({"model_type": "gpt22"}), "no causal model_type 'gpt22': it has .*gpt2"),
        (lambda: HuggingFace({}), "no causal model_type 'None'"),
        (lambda: HuggingFace(GPT2, "masked"), "no masked model_type 'gpt2'"),
        (lambda: HuggingFace(GPT2, "seq2seq"), "kind='seq2seq': 'causal' or 'masked'"),  # type: ignore[arg-type]
        (lambda: HuggingFace(BERT), "bert looks ahead: kind='masked'"),
        (lambda: HuggingFace(GPT2, shape=(2, 13)), r"shape=\(2, 13\): at most \(2, 12\)"),
        (lambda: HuggingFace(GPT2, shape=(1, 8, 8)), r"shape=\(1, 8, 8\): it reads tokens"),
        (lambda: HuggingFace(GPT2, shape=SHAPE, classes=51), "classes=51: 1 to 50"),
        (lambda: HuggingFace(LLAMA | {"hidden_size": "wide"}), "transformers refuses the config"),
        (lambda: HuggingFace.from_pretrained("/nowhere"), "no config.json in '/nowhere'"),
        (lambda: export(GPT().build(), "/nowhere"), "gpt2x4x16 is a GPT: a HuggingFace network"),
    ],
)
def test_a_mistake_is_one_line_when_it_is_written(write, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        write()
    assert "\n" not in str(caught.value)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.models.auto", None)
    _names.cache_clear()
    with pytest.raises(ValueError, match=r"pip install 'raykd\[hf\]'"):
        HuggingFace(GPT2, shape=SHAPE)
    monkeypatch.undo()
    _names.cache_clear()


def test_importing_raykd_does_not_import_the_library() -> None:
    import subprocess

    code = "import sys, raykd, raykd.cli; print([m for m in ('transformers', 'tokenizers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"

"""Language models of Hugging Face's `transformers`, from a folder on disk: the extra `hf`.

    folder: config.json ──► HuggingFace.from_pretrained(folder) ──► body: the library's own model, its own names of weights
            model.safetensors ──► Pretrained(architecture, f"{folder}/model.safetensors")
            ◄── export(network, folder)                             imported(source, folder): shards, names of older times

A model is its config, without places, versions and number formats: nothing is downloaded, no code of a folder is run, weights
are float32. Its body gets tokens and answers at every position; places behind the end are seen by nobody.

Shapes: B batch, L positions, C classes, D width
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from raykd.identity import canonical
from raykd.models import weights
from raykd.models.architecture import Architecture
from raykd.models.network import Network

Kind = Literal["causal", "masked"]
ABOUT = ("architectures", "attn_implementation", "auto_map", "dtype", "torch_dtype", "transformers_version")
"""What a config.json says besides what the network is. `auto_map` names code."""
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class HuggingFace(Architecture):
    """A causal or masked language model: `HuggingFace({"model_type": "gpt2", "n_layer": 2})`, or `from_pretrained(folder)`.

    Taps: embedding, which enters the first block; block1.., what each hands on; pooled, logits, and every module path.

    Raises `ValueError` without `transformers`, for a kind of model that it does not have, a masked model as a causal one, more
    positions than the model has, and more classes than tokens.
    """

    config: Mapping[str, object] = field(hash=False)
    """As in config.json; what is `ABOUT` the model, and names that begin with "_", are left out."""
    kind: Kind = "causal"
    classes: int = field(default=0, kw_only=True)
    """The first so many tokens are what it chooses from; 0: all."""
    shape: tuple[int, ...] = field(default=(2, 64), kw_only=True)
    """(2, L): at most L positions."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", _plain(self.config))
        canonical(self.config, "HuggingFace.config")
        self._check_kind()
        if not self.classes:
            object.__setattr__(self, "classes", self.vocabulary)
        super().__post_init__()
        if len(self.shape) != 2 or self.shape[0] != 2:
            raise ValueError(f"HuggingFace shape={self.shape}: it reads tokens, (2, L)")
        if self.classes > self.vocabulary:
            raise ValueError(f"{self} classes={self.classes}: 1 to {self.vocabulary}, its tokens, would be right")
        positions = getattr(self.built, "max_position_embeddings", None) or self.shape[1]
        if self.shape[1] > positions:
            raise ValueError(f"{self} shape={self.shape}: at most (2, {positions}), its positions, would be right")

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, kind: Kind = "causal", *, shape: tuple[int, ...] = (2, 64), classes: int = 0
    ) -> HuggingFace:
        """The model that the folder's config.json describes. Raises `ValueError` where there is none or it is no JSON."""
        file = Path(folder) / CONFIG
        if not file.is_file():
            raise ValueError(f"no {CONFIG} in {str(folder)!r}: a folder that `save_pretrained` wrote would be right")
        try:
            config = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(
                f"{str(file)!r} is no JSON ({error}): what `save_pretrained` wrote would be right"
            ) from error
        return cls(config, kind, shape=shape, classes=classes)

    def __str__(self) -> str:
        return f"{self.config['model_type']}-{self.depth}x{getattr(self.built, 'hidden_size', '?')}"

    @property
    def vocabulary(self) -> int:
        """That of the config."""
        return int(self.built.vocab_size)

    @property
    def depth(self) -> int:
        """How many blocks the config says; 0 where it says none."""
        return int(getattr(self.built, "num_hidden_layers", 0))

    def body(self) -> nn.Module:
        """The library's model, whose blocks show what they get and hand on."""
        made: nn.Module = self.auto.from_config(self.built, dtype=torch.float32, trust_remote_code=False)
        made.register_forward_pre_hook(_read, with_kwargs=True)
        made.register_forward_hook(partial(_answer, self.classes))
        blocks = _blocks(made, self.depth)
        if blocks is not None:
            first, *_ = each = list(made.get_submodule(blocks).children())
            first.add_module("entered", nn.Identity())
            first.register_forward_pre_hook(_enter, with_kwargs=True)
            for block in each:
                block.add_module("handed_on", nn.Identity())
                block.register_forward_hook(_hand_on)
        return made

    def stages(self) -> dict[str, str]:
        """The embedding and the blocks; none where the model has no list of blocks: module paths serve."""
        return dict(_stages(self))

    def _check_kind(self) -> None:
        names = _names()
        if self.kind not in get_args(Kind):
            raise ValueError(f"HuggingFace kind={self.kind!r}: {' or '.join(map(repr, get_args(Kind)))} would be right")
        family = str(self.config.get("model_type"))
        if family not in names[self.kind]:
            close = difflib.get_close_matches(family, names[self.kind], n=3) or [
                "bert" if self.kind == "masked" else "gpt2"
            ]
            raise ValueError(
                f"transformers has no {self.kind} model_type {family!r}: it has {', '.join(close)} and others"
            )
        if self.kind == "causal" and family in names["masked"] and not self.config.get("is_decoder"):
            raise ValueError(f"{family} looks ahead: kind='masked', or is_decoder in its config, would be right")

    @property
    def built(self) -> Any:
        """The library's config object."""
        return _config(json.dumps(self.config, sort_keys=True))

    @property
    def auto(self) -> Any:
        """What makes such models in the library."""
        import transformers

        return transformers.AutoModelForCausalLM if self.kind == "causal" else transformers.AutoModelForMaskedLM


def export(network: Network, folder: str | Path) -> None:
    """Write config.json and model.safetensors, which `from_pretrained` of the library and of `HuggingFace` read.

    Raises `ValueError` for a network that is no model of `transformers`.
    """
    architecture = network.architecture
    if not isinstance(architecture, HuggingFace):
        raise ValueError(f"{architecture} is a {type(architecture).__name__}: a HuggingFace network would be right")
    _write(architecture, network.body, Path(folder))


def imported(source: str | Path, folder: str | Path, kind: Kind = "causal") -> None:
    """Read weights as the library does, in shards or with names of older times, and write them as `export` does.

    Raises `ValueError` like `from_pretrained`, and where the library cannot read safetensors in `source`.
    """
    architecture = HuggingFace.from_pretrained(source, kind, shape=(2, 1))
    place, settings = str(source), {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    try:
        model = architecture.auto.from_pretrained(place, config=architecture.built, dtype=torch.float32, **settings)
    except OSError as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"no weights in {place!r} ({reason}): safetensors would be right") from error
    _write(architecture, model, Path(folder))


def _write(architecture: HuggingFace, model: nn.Module, folder: Path) -> None:
    named = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    # of what is tied the library expects one
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name in named}
    config = {**architecture.config, "architectures": [type(model).__name__], "dtype": "float32"}
    weights.save(str(folder / WEIGHTS), tensors, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _plain(config: Mapping[str, object]) -> dict[str, object]:
    """A config, and those inside it, without what is no content."""
    return {
        name: _plain(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in ABOUT and not name.startswith("_")
    }


def _read(body: nn.Module, args: tuple[Tensor], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
    """What the library calls tokens [B, L], of which those below 0 are none."""
    (tokens_BL,) = args
    # on the meta device nobody knows which are there; and without a cache the library would look for several rows in one
    there_BL = None if tokens_BL.is_meta else (tokens_BL >= 0).long()
    said = {"input_ids": tokens_BL.clamp(min=0), "attention_mask": there_BL, "return_dict": True}
    return (), {**kwargs, **said, **({"use_cache": tokens_BL.is_meta} if body.can_generate() else {})}  # type: ignore[operator]


def _answer(classes: int, _: nn.Module, __: object, output: Any) -> Tensor:
    logits_BLC: Tensor = output.logits
    return logits_BLC if logits_BLC.shape[2] == classes else logits_BLC[:, :, :classes]


def _enter(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    block.entered(args[0] if args else kwargs["hidden_states"])  # type: ignore[operator]


def _hand_on(block: nn.Module, _: object, output: Any) -> Any:
    """The output, its tensor through a module of its own, where it can be watched: some blocks hand on a tuple."""
    if isinstance(output, tuple):
        return block.handed_on(output[0]), *output[1:]  # type: ignore[operator]
    return block.handed_on(output)  # type: ignore[operator]


def _blocks(model: nn.Module, depth: int) -> str | None:
    """The path of the list of blocks: the first with as many modules as the config says."""
    lists = (path for path, each in model.named_modules() if isinstance(each, nn.ModuleList) and len(each) == depth)
    return next(lists, None) if depth else None


@lru_cache(maxsize=128)
def _stages(architecture: HuggingFace) -> tuple[tuple[str, str], ...]:
    path = _blocks(architecture.blueprint().body, architecture.depth)
    if path is None:
        return ()
    blocks = ((f"block{i + 1}", f"{path}.{i}.handed_on") for i in range(architecture.depth))
    return ("embedding", f"{path}.0.entered"), *blocks


@lru_cache(maxsize=128)
def _config(content: str) -> Any:
    """The library's config object of some JSON. Shared: it is read, never changed."""
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(**json.loads(content))
    except Exception as error:  # its checks raise errors of their own kinds
        raise ValueError(f"transformers refuses the config: {' '.join(str(error).split())[:160]}") from error


@lru_cache(maxsize=1)
def _names() -> dict[str, tuple[str, ...]]:
    """Types of models by kind. Raises `ValueError` without the library."""
    try:
        from transformers.models.auto import modeling_auto
    except ImportError as error:
        raise ValueError(
            "a HuggingFace network needs the library transformers, and it is not there: pip install 'raykd[hf]'"
        ) from error
    causal, masked = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return {"causal": tuple(causal), "masked": tuple(masked)}

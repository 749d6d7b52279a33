"""Students: made from scratch with a tokenizer of their own, or loaded from the Hugging Face Hub or a folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from distill.encode import Encoder
from distill.spec import StudentSpec
from schemas.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import torch

ABOUT = "student.json"
"""What a saved student is, beside its weights."""
WHOLE = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors")
"""What a whole student's weights are saved as, and adapters."""


@dataclass(frozen=True)
class StudentModel:
    """A language model with its tokenizer, on its device.

    Attributes:
        model: a transformers (or peft) model; its weights change as it is trained.
        encoder: texts to ids and back.
        is_seq2seq: encoder and decoder, or a decoder alone.
        spec: what it was made of.
        body, head: of a decoder whose logits are ``head(body(ids))``: the head can be computed at some places alone.
    """

    model: Any
    encoder: Encoder
    is_seq2seq: bool
    spec: StudentSpec
    body: Any = None
    head: Any = None

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        found: torch.device = next(self.model.parameters()).device
        return found

    @property
    def parameters(self) -> int:
        """How many weights it has, adapters included."""
        return sum(p.numel() for p in self.model.parameters())

    def trainable(self) -> dict[str, torch.Tensor]:
        """The weights that training changes, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def save(self, folder: Path, objective: str) -> None:
        """Write weights (safetensors), tokenizer and `ABOUT`; with adapters, the adapters alone.

        An earlier student in the folder is replaced.

        Raises:
            InputError: adapters would replace the model that they are on.
        """
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        check_folder(self.spec, folder)
        for pattern in WHOLE if self.spec.lora_rank else ADAPTERS:
            for file in folder.glob(pattern):
                file.unlink()
        self.model.save_pretrained(folder)
        self.encoder.tokenizer.save_pretrained(folder)
        about = {"spec": self.spec.model_dump(), "objective": objective}
        (folder / ABOUT).write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2))


def check_folder(spec: StudentSpec, folder: Path) -> None:
    """Refuse to save adapters in the folder of the model that they are on, which they need.

    Raises:
        InputError: it is that folder.
    """
    if spec.lora_rank and Path(spec.model).resolve() == folder.resolve():
        raise InputError(f"{folder} holds the model that the adapters are on: save the student in another folder")


def make_student(spec: StudentSpec, texts: Iterable[str] = (), seed: int = 0) -> StudentModel:
    """A student as it is before any training.

    Args:
        spec: which.
        texts: what a tiny student's tokenizer is trained on; others bring theirs.
        seed: of weights that are made, a tiny student's or adapters'.

    Raises:
        InputError: there is no such model, or it cannot be a student (no end token, no start of the decoder, ...).
        MissingExtraError: transformers (or peft) is not installed.
    """
    _check_extra()
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        if spec.is_tiny:
            from distill.tiny import tiny_model, tiny_tokenizer

            tokenizer = tiny_tokenizer(texts, spec.vocabulary)
            model = tiny_model(spec, tokenizer)
        else:
            model, tokenizer = _pretrained(spec)
        if spec.lora_rank:
            model = _with_adapters(model, spec)
    return student_of(model.to(best_device()), tokenizer, spec)


def load_student(folder: str | Path) -> tuple[StudentModel, str]:
    """A student that `StudentModel.save` wrote, and the objective that it was trained for.

    Raises:
        InputError: there is none in the folder.
    """
    _check_extra()
    folder = Path(folder)
    try:
        about = orjson.loads((folder / ABOUT).read_bytes())
        spec = StudentSpec.model_validate(about["spec"])
    except (OSError, ValueError, KeyError):
        raise InputError(f"{folder} holds no student: train one with  raffinate distill ... --out {folder}") from None
    if spec.lora_rank:
        from peft import PeftModel

        base, tokenizer = _pretrained(spec)
        with _peft_warnings_hidden():
            model = PeftModel.from_pretrained(base, folder)
    else:
        model, tokenizer = _pretrained(spec.model_copy(update={"model": str(folder)}))
    return student_of(model.to(best_device()), tokenizer, spec), str(about["objective"])


def _check_extra() -> None:
    from importlib.util import find_spec

    if not all(find_spec(name) for name in ("torch", "transformers", "accelerate")):
        raise MissingExtraError("training a student", "distill")


def best_device() -> torch.device:
    """This process's GPU if there are any, else the CPU.

    Raises:
        InputError: more processes were started than there are GPUs.
    """
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise InputError(f"no GPU is left for process {number + 1}: start one for each GPU ({there})")
    return torch.device("cuda", number)


def student_of(model: Any, tokenizer: Any, spec: StudentSpec) -> StudentModel:
    """A transformers model and its tokenizer as a student; for a model that was made elsewhere.

    Raises:
        InputError: it has no end token, or no token that its decoder starts with.
    """
    config = model.config
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"the tokenizer of {spec.model} has no end token, so a student would not know where to stop: set "
            "eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked, so which token it is makes no difference
    is_seq2seq = bool(config.is_encoder_decoder)
    if is_seq2seq and config.decoder_start_token_id is None:
        raise InputError(
            f"{spec.model} does not say which token its decoder starts with: set decoder_start_token_id in its "
            "config.json"
        )
    _whole(model).generation_config = _plain_writing(model, tokenizer)
    encoder = Encoder(
        tokenizer, is_seq2seq=is_seq2seq, max_input=spec.max_input, max_target=spec.max_target, chat=spec.chat
    )
    body, head = (None, None) if is_seq2seq else _body_and_head(model)
    return StudentModel(model, encoder, is_seq2seq, spec, body, head)


def _whole(model: Any) -> Any:
    """The transformers model itself, where adapters are around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _plain_writing(model: Any, tokenizer: Any) -> Any:
    """Greedy: transformers fills what a call leaves open from the model's own (beams, penalties, a least length)."""
    from transformers import GenerationConfig

    make: Any = GenerationConfig
    start = model.config.decoder_start_token_id if model.config.is_encoder_decoder else None
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    return make(do_sample=False, pad_token_id=pad, eos_token_id=end, decoder_start_token_id=start)


def _body_and_head(model: Any) -> tuple[Any, Any]:
    """The two parts of a decoder if its logits are the one after the other; none where it does more (caps, scales)."""
    import torch

    whole = _whole(model)
    body, head = whole.base_model, whole.get_output_embeddings()
    ids = torch.arange(4, device=next(model.parameters()).device)[None]
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        apart = head(body(input_ids=ids).last_hidden_state) if head is not None and body is not whole else None
    model.train(training)
    return (body, head) if apart is not None and torch.equal(logits, apart) else (None, None)


def _pretrained(spec: StudentSpec) -> tuple[Any, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    frozen_in_bf16 = spec.lora_rank and torch.cuda.is_available()
    dtype = torch.bfloat16 if frozen_in_bf16 else torch.float32  # what is trained stays in float32
    where = _revision(spec)
    with _told_if_missing(spec, "cannot load a language model from"):
        config = AutoConfig.from_pretrained(spec.model, **where)
        family = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = family.from_pretrained(spec.model, dtype=dtype, **where)
        tokenizer = AutoTokenizer.from_pretrained(spec.model, **where)
    embeddings: Any = model.get_input_embeddings()
    if len(tokenizer) > embeddings.num_embeddings:
        raise InputError(f"the tokenizer of {spec.model} knows more tokens than the model: they do not belong together")
    return model, tokenizer


def check_student(spec: StudentSpec) -> None:
    """Refuse a model that is nowhere to be had, before a training looks for it; what is not installed is told there.

    Raises:
        InputError: its configuration cannot be read.
    """
    from importlib.util import find_spec

    if spec.is_tiny or find_spec("transformers") is None:
        return
    from transformers import AutoConfig

    with _told_if_missing(spec, "there is no student"):
        AutoConfig.from_pretrained(spec.model, **_revision(spec))


def _revision(spec: StudentSpec) -> dict[str, str]:
    """Which version of a model on the Hub; a folder has but one."""
    return {"revision": spec.revision} if spec.revision and not Path(spec.model).is_dir() else {}


@contextmanager
def _told_if_missing(spec: StudentSpec, what: str) -> Iterator[None]:
    """Say in a sentence, which begins with ``what``, that a model cannot be read."""
    try:
        yield
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(
            f"{what} '{spec.model}': give tiny-seq2seq, tiny-causal, an id on the Hugging Face Hub (and a connection), "
            f"or the folder of one  ({why})"
        ) from None


def _with_adapters(model: Any, spec: StudentSpec) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtraError("low-rank adapters (lora_rank)", "distill") from None
    kind = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    rank = spec.lora_rank or 8
    settings: Any = LoraConfig(task_type=kind, r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with _peft_warnings_hidden():
        return get_peft_model(model, settings)


@contextmanager
def _peft_warnings_hidden() -> Iterator[None]:
    """Peft asks transformers for attributes by names that it has deprecated; a user can do nothing about it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield

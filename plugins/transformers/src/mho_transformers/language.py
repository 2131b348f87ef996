"""Language models and encoders of Hugging Face as tasks: `mho run hf:FOLDER pcm.standard --text FILE`."""

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from mho_lab import Score, Task
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from mho.ground import MhoError

try:
    import transformers
except ImportError as error:
    raise MhoError("tasks of hf: need transformers: pip install 'mho-transformers[trainers]'") from error

Batch = dict[str, Tensor]


def task_of(argument: str) -> Task:
    """The task of `FOLDER@TEXT`: a model that transformers can load from a local folder (or a GGUF file), and a text file.

    A model with a head for the next token is a `LanguageModel`, any other an `Encoder`. Raises `MhoError` where there is no
    such model or text.
    """
    folder, _, text = argument.partition("@")
    place = Path(folder)
    if not place.exists():
        raise MhoError(f"hf:{folder}: no such folder or GGUF file; models are never downloaded")
    if not text:
        raise MhoError(f"hf:{folder} needs a text to be judged on: --text FILE, or hf:{folder}@FILE")
    if not Path(text).is_file():
        raise MhoError(f"no such text file: {text}")
    return (LanguageModel if _has_next_token(place) else Encoder)(place, Path(text))


def load(what: str, kind: Any, place: Path, **options: Any) -> Any:
    """What a class of transformers makes of a folder or of a GGUF file. Raises `MhoError` where it cannot."""
    folder, found = place, [place] if place.is_file() else sorted(place.glob("*.gguf"))
    if len(found) == 1 and not (place / "config.json").exists():
        folder, options["gguf_file"] = found[0].parent, found[0].name
    try:
        return kind.from_pretrained(str(folder), **options)
    except Exception as e:
        raise MhoError(f"transformers cannot load a {what} from {place}: {type(e).__name__}: {e}") from e


class Pretrained(Task):
    """A pretrained model of a folder, judged on the second half of a text; calibration and training see the first half."""

    kind: ClassVar[Any]  # the class of transformers that loads the model
    epochs = 0
    hwa_epochs = 0
    hwa_lr = 1e-5
    lean: bool | str = "codes"  # one number for every weight, as many as the model
    remedies = 0.0  # deployed with what `mho.calibrate(method="auto")` chooses, without a digital multiply-add
    window: int = 256  # tokens
    batch_size: int = 1
    windows: int = 2  # to be judged on
    calibrated: int = 4  # batches for calibration

    def __init__(self, folder: Path, text: Path) -> None:
        self.folder, self.text = folder, text
        self.name = f"hf-{folder.stem}"

    @cached_property
    def digital(self) -> nn.Module:
        """The model as it is, in fp32, which scores compare with."""
        model: nn.Module = load("model", self.kind, self.folder, dtype=torch.float32)
        return model.eval()

    @cached_property
    def tokenizer(self) -> Any:
        """Of the model."""
        return load("tokenizer", transformers.AutoTokenizer, self.folder)

    def model(self) -> nn.Module:
        return copy.deepcopy(self.digital)

    def optimizer(self, params: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """That of the analog foundation models."""
        return torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)

    def calibration_batches(self) -> Iterator[Batch]:
        return islice(self.train_batches(0), self.calibrated)

    def fingerprint(self) -> str:
        files = [f for f in (self.folder, *self.folder.glob("*")) if f.is_file()]
        about = f"{self.folder.resolve()} {sum(f.stat().st_size for f in files)} {self.data_version}"
        return hashlib.sha256(about.encode() + self.text.read_bytes()).hexdigest()[:16]

    @cached_property
    def halves(self) -> tuple[list[Batch], list[Batch]]:
        """Batches of the first and of the second half of the text."""
        found = list(self.cut(self.text.read_text(errors="replace")))
        if len(found) < 2:
            raise MhoError(f"{self.text} is too short: it gives {len(found)} windows of {self.window} tokens, of at least 2")
        return found[: len(found) // 2], found[len(found) // 2 :]

    def cut(self, text: str) -> Iterator[Batch]:
        """A text as single windows [1, token]; in batches they are padded with 0 where they differ in length."""
        raise NotImplementedError

    def train_batches(self, seed: int) -> Iterator[Batch]:
        first = self.halves[0]
        for part in torch.randperm(len(first), generator=torch.Generator().manual_seed(seed)).split(self.batch_size):
            windows = [first[i] for i in part]
            yield {k: pad_sequence([w[k][0] for w in windows], batch_first=True) for k in windows[0]}

    @cached_property
    def judged(self) -> list[Batch]:
        """The windows that scores are taken on, spread over the second half."""
        held = self.halves[1]
        return held[:: max(1, len(held) // self.windows)][: self.windows]


class LanguageModel(Pretrained):
    """Next-token prediction. The score is the share of tokens that the model has first; beside it perplexity and loss in nats,
    the divergence KL(digital || model) of the next-token distribution in nats, and the share of tokens of a greedy
    continuation with key-value cache that are those of the digital model."""

    kind = transformers.AutoModelForCausalLM
    prompt: int = 32  # tokens that a continuation starts from
    continued: int = 16  # tokens that it has

    def cut(self, text: str) -> Iterator[Batch]:
        tokens = torch.tensor(self.tokenizer(text)["input_ids"])
        for part in tokens.split(self.window):
            if len(part) == self.window:
                yield {"input_ids": part[None]}

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits [window, token, word]."""
        return torch.as_tensor(model(**batch).logits)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())

    @torch.no_grad()
    def score(self, model: nn.Module) -> Score:
        nll = kl = first = 0.0
        for batch, soft in zip(self.judged, self._soft):
            words, target = self.predict(model, batch)[:, :-1].log_softmax(-1), batch["input_ids"][:, 1:]
            nll -= float(words.gather(-1, target[..., None]).mean())
            first += float((words.argmax(-1) == target).double().mean())
            kl += divergence(soft, words)
        nll, kl, first = (v / len(self.judged) for v in (nll, kl, first))
        same = float((self._continue(model) == self._continued).double().mean())
        return Score(first, nll=nll, perplexity=float(torch.tensor(nll).exp()), kl=kl, continuation=same)

    @cached_property
    def _soft(self) -> list[Tensor]:
        return [self.predict(self.digital, b)[:, :-1].log_softmax(-1) for b in self.judged]

    @cached_property
    def _continued(self) -> Tensor:
        return self._continue(self.digital)

    def _continue(self, model: Any) -> Tensor:
        start = self.judged[0]["input_ids"][:, : self.prompt]
        made = model.generate(
            input_ids=start, attention_mask=torch.ones_like(start), max_new_tokens=self.continued,
            min_new_tokens=self.continued, do_sample=False, use_cache=True, pad_token_id=0,
        )  # fmt: skip
        return torch.as_tensor(made[:, self.prompt :])


class Encoder(Pretrained):
    """Embeddings of the lines of a text, mean over tokens of the last hidden states: the score is the mean cosine between what
    a model and the digital one make of a line (0 where it is negative)."""

    kind = transformers.AutoModel
    window = 64
    windows = 64

    def cut(self, text: str) -> Iterator[Batch]:
        for line in filter(None, map(str.strip, text.splitlines())):
            yield dict(self.tokenizer(line, truncation=True, max_length=self.window, return_tensors="pt"))

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """Embeddings [line, feature] of length 1."""
        mask = batch["attention_mask"][..., None]
        return F.normalize((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1), dim=-1)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            target = self.predict(self.digital, batch)
        return (1 - (outputs * target).sum(-1)).mean()

    @torch.no_grad()
    def score(self, model: nn.Module) -> Score:
        cosines = [float((self.predict(model, b) * t).sum()) for b, t in zip(self.judged, self._targets)]
        return Score(max(0.0, sum(cosines) / len(cosines)))

    @cached_property
    def _targets(self) -> list[Tensor]:
        return [self.predict(self.digital, b) for b in self.judged]


def divergence(p: Tensor, q: Tensor) -> float:
    """KL(p || q) in nats, the mean over tokens, of log-probabilities [..., word]."""
    return float(F.kl_div(q.flatten(0, -2), p.flatten(0, -2), reduction="batchmean", log_target=True))


@torch.no_grad()
def own_text(model: Any, windows: int, length: int, seed: int = 0, *, temperature: float = 1.0, top_k: int = 50) -> Tensor:
    """Text that a model writes itself, tokens [window, length] that start with its beginning-of-text token: what analog
    foundation models are distilled on (Büchel et al. 2025). One draw for a seed; top_k=0 is the whole distribution."""
    start = getattr(model.config, "bos_token_id", None)
    if start is None:
        raise MhoError("this model has no token that begins a text (config.bos_token_id)")
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((windows, 1), start)
    new, cache = tokens, None
    while tokens.shape[1] < length:
        out = model(input_ids=new, past_key_values=cache, use_cache=True)
        logits, cache = out.logits[:, -1].float() / temperature, out.past_key_values
        if top_k:
            logits = logits.masked_fill(logits < logits.topk(min(top_k, logits.shape[-1])).values[:, -1:], -torch.inf)
        new = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        tokens = torch.cat([tokens, new], 1)
    return tokens


def _has_next_token(place: Path) -> bool:
    """Whether the model says that it has a head for the next token."""
    file = place / "config.json"
    if not file.exists():
        return True  # GGUF files hold language models
    architectures = json.loads(file.read_text()).get("architectures") or []
    return any(a.endswith(("ForCausalLM", "LMHeadModel")) for a in architectures)

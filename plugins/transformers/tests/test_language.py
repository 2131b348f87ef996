"""Language models and encoders of a folder as tasks: scores against what torch computes, verbs, text of their own."""

import json
import math

import pytest
import torch

import mho

pytest.importorskip("transformers", reason="transformers is not installed")
from click.testing import CliRunner
from mho_lab.run.task import load_task
from mho_transformers.language import divergence, own_text
from torch.nn import functional as F
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mho.cli import main

WORDS = ["the", "a", "cat", "dog", "sees", "hears", "of", "and", "in", "on", "tree", "house", "runs", "sleeps", "big", "small"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny language model, a tiny encoder, and a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    place = tmp_path_factory.mktemp("hf")
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<s>", "[PAD]", *WORDS])}, unk_token="<s>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", pad_token="[PAD]", unk_token="<s>")
    torch.manual_seed(0)
    size = {"vocab_size": 18, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    for name, model in (
        ("llama", LlamaForCausalLM(LlamaConfig(**size, num_key_value_heads=2, bos_token_id=0, eos_token_id=1))),
        ("bert", BertModel(BertConfig(**size))),
    ):
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(4 if p.dim() > 1 else 1)
        model.save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    g = torch.Generator().manual_seed(1)
    lines = [" ".join(WORDS[i] for i in torch.randint(0, 16, (24,), generator=g).tolist()) for _ in range(120)]
    (place / "text.txt").write_text("\n".join(lines))
    return place


def task(folders, name):
    return load_task(f"hf:{folders / name}@{folders / 'text.txt'}")


def test_scores_of_a_language_model_are_those_of_torch(folders):
    t = task(folders, "llama")
    model = t.digital
    found = t.checked_score(model)
    nll, first = [], []
    for batch in t.judged:
        ids = batch["input_ids"]
        with torch.no_grad():
            logits = model(ids).logits[0, :-1]
        nll.append(float(F.cross_entropy(logits, ids[0, 1:])))
        first.append(float((logits.argmax(-1) == ids[0, 1:]).double().mean()))
    assert float(found) == pytest.approx(sum(first) / len(first))
    assert found.extra["nll"] == pytest.approx(sum(nll) / len(nll), rel=1e-5)
    assert found.extra["perplexity"] == pytest.approx(math.exp(found.extra["nll"]), rel=1e-5)
    assert found.extra["kl"] == pytest.approx(0, abs=1e-6) and found.extra["continuation"] == 1
    assert [b["input_ids"].shape for b in t.judged] == [(1, 256)] * 2


def test_the_divergence_is_that_of_two_distributions():
    p = torch.tensor([[[0.5, 0.25, 0.25]], [[1 / 3, 1 / 3, 1 / 3]]]).log()
    q = torch.tensor([[[0.25, 0.5, 0.25]], [[1 / 3, 1 / 3, 1 / 3]]]).log()
    assert divergence(p, q) == pytest.approx((0.5 * math.log(2) - 0.25 * math.log(2)) / 2)


def test_kl_follows_the_power_of_injected_noise(folders):
    """Noise on the outputs of all layers: twice the amplitude (6 dB) is four times the divergence, as long as it is small"""
    t = task(folders, "llama")
    t.window, t.continued = 128, 1
    found = []
    for std in (0.01, 0.02):
        net = mho.to_analog(
            t.model(),
            mho.Hardware.from_yaml(f"""
mho: 1
default: t
tiles:
  t:
    nonidealities: [{{kind: circuit.output_noise, std: {std}}}]
"""),
        ).eval()
        with torch.no_grad():
            found.append(t.score(net).extra["kl"])
    assert found[1] / found[0] == pytest.approx(4, rel=0.2)


@pytest.mark.slow
def test_an_encoder_is_compared_with_itself(folders):
    t = task(folders, "bert")
    assert float(t.checked_score(t.digital)) == pytest.approx(1)
    net = mho.to_analog(t.model(), "pcm.standard").eval()
    mho.calibrate(net, t.calibration_batches(), forward=t.predict, method="auto")
    scores = mho.evaluate(net, t.checked_score, ["1 h"], 2).scores
    assert all(0.3 < s[0] < 1 for s in scores)


@pytest.mark.slow
def test_run_calibrate_and_evaluate_take_folders(folders, tmp_path):
    def mho_(*arguments):
        result = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    folder, text = f"hf:{folders / 'llama'}", folders / "text.txt"
    small = ["--set", "times=[1 h]", "--text", text]
    out = mho_("run", folder, "pcm.standard", *small, "--chips", 2, "--out", tmp_path / "run", "--no-report")
    assert "perplexity" in out and "kl" in out and "remedies chosen" in out and "hwa" not in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["task"] == "hf-llama" and [v["name"] for v in summary["variants"]] == ["direct"]
    out = mho_("calibrate", folder, "pcm.standard", *small, "--budget", 0.05, "--out", tmp_path / "cal")
    assert "lm_head" in out and "% of the multiply-adds digital" in out
    kept = tmp_path / "cal"
    out = mho_("evaluate", kept / "calibrated.safetensors", folder, kept / "hardware.yaml", "--text", text, "--chips", 2)
    assert "2 chips" in out


@pytest.mark.slow
def test_a_report_is_made_of_a_run_without_training(folders, tmp_path):
    pytest.importorskip("matplotlib")
    from mho_lab.report import write_report
    from mho_lab.run.job import Job

    Job(task(folders, "bert"), mho.load("pcm.standard", set=["times=[1 h]"]), tmp_path / "run", chips=2, progress=False).run()
    assert "direct" in write_report(tmp_path / "run").read_text()


def test_own_text_follows_the_distribution_of_the_model(folders):
    """The second token: frequencies of 4,000 windows against softmax of the logits, chi^2 with 17 degrees of freedom"""
    model = task(folders, "llama").digital
    tokens = own_text(model, 4000, 2, seed=3, top_k=0)
    with torch.no_grad():
        p = model(torch.zeros(1, 1, dtype=torch.long)).logits[0, -1].double().softmax(-1)
    counts = torch.bincount(tokens[:, 1], minlength=18).double()
    assert float(((counts - 4000 * p) ** 2 / (4000 * p)).sum()) < 57.0  # 1e-5 of chi^2(17) lies above 56.5
    assert torch.equal(own_text(model, 3, 9, seed=3), own_text(model, 3, 9, seed=3))
    few = own_text(model, 500, 2, seed=3, top_k=2)[:, 1].unique()
    assert set(few.tolist()) == set(p.topk(2).indices.tolist())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:nowhere@x", "no such folder or GGUF file; models are never downloaded"),
        ("hf:{llama}", "needs a text to be judged on"),
        ("hf:{llama}@nothing.txt", "no such text file"),
        ("strange:thing", "no plugin makes tasks of strange"),
    ],
)
def test_what_is_missing_is_said(folders, name, message):
    with pytest.raises(mho.MhoError, match=message):
        load_task(name.format(llama=folders / "llama"))

"""Trainers that other people wrote: Hugging Face's and Lightning's, unmodified; AMP, accumulation, checkpointing."""

import importlib.util
import os

import pytest
import torch
from mho_kit import Bench, Witness
from torch import nn

import mho
from mho.use import matrices


def hardware(**training):
    """Tiles of 16 rows whose programming is noisy, and a recipe that clips and ramps."""
    inject = {"ramp": "1 epochs", **training.pop("inject", {})}
    tile = {"rows": 16, "columns": 64, "dac": {"bits": 8, "range": "learned"}, "adc": {"bits": 8, "bound": 10.0}}
    return Bench().hardware(Witness(size=0.05), tile=tile, clip=0.5, inject=inject, **training)


def within(net):
    """Whether all weights are where the clip leaves them."""
    return all((w.abs() <= a.layout.spread(0.5 * a.gamma) * (1 + 1e-6)).all() for a, w in matrices(net))


# -- Hugging Face ---------------------------------------------------------------------------------------------
@pytest.fixture
def bert():
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=8, num_labels=2, hidden_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


class Words(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)
        ids = torch.randint(20, (8,), generator=g)
        return {"input_ids": ids, "labels": (ids[0] < 10).long()}


def trainer(net, folder, **options):
    from mho_transformers import AnalogCallback, DriftScore
    from transformers import Trainer, TrainingArguments

    args = TrainingArguments(
        str(folder), per_device_train_batch_size=8, max_steps=8, learning_rate=5e-2, save_strategy="steps", save_steps=4,
        report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy="no", seed=3, **options,
    )  # fmt: skip
    score = DriftScore(lambda n: float(n(**one(4)).logits.mean().sigmoid()), ["1 s", "1 h"], chips=2)
    return Trainer(model=net, args=args, train_dataset=Words(), eval_dataset=Words(), callbacks=[AnalogCallback(score)])


def one(n):
    items = [Words()[i] for i in range(n)]
    return {k: torch.stack([i[k] for i in items]) for k in items[0]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_hugging_face_trains_saves_resumes_and_gives_a_digital_model_back(bert, tmp_path):
    """R003-66, R003-68; a resumed training ends with the same bits as an uninterrupted one."""
    hw = hardware()
    whole = trainer(mho.to_analog(bert, hw), tmp_path / "a")
    whole.train()
    net = whole.model
    assert within(net)
    layer = net.bert.encoder.layer[0].attention.self.query
    assert type(layer).__name__ == "AnalogLinear" and layer.tiles.step.item() == 8 and not layer.tiles.is_attached

    metrics = whole.evaluate()
    assert {"drift/1 s", "drift/1 h"} <= metrics.keys() and 0 < metrics["drift/1 h"] < 1

    again = trainer(mho.to_analog(bert, hw), tmp_path / "a")
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    state = net.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in again.model.state_dict().items())

    from transformers import BertForSequenceClassification

    mho.to_digital(net).save_pretrained(tmp_path / "digital")
    plain, info = BertForSequenceClassification.from_pretrained(tmp_path / "digital", output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(plain.bert.encoder.layer[0].attention.self.query) is nn.Linear
    assert torch.equal(plain.bert.encoder.layer[0].attention.self.query.weight, layer.weight)


# -- Lightning ------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_lightning_trainer_clips_ramps_and_logs_drift(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    from mho_transformers import DriftScore
    from mho_transformers.lightning import AnalogCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = mho.to_analog(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), hardware())

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.5)

    torch.manual_seed(1)
    data = torch.utils.data.TensorDataset(torch.randn(32, 6), torch.randint(2, (32,)))
    module, x = Module(), torch.randn(4, 6)
    callback = AnalogCallback(DriftScore(lambda m: float(m.net(x).mean().sigmoid()), ["1 s", "1 day"], chips=2))
    fit = lightning.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[callback], logger=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, accumulate_grad_batches=2,
    )  # fmt: skip
    fit.fit(module, torch.utils.data.DataLoader(data, batch_size=8))
    assert within(module) and module.net[0].tiles.step.item() == 4  # 4 batches, two a step, 2 epochs
    assert {"drift/1 s", "drift/1 day"} <= fit.callback_metrics.keys()
    assert module.net[0].tiles.ramp == (0.0, 2.0) and not module.net[0].tiles.is_attached


# -- names ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("module", "package"), [("huggingface", "transformers"), ("lightning", "lightning")])
def test_the_adapters_are_names_of_mho_or_say_what_to_install(module, package):
    import mho_transformers

    assert mho.DriftScore is mho_transformers.DriftScore
    if importlib.util.find_spec(package) is None:
        with pytest.raises(mho.MhoError, match=f"pip install {package}"):
            getattr(mho_transformers, module)
        return
    assert getattr(mho, module) is getattr(mho_transformers, module)
    assert getattr(mho, module).AnalogCallback.__module__ == f"mho_transformers.{module}"


# -- any loop -------------------------------------------------------------------------------------------------
def network(**changes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    return mho.to_analog(model, hardware(**changes)).train()


@pytest.mark.parametrize("mode", ["through", "ste"])
def test_amp_trains_like_fp32(mode):
    """Inside autocast a tile computes in fp32 up to the ADC, so only digital operations lose digits."""
    results = []
    for amp in (False, True):
        net = network(backward=mode)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        mho.attach(optimizer, net, steps_per_epoch=4)
        torch.manual_seed(5)
        x, y = torch.randn(64, 12), torch.randint(3, (64,))
        for _ in range(6):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
        assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in net.parameters())
        results.append((loss.item(), net[0].weight.detach()))
    assert results[1][0] == pytest.approx(results[0][0], rel=0.05)
    assert torch.allclose(results[0][1], results[1][1], atol=0.02)


def test_a_network_in_bfloat16_trains_and_keeps_its_scales_in_fp32():
    net = network().bfloat16()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    mho.attach(optimizer, net, steps_per_epoch=4)
    nn.functional.cross_entropy(net(torch.randn(8, 12).bfloat16()).float(), torch.randint(3, (8,))).backward()
    optimizer.step()
    assert net[0].weight.dtype == torch.bfloat16 and net[0].tiles.gamma.dtype == torch.float32
    assert torch.isfinite(net[0].weight).all() and net[0].tiles.step.item() == 1


def test_micro_batches_of_accumulated_gradients_have_noise_of_their_own_and_are_one_step():
    net = network(inject={"scale": 3})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    mho.attach(optimizer, net, steps_per_epoch=1)
    x, keys = torch.randn(8, 12), []
    for part in x.split(4):
        net(part).square().mean().backward()
        keys.append(tuple(net[0].tiles.weight_key.tolist()))
    optimizer.step()
    assert len(set(keys)) == 2 and net[0].tiles.step.item() == 1

"""Small real models of transformers, made from a config, and what they learn; no network."""

import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    TrainingArguments,
)
from transformers.utils import logging

import stagegraph as sg
from stagegraph.trainers.huggingface import StagedTrainer, StagegraphCallback

logging.disable_progress_bar()

WORDS, LENGTH, ITEMS = 48, 6, 24

GROWS = """
{stagegraph: 1, name: grows, initial: small,
 metrics: {eval_loss: {goal: minimize, every: 3 steps}},
 stages: {
   small: {kind: train, transitions: [{target: grow, when: "elapsed(4 steps)"}]},
   grow: {kind: grow, actions: [{type: deepen, stack: STACK, add: 1}], next: warmup},
   warmup: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 5 steps}], next: large},
   large: {kind: train, duration: 5 steps, next: done},
   done: {kind: final}}}
"""


class Items(Dataset):
    """Sequences of words, each a function of its number."""

    def __init__(self, first=0, length=ITEMS, *, classes=None):
        made = torch.Generator().manual_seed(first)
        self.words = torch.randint(WORDS, (length, LENGTH), generator=made)
        self.labels = self.words if classes is None else self.words.sum(dim=1) % classes

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        return {"input_ids": self.words[index], "labels": self.labels[index]}


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=WORDS, n_positions=16, n_embd=16, n_layer=2, n_head=2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config), "transformer.h", {}


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, attention_dropout=0.1,
    )  # fmt: skip
    return LlamaForCausalLM(config), "model.layers", {}


def bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return BertForSequenceClassification(config), "bert.encoder.layer", {"classes": 3}


def graph(text=GROWS, stack="transformer.h"):
    return sg.load(text.replace("STACK", stack))


def arguments(folder, **given):
    usual = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "max_steps": 30,
        "learning_rate": 1e-2, "logging_steps": 2, "save_strategy": "no", "report_to": [],
        "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False, "seed": 3,
    }  # fmt: skip
    return TrainingArguments(**{**usual, **given})


def trainer(folder, text=GROWS, *, make=gpt2, kind=StagedTrainer, parts=None, **given):
    """A staged trainer of a small model, with a probe and an evaluation."""
    model, stack, data = make()
    about = {k: given.pop(k) for k in ("run", "monitor", "seed_of_engine") if k in given}
    beside = {k: given.pop(k) for k in tuple(given) if k in BESIDE}
    parts = {"probe": {"input_ids": Items(7).words[:4]}, **(parts or {}), **about}
    stages = StagegraphCallback(graph(text, stack), **parts)
    held_out = beside.pop("eval_dataset", Items(1, **data))
    return kind(
        model=model,
        args=arguments(folder, **given),
        train_dataset=Items(0, **data),
        eval_dataset=held_out,
        callbacks=[stages, *beside.pop("callbacks", ())],
        **beside,
    )


BESIDE = {
    "callbacks", "compute_metrics", "compute_loss_func", "eval_dataset", "model_init", "optimizers"
}  # fmt: skip


class Moves:
    """Hears of moves: step and stage."""

    def __init__(self, engine):
        self.seen = []
        engine.listen(self)

    def write(self, records):
        self.seen += [(r["step"], r["target"]) for r in records if r["type"] == "move"]

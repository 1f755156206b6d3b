"""LoRA on a small language model: `python train.py`, and the same after a kill. Nothing is downloaded."""

from datasets import Dataset
from datasets.table import InMemoryTable
from lightning import LightningModule, Trainer, seed_everything
from peft import LoraConfig, get_peft_model
from torch.optim import AdamW
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, LlamaConfig

import cairn

RUN = "runs/lora"


def sums() -> Dataset:
    """Return sums such as "12+ 7= 19" as bytes: columns `input_ids` and `labels`."""
    texts = [f"{a:2}+{b:2}={a + b:3}" for a in range(32) for b in range(32)]
    rows = [list(text.encode()) for text in texts]
    # `Dataset.from_dict` is shorter. Its fingerprint is a pickle of the table, which datasets 5.2 cannot make here.
    table = InMemoryTable.from_pydict({"input_ids": rows, "labels": rows})
    return Dataset(table, fingerprint="sums").with_format("torch")


def base_model():
    """Return the model that the adapter changes. In your project: `AutoModelForCausalLM.from_pretrained(NAME)`."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=128, max_position_embeddings=16, **sizes))


class Tuned(LightningModule):
    """A model of which only the adapter is trained, and only the adapter is saved."""

    def __init__(self, model) -> None:
        super().__init__()
        adapter = LoraConfig(r=8, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
        # `from_pretrained` returns a model in evaluation mode, and Lightning leaves the modes as they are.
        self.model = get_peft_model(model, adapter).train()
        self.strict_loading = False  # the base is not in the checkpoints: `base_model` makes the same one again

    def training_step(self, batch, batch_idx):
        return self._loss(batch, "train")

    def validation_step(self, batch, batch_idx):
        self._loss(batch, "val")

    def configure_optimizers(self):
        return AdamW([one for one in self.parameters() if one.requires_grad], 1e-2)

    def on_save_checkpoint(self, checkpoint):
        trained = {name for name, one in self.named_parameters() if one.requires_grad}
        checkpoint["state_dict"] = {name: one for name, one in checkpoint["state_dict"].items() if name in trained}

    def _loss(self, batch, stage):
        loss = self.model(**batch).loss
        self.log(f"{stage}/loss", loss, on_epoch=True, prog_bar=True)
        return loss


def main() -> None:
    """Train the adapter, and write the best one as PEFT reads it."""
    seed_everything(0)
    data = sums().train_test_split(test_size=0.125, seed=0)
    train_loader = cairn.DataLoader(data["train"], batch_size=32, shuffle=True)
    val_loader = DataLoader(data["test"], batch_size=128)
    checkpoints = cairn.Checkpointer(f"{RUN}/checkpoints", every=10, monitor="val/loss")
    trainer = Trainer(max_epochs=2, callbacks=[checkpoints], logger=cairn.CSVLogger(f"{RUN}/csv"), log_every_n_steps=5)
    tuned = Tuned(base_model())
    trainer.fit(tuned, train_loader, val_loader, ckpt_path=checkpoints.resume())
    trainer.validate(tuned, val_loader, ckpt_path="best")
    tuned.model.save_pretrained(f"{RUN}/adapter")


if __name__ == "__main__":
    main()

"""A GAN on 8x8 digits, with manual optimization: `python train.py`, and the same after a kill."""

import torch
from lightning import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as loss_of
from torch.utils.data import TensorDataset

import cairn

RUN = "runs/gan"
LATENT = 16


class GAN(LightningModule):
    """Two networks with an optimizer and a schedule each; the generator steps after each second batch.

    Nothing here saves or loads anything: the gradients that wait for the next step, both optimizers, both schedules and
    the random numbers are in each checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(
            nn.Linear(LATENT, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid()
        )
        self.discriminator = nn.Sequential(nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(128, 1))
        self.register_buffer("shown", torch.randn(8, LATENT))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        generator_optimizer, discriminator_optimizer = self.optimizers()
        fake = self.generator(torch.randn(len(real), LATENT, device=self.device))

        self.toggle_optimizer(discriminator_optimizer)
        of_real, of_fake = self.discriminator(real), self.discriminator(fake.detach())
        loss = loss_of(of_real, torch.ones_like(of_real)) + loss_of(of_fake, torch.zeros_like(of_fake))
        discriminator_optimizer.zero_grad()
        self.manual_backward(loss)
        discriminator_optimizer.step()
        self.untoggle_optimizer(discriminator_optimizer)
        self.log("discriminator/loss", loss, on_epoch=True, prog_bar=True)

        self.toggle_optimizer(generator_optimizer)
        of_fake = self.discriminator(fake)
        loss = loss_of(of_fake, torch.ones_like(of_fake))
        self.manual_backward(loss / 2)
        if batch_idx % 2 == 1:
            generator_optimizer.step()
            generator_optimizer.zero_grad()
        self.untoggle_optimizer(generator_optimizer)
        self.log("generator/loss", loss, on_epoch=True, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def configure_optimizers(self):
        parts = self.generator, self.discriminator
        optimizers = [torch.optim.Adam(part.parameters(), 1e-3, (0.5, 0.999)) for part in parts]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in optimizers]


def main() -> None:
    """Train, and print what the generator makes of eight points of its latent space."""
    seed_everything(0)
    digits = TensorDataset(torch.tensor(load_digits().data, dtype=torch.float32) / 16)
    loader = cairn.DataLoader(digits, batch_size=64, shuffle=True, drop_last=True)
    checkpoints = cairn.Checkpointer(f"{RUN}/checkpoints", every=7)  # after an odd number, gradients wait for a step
    logger = cairn.CSVLogger(f"{RUN}/csv")
    trainer = Trainer(max_epochs=4, callbacks=[checkpoints], logger=logger, log_every_n_steps=5)
    model = GAN()
    trainer.fit(model, loader, ckpt_path=checkpoints.resume())
    with torch.no_grad():
        pictures = model.eval().generator(model.shown).view(-1, 8, 8)
    for row in range(8):
        print("  ".join("".join(" .:*#"[int(4.99 * pixel)] for pixel in picture[row]) for picture in pictures))


if __name__ == "__main__":
    main()

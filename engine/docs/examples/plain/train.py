"""Train, or go on after a kill: `python train.py`."""

from lightning import Trainer, seed_everything
from spirals import Net, train_set, val_set
from torch.utils.data import DataLoader

import cairn

seed_everything(0)
checkpoints = cairn.Checkpointer("runs/spirals/checkpoints", every=20, monitor="val/loss")
trainer = Trainer(max_epochs=6, callbacks=[checkpoints], logger=cairn.CSVLogger("runs/spirals/csv"))
train_loader = cairn.DataLoader(train_set, batch_size=32, shuffle=True)
val_loader = DataLoader(val_set, batch_size=256)
trainer.fit(Net(), train_loader, val_loader, ckpt_path=checkpoints.resume())
trainer.validate(ckpt_path="best", dataloaders=val_loader)
print("best:", checkpoints.best.name, checkpoints.best.score)

"""How far training is, in lines, where the output is no terminal."""

import time
from pathlib import Path

from spaceevo.lit.module import Callback, Trainer
from spaceevo.terminal import clock, console, duration


class ProgressLines(Callback):
    """Tells epoch, step, loss and time left in a line from time to time; of several processes the first does."""

    def on_train_start(self, trainer: Trainer, *args: object) -> None:
        """Remember when training began, and at which step it goes on."""
        self.begun_s = time.monotonic()
        self.first_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        """Tell it, if it is time to."""
        done = trainer.global_step - self.first_step
        if not (trainer.is_global_zero and done and clock.is_due()):
            return
        steps = int(trainer.num_training_batches)
        seconds_a_step = (time.monotonic() - self.begun_s) / done
        left_s = seconds_a_step * ((trainer.max_epochs or 1) * steps - trainer.global_step)
        step = trainer.global_step - trainer.current_epoch * steps
        console.print(
            f"  {Path(trainer.default_root_dir).name}: epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, "
            f"step {step} of {steps}, loss {float(trainer.callback_metrics['loss']):.4g}, {duration(left_s)} left"
        )

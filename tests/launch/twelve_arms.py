"""A sweep of twelve short runs of which one fails. The others differ in nothing that is compiled: they compile once."""

from configs.ctc import segment


def get_config(argument="tiny"):
    config = segment.get_config(argument)
    config.train.steps, config.optimizer.warmup_steps = 3, 1
    config.train.evaluate_every = config.train.save_every = 3
    config.train.keep_latest = 1
    config.evaluation.contrasts = (1.0,)
    return config


def sweep(add):
    add("baseline")
    for size in (2, 5, 20, 40):
        add(f"size={size}", overrides={"representation.min_size": size})
    for prominence in (0.1, 0.2, 0.4):
        add(f"prominence={prominence}", overrides={"representation.prominence": prominence})
    for share in (0.0, 0.5, 1.0):
        add(f"foreground={share}", "tiny", {"data.foreground_probability": share})
    add("impossible", overrides={"mesh.space": 16})  # of one device

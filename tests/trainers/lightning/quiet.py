"""What Lightning 2.6 and torchdata 0.11 warn of whatever one does, on small data."""

OF_THE_HOST = (
    "'set_vital' is deprecated",
    "`isinstance.treespec, LeafSpec.` is deprecated",
    ".*does not have many workers",
    ".*smaller than the logging interval",
    "You're resuming from a checkpoint that ended",
    "You defined a `validation_step` but have no",
    "Be aware that when using `ckpt_path`, callbacks",
    ".*sampler has shuffling enabled",
    "Checkpoint directory .* exists",
    "Using ModelCheckpoint with manual",
    ".*Consider setting `persistent_workers=True`",
    "This process .* is multi-threaded, use of fork",
)

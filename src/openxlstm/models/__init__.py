"""Models composed of blocks: language model, sequence classifier, presets, and readers of other projects' checkpoints."""

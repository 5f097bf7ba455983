"""Train CLIP on finished runs or any WebDataset; the loop is `train.clip_trainer.fit`."""

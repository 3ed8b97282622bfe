"""Fine-tuning of a trained network on measurements alone; see `recon.finetuning.run.finetune`."""
